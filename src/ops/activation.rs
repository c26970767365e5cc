//! Element-wise ops.

use super::Ctx;
use super::disjoint::rows_per_unit;
use super::exp::exp;
use super::tanh;
use crate::kernels::Isa;
use crate::kernels::lanes::{self, LANES, LaneOp, Lanes};
use crate::kernels::panel::Column;

#[cfg(test)]
mod tests;

/// The function of a feed-forward layer: ACT-1 and ACT-2 of `specs/numerics.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU with the hyperbolic tangent: `x/2 (1 + tanh u) = x / (1 + e^(-2u))`, `u = sqrt(2/pi) (x + 0.044715 x^3)`.
    GeluTanh,
}

/// `-2u / x` of [`Activation::GeluTanh`] is `GELU_LINEAR + GELU_SQUARE x^2`: -2 sqrt(2/pi), and that times 0.044715.
const GELU_LINEAR: f32 = -1.595_769_2;
const GELU_SQUARE: f32 = -0.071_354_814;

/// `gate = act(gate) * up`, element by element; both `[T, D]`.
///
/// # Panics
/// If the lengths differ.
pub fn gate_mul(ctx: &Ctx<'_>, act: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up differ in length");
    let unit_len = rows_per_unit(up.len(), 1);
    ctx.pool.run_chunks(gate, unit_len, |unit, gate| {
        let up = &up[unit * unit_len..][..gate.len()];
        lanes::run(ctx.isa, GateMul { act, gate, up });
    });
}

/// `gates = act(gates) * ups` for the sums of a panel: [`gate_mul`] for the calling thread.
pub(super) fn gate_mul_panel(isa: Isa, act: Activation, gates: &mut [Column], ups: &[Column]) {
    lanes::run(isa, GateMul { act, gate: gates.as_flattened_mut(), up: ups.as_flattened() });
}

/// `x = act(x)`, element by element; `[T, D]`.
pub fn apply(ctx: &Ctx<'_>, act: Activation, x: &mut [f32]) {
    map(ctx, x, Map::Activation(act));
}

/// `x = cap * tanh(x / cap)`, element by element; `[T, D]`. `cap` is finite and greater than 0. EXP-2 of
/// `specs/numerics.md`.
pub fn soft_cap(ctx: &Ctx<'_>, x: &mut [f32], cap: f32) {
    map(ctx, x, Map::SoftCap(cap));
}

/// `x = x * factor`, element by element; `[T, D]`.
pub fn scale(ctx: &Ctx<'_>, x: &mut [f32], factor: f32) {
    map(ctx, x, Map::Scale(factor));
}

fn map(ctx: &Ctx<'_>, x: &mut [f32], map: Map) {
    ctx.pool.run_chunks(x, rows_per_unit(x.len(), 1), |_, x| lanes::run(ctx.isa, MapAll { map, x }));
}

/// `x[t] += bias` for each row `t`: `x` is `[T, N]`, `bias` `[N]`.
///
/// # Panics
/// If `bias` is empty or `x` is not of whole rows.
pub fn add_bias(ctx: &Ctx<'_>, x: &mut [f32], bias: &[f32]) {
    let width = bias.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "x of {} elements, rows of {width}", x.len());
    ctx.pool.run_chunks(x, rows_per_unit(x.len(), width) * width, |_, x| {
        lanes::run(ctx.isa, AddRows { x, y: bias });
    });
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

struct GateMul<'a> {
    act: Activation,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl LaneOp for GateMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (gates, last_gate) = self.gate.as_chunks_mut::<LANES>();
        let (ups, last_up) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            l.store(l.mul(activate(l, self.act, l.load(gate)), l.load(up)), gate);
        }
        if !last_gate.is_empty() {
            let v = l.mul(activate(l, self.act, l.load_part(last_gate)), l.load_part(last_up));
            l.store_part(v, last_gate);
        }
    }
}

/// A function of one element.
#[derive(Clone, Copy)]
enum Map {
    Activation(Activation),
    SoftCap(f32),
    Scale(f32),
}

impl Map {
    #[inline(always)]
    fn of<L: Lanes>(self, l: L, x: L::V) -> L::V {
        match self {
            Self::Activation(act) => activate(l, act, x),
            Self::SoftCap(cap) => tanh::soft_cap(l, x, cap),
            Self::Scale(factor) => l.mul(x, l.splat(factor)),
        }
    }
}

struct MapAll<'a> {
    map: Map,
    x: &'a mut [f32],
}

impl LaneOp for MapAll<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (whole, last) = self.x.as_chunks_mut::<LANES>();
        for x in whole {
            l.store(self.map.of(l, l.load(x)), x);
        }
        if !last.is_empty() {
            l.store_part(self.map.of(l, l.load_part(last)), last);
        }
    }
}

/// Adds `y` to each row of `x`. The compiler vectorises the loop.
struct AddRows<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl LaneOp for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for row in self.x.chunks_exact_mut(self.y.len()) {
            for (x, y) in row.iter_mut().zip(self.y) {
                *x += y;
            }
        }
    }
}

#[inline(always)]
fn activate<L: Lanes>(l: L, act: Activation, x: L::V) -> L::V {
    let exponent = match act {
        Activation::Silu => l.sub(l.splat(0.0), x),
        Activation::GeluTanh => l.mul(x, l.fma(l.mul(x, x), l.splat(GELU_SQUARE), l.splat(GELU_LINEAR))),
    };
    l.div(x, l.add(l.splat(1.0), exp(l, exponent)))
}
