//! Rotary position embedding.

use super::Ctx;
use super::disjoint::rows_per_unit;
use crate::kernels::lanes::{self, LaneOp, Lanes};

#[cfg(test)]
mod tests;

/// How a model changes the rotation frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by this factor.
    Linear(f32),
    /// `[rot / 2]`: frequency `i` is divided by element `i` (the tensor `rope_freqs.weight`).
    FreqFactors(Vec<f32>),
}

/// A rotation cannot be set up.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RopeError {
    #[error("rope dimension count {0}: must be even and not 0")]
    Dimensions(usize),
    #[error("rope frequency base {0}: must be finite and greater than 0")]
    Base(f32),
    #[error("rope scaling factor {0}: must be finite and greater than 0")]
    Factor(f32),
    #[error("rope frequency factors: {got} of them, {expected} expected")]
    FactorCount { got: usize, expected: usize },
}

/// The angle of each pair of dimensions per position.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[rot / 2]` radians per position.
    frequencies: Vec<f64>,
}

impl RopeTable {
    /// Frequencies `base^(-2i / rot)` for the pairs `i` of the first `rot` dimensions of a head, changed by `scaling`.
    pub fn new(rot: usize, base: f32, scaling: &RopeScaling) -> Result<Self, RopeError> {
        if rot == 0 || !rot.is_multiple_of(2) {
            return Err(RopeError::Dimensions(rot));
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(RopeError::Base(base));
        }
        let frequency = |i: usize| f64::from(base).powf(-2.0 * i as f64 / rot as f64);
        Self { frequencies: (0..rot / 2).map(frequency).collect() }.scaled(scaling)
    }

    /// The table with its frequencies changed by `scaling`, on top of what they were changed by before.
    pub fn scaled(mut self, scaling: &RopeScaling) -> Result<Self, RopeError> {
        let pairs = self.frequencies.len();
        let factors: Vec<f32> = match scaling {
            RopeScaling::None => return Ok(self),
            RopeScaling::Linear(factor) => vec![*factor; pairs],
            RopeScaling::FreqFactors(factors) => factors.clone(),
        };
        if factors.len() != pairs {
            return Err(RopeError::FactorCount { got: factors.len(), expected: pairs });
        }
        if let Some(&bad) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            return Err(RopeError::Factor(bad));
        }
        self.frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= f64::from(factor));
        Ok(self)
    }

    /// Dimensions of a head that are rotated.
    pub fn rot(&self) -> usize {
        self.frequencies.len() * 2
    }

    /// `[rot / 2]` radians per position of each pair.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// Replaces `cos_sin` by `[T, rot / 2, 2]`: cosine and sine of each pair's angle at each of the `positions` `[T]`.
    pub fn fill(&self, positions: &[u32], cos_sin: &mut Vec<f32>) {
        cos_sin.clear();
        cos_sin.reserve(positions.len() * self.rot());
        for &position in positions {
            for frequency in &self.frequencies {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                cos_sin.extend([cos as f32, sin as f32]);
            }
        }
    }
}

/// Rotates the pairs `(2i, 2i + 1)` of the first `rot` dimensions of each head of `x` `[T, heads * head_dim]`, in
/// place; `cos_sin` is `[T, rot / 2, 2]` from [`RopeTable::fill`]. The other dimensions stay.
///
/// # Panics
/// If `heads` or `rot` is 0, `rot` is odd or greater than `head_dim`, or the lengths do not fit.
pub fn rope_adjacent(ctx: &Ctx<'_>, x: &mut [f32], heads: usize, head_dim: usize, rot: usize, cos_sin: &[f32]) {
    assert!(rot > 0 && rot.is_multiple_of(2) && rot <= head_dim, "rot {rot} of head_dim {head_dim}");
    let width = heads * head_dim;
    assert!(width > 0, "no heads");
    assert_eq!(x.len() * rot, cos_sin.len() * width, "x and cos_sin are for different numbers of rows");
    let rows = rows_per_unit(x.len(), width);
    let isa = ctx.isa;
    ctx.pool.run_chunks(x, rows * width, |unit, x| {
        let cos_sin = &cos_sin[unit * rows * rot..][..x.len() / width * rot];
        lanes::run(isa, RopeAdjacent { x, width, head_dim, rot, cos_sin });
    });
}

struct RopeAdjacent<'a> {
    x: &'a mut [f32],
    width: usize,
    head_dim: usize,
    rot: usize,
    cos_sin: &'a [f32],
}

impl LaneOp for RopeAdjacent<'_> {
    type Output = ();

    /// Products, then their difference or sum, each rounded; no fused operations. The compiler vectorises the loop.
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let rows = self.x.chunks_exact_mut(self.width).zip(self.cos_sin.chunks_exact(self.rot));
        for (row, cos_sin) in rows {
            for head in row.chunks_exact_mut(self.head_dim) {
                let (pairs, _) = head[..self.rot].as_chunks_mut::<2>();
                let (angles, _) = cos_sin.as_chunks::<2>();
                for ([a, b], [cos, sin]) in pairs.iter_mut().zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}
