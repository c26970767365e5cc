//! Normalisation of rows: by the root mean square, or by mean and variance.

use super::Ctx;
use super::disjoint::rows_per_unit;
use crate::kernels::Isa;
use crate::kernels::lanes::{self, LANES, LaneOp, Lanes};

#[cfg(test)]
mod tests;

/// What a row is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// The root of the mean square.
    Rms,
    /// The standard deviation, after the mean is taken off.
    Layer,
}

/// A norm over the last dimension, D elements.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    pub kind: NormKind,
    /// `[D]`.
    pub weight: &'a [f32],
    /// `[D]`, added last.
    pub bias: Option<&'a [f32]>,
    /// Added to the mean square or the variance.
    pub eps: f32,
}

impl Norm<'_> {
    /// D, for an input of `len` elements.
    ///
    /// # Panics
    /// If the weight is empty, the bias of another length, or `len` is not that of whole rows.
    pub(super) fn width_of(&self, len: usize) -> usize {
        let width = self.weight.len();
        assert!(width > 0 && len.is_multiple_of(width), "x of {len} elements, rows of {width}");
        assert!(self.bias.is_none_or(|bias| bias.len() == width), "the norm's bias is not of {width} elements");
        width
    }
}

/// `out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight` for each row `t`, or
/// `(x[t] - mean(x[t])) / sqrt(var(x[t]) + eps) * weight` with the variance over D (not D - 1), and the bias on top:
/// NORM-1 and NORM-2 of `specs/numerics.md`. `x` and `out` are `[T, D]`.
///
/// # Panics
/// If the weight is empty, or the lengths do not fit.
pub fn normalize(ctx: &Ctx<'_>, x: &[f32], norm: &Norm<'_>, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "x and out differ in length");
    let unit_len = unit_len(x.len(), norm);
    ctx.pool.run_chunks(out, unit_len, |unit, out| {
        norm_rows(ctx.isa, &x[unit * unit_len..][..out.len()], norm, out);
    });
}

/// [`normalize`] with `x` `[T, D]` for the output: of the heads of `[T, heads * head_dim]` where D is `head_dim`.
///
/// # Panics
/// As [`normalize`].
pub fn normalize_in_place(ctx: &Ctx<'_>, x: &mut [f32], norm: &Norm<'_>) {
    let unit_len = unit_len(x.len(), norm);
    ctx.pool.run_chunks(x, unit_len, |_, x| lanes::run(ctx.isa, InPlace { x, norm: *norm }));
}

/// [`normalize`] for the calling thread.
pub(super) fn norm_rows(isa: Isa, x: &[f32], norm: &Norm<'_>, out: &mut [f32]) {
    lanes::run(isa, Rows { x, norm: *norm, out });
}

/// Elements for one unit of work, whole rows of the `len` elements.
fn unit_len(len: usize, norm: &Norm<'_>) -> usize {
    let width = norm.width_of(len);
    rows_per_unit(len, width) * width
}

struct Rows<'a> {
    x: &'a [f32],
    norm: Norm<'a>,
    out: &'a mut [f32],
}

impl LaneOp for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let norm = self.norm;
        let width = norm.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let row = Row::of(l, x, &norm);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(norm.weight) {
                *out = row.element(*x, *weight);
            }
            add(out, norm.bias);
        }
    }
}

struct InPlace<'a> {
    x: &'a mut [f32],
    norm: Norm<'a>,
}

impl LaneOp for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let norm = self.norm;
        for x in self.x.chunks_exact_mut(norm.weight.len()) {
            let row = Row::of(l, x, &norm);
            for (x, weight) in x.iter_mut().zip(norm.weight) {
                *x = row.element(*x, *weight);
            }
            add(x, norm.bias);
        }
    }
}

#[inline(always)]
fn add(x: &mut [f32], bias: Option<&[f32]>) {
    for (x, bias) in x.iter_mut().zip(bias.unwrap_or_default()) {
        *x += bias;
    }
}

/// What a row's elements are moved by and multiplied with.
#[derive(Clone, Copy)]
struct Row {
    /// 0 where the mean stays: taking 0 off changes no number.
    mean: f32,
    factor: f32,
}

impl Row {
    #[inline(always)]
    fn of<L: Lanes>(l: L, x: &[f32], norm: &Norm<'_>) -> Self {
        let width = x.len() as f32;
        let (mean, square) = match norm.kind {
            NormKind::Rms => (0.0, sum_of_squares(l, x) / width),
            NormKind::Layer => {
                let mean = sum(l, x) / width;
                (mean, sum_of_squared_deviations(l, x, mean) / width)
            }
        };
        Self { mean, factor: 1.0 / (square + norm.eps).sqrt() }
    }

    #[inline(always)]
    fn element(self, x: f32, weight: f32) -> f32 {
        ((x - self.mean) * self.factor) * weight
    }
}

/// Element `i` goes to lane `i % 16`, in order; then the lanes are summed as [`Lanes::sum`] says.
#[inline(always)]
fn sum_of_squares<L: Lanes>(l: L, x: &[f32]) -> f32 {
    let mut sum = l.splat(0.0);
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        let x = l.load(x);
        sum = l.fma(x, x, sum);
    }
    // The zeros behind a short rest leave their lanes as they are: a sum of squares is never -0.
    let rest = l.load_part(rest);
    l.sum(l.fma(rest, rest, sum))
}

/// In the order of [`sum_of_squares`].
#[inline(always)]
fn sum<L: Lanes>(l: L, x: &[f32]) -> f32 {
    let mut sum = l.splat(0.0);
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        sum = l.add(sum, l.load(x));
    }
    // As above: a sum that starts at +0 is never -0.
    l.sum(l.add(sum, l.load_part(rest)))
}

/// In the order of [`sum_of_squares`].
#[inline(always)]
fn sum_of_squared_deviations<L: Lanes>(l: L, x: &[f32], mean: f32) -> f32 {
    let (mut sum, mean) = (l.splat(0.0), l.splat(mean));
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        let deviation = l.sub(l.load(x), mean);
        sum = l.fma(deviation, deviation, sum);
    }
    let deviation = l.sub(l.load_part(rest), mean);
    let deviation = l.if_before(rest.len(), deviation, l.splat(0.0));
    l.sum(l.fma(deviation, deviation, sum))
}
