//! Rotary position embedding: the rotation. The angles are in `table.rs`.

mod table;

pub use table::{RopeError, RopeScaling, RopeTable, Yarn};

use super::Ctx;
use super::disjoint::rows_per_unit;
use crate::kernels::lanes::{self, LANES, LaneOp, Lanes};

#[cfg(test)]
mod tests;

/// Which two of the first `rot` dimensions of a head are rotated together as pair `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `2i` and `2i + 1`.
    Adjacent,
    /// `i` and `i + rot / 2`.
    Halves,
}

/// Rotates the pairs of the first `rot` dimensions of each head of `x` `[T, heads * head_dim]`, in place; `cos_sin` is
/// `[T, rot / 2, 2]` from [`RopeTable::fill`]. The other dimensions stay.
///
/// # Panics
/// If `heads` or `rot` is 0, `rot` is odd or greater than `head_dim`, or the lengths do not fit.
pub fn rotate(
    ctx: &Ctx<'_>,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    rot: usize,
    pairing: Pairing,
    cos_sin: &[f32],
) {
    assert!(rot > 0 && rot.is_multiple_of(2) && rot <= head_dim, "rot {rot} of head_dim {head_dim}");
    let width = heads * head_dim;
    assert!(width > 0, "no heads");
    assert_eq!(x.len() * rot, cos_sin.len() * width, "x and cos_sin are for different numbers of rows");
    let rows = rows_per_unit(x.len(), width);
    ctx.pool.run_chunks(x, rows * width, |unit, x| {
        let cos_sin = &cos_sin[unit * rows * rot..][..x.len() / width * rot];
        let rotation = Rotation { x, width, head_dim, rot, cos_sin };
        match pairing {
            Pairing::Adjacent => lanes::run(ctx.isa, Adjacent(rotation)),
            Pairing::Halves => lanes::run(ctx.isa, Halves(rotation)),
        }
    });
}

struct Rotation<'a> {
    x: &'a mut [f32],
    width: usize,
    head_dim: usize,
    rot: usize,
    cos_sin: &'a [f32],
}

struct Adjacent<'a>(Rotation<'a>);

impl LaneOp for Adjacent<'_> {
    type Output = ();

    /// Products, then their difference or sum, each rounded; no fused operations. The compiler vectorises the loop.
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let Rotation { x, width, head_dim, rot, cos_sin } = self.0;
        for (row, cos_sin) in x.chunks_exact_mut(width).zip(cos_sin.chunks_exact(rot)) {
            for head in row.chunks_exact_mut(head_dim) {
                let (pairs, _) = head[..rot].as_chunks_mut::<2>();
                let (angles, _) = cos_sin.as_chunks::<2>();
                for ([a, b], [cos, sin]) in pairs.iter_mut().zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

struct Halves<'a>(Rotation<'a>);

impl LaneOp for Halves<'_> {
    type Output = ();

    /// The operations of [`Adjacent`]. Cosines and sines are taken apart once for all heads of a row.
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rotation { x, width, head_dim, rot, cos_sin } = self.0;
        for (row, cos_sin) in x.chunks_exact_mut(width).zip(cos_sin.chunks_exact(rot)) {
            for (block, angles) in cos_sin.chunks(2 * LANES).enumerate() {
                let (mut cos, mut sin) = ([0.0; LANES], [0.0; LANES]);
                for ((cos, sin), [c, s]) in cos.iter_mut().zip(&mut sin).zip(angles.as_chunks::<2>().0) {
                    (*cos, *sin) = (*c, *s);
                }
                let (cos, sin) = (l.load(&cos), l.load(&sin));
                let pairs = angles.len() / 2;
                for head in row.chunks_exact_mut(head_dim) {
                    let (first, second) = head[..rot].split_at_mut(rot / 2);
                    let (a, b) = (&mut first[block * LANES..][..pairs], &mut second[block * LANES..][..pairs]);
                    rotate_pairs(l, a, b, cos, sin);
                }
            }
        }
    }
}

/// Rotates up to 16 pairs.
#[inline(always)]
fn rotate_pairs<L: Lanes>(l: L, a: &mut [f32], b: &mut [f32], cos: L::V, sin: L::V) {
    if let (Some(a), Some(b)) = (a.as_mut_array::<LANES>(), b.as_mut_array::<LANES>()) {
        let (x, y) = (l.load(a), l.load(b));
        l.store(l.sub(l.mul(x, cos), l.mul(y, sin)), a);
        l.store(l.add(l.mul(x, sin), l.mul(y, cos)), b);
    } else {
        let (x, y) = (l.load_part(a), l.load_part(b));
        l.store_part(l.sub(l.mul(x, cos), l.mul(y, sin)), a);
        l.store_part(l.add(l.mul(x, sin), l.mul(y, cos)), b);
    }
}
