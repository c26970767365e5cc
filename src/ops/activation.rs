//! Element-wise ops.

use super::Ctx;
use super::disjoint::rows_per_unit;
use super::exp::exp;
use crate::kernels::Isa;
use crate::kernels::lanes::{self, LANES, LaneOp, Lanes};
use crate::kernels::panel::Column;

#[cfg(test)]
mod tests;

/// `gate = gate / (1 + e^-gate) * up`, element by element; both `[T, D]`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_mul(ctx: &Ctx<'_>, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up differ in length");
    let isa = ctx.isa;
    let unit_len = rows_per_unit(up.len(), 1);
    ctx.pool.run_chunks(gate, unit_len, |unit, gate| {
        let up = &up[unit * unit_len..][..gate.len()];
        lanes::run(isa, SiluMul { gate, up });
    });
}

/// `gates = gates / (1 + e^-gates) * ups` for the sums of a panel: [`silu_mul`] for the calling thread.
pub(super) fn silu_mul_panel(isa: Isa, gates: &mut [Column], ups: &[Column]) {
    lanes::run(isa, SiluMul { gate: gates.as_flattened_mut(), up: ups.as_flattened() });
}

/// `x += y`, element by element; both `[T, D]`.
///
/// # Panics
/// If the lengths differ.
pub fn add(ctx: &Ctx<'_>, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "x and y differ in length");
    let unit_len = rows_per_unit(y.len(), 1);
    ctx.pool.run_chunks(x, unit_len, |unit, x| {
        let y = &y[unit * unit_len..][..x.len()];
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    });
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl LaneOp for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (gates, last_gate) = self.gate.as_chunks_mut::<LANES>();
        let (ups, last_up) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            l.store(silu_mul_lanes(l, l.load(gate), l.load(up)), gate);
        }
        if !last_gate.is_empty() {
            let v = silu_mul_lanes(l, l.load_part(last_gate), l.load_part(last_up));
            l.store_part(v, last_gate);
        }
    }
}

#[inline(always)]
fn silu_mul_lanes<L: Lanes>(l: L, gate: L::V, up: L::V) -> L::V {
    let e = exp(l, l.sub(l.splat(0.0), gate));
    l.mul(l.div(gate, l.add(l.splat(1.0), e)), up)
}
