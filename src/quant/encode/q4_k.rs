//! Q4_K by least squares. An element is `d * scale * code - dmin * minimum` with codes of 0 ..= 15, scales and minimums
//! of 0 ..= 63 for each 32 elements, and two f16, `d` and `dmin`.
//!
//! ```text
//! 1  for each sub-block    the line `step * code - low` of the least squared error: from a few ranges of 15 steps,
//!                          nearest codes and the least squares for these codes by turns
//! 2  d, dmin               so that the largest scale and the largest minimum are 63
//! 3  for each sub-block    of the integers beside step / d and low / dmin the best pair, each with its nearest codes
//! 4  d, dmin again         least squares for these integers and codes; from 3, while the error falls
//! ```
//! The plain choice (each sub-block from its smallest element, or 0, to its largest, or 0, in 15 steps) goes through 3
//! as well and is taken where it is better: so the error is never above the plain choice's.

use half::f16;

use super::fit::{NOTHING, nearest, scale, squared_distance};
use crate::quant::q4_k::{BLOCK_LEN, pack};

/// Elements of a sub-block.
const SUB: usize = 32;
/// Sub-blocks.
const SUBS: usize = BLOCK_LEN / SUB;
type Sub = [f32; SUB];
type Block = [Sub; SUBS];

/// Ranges tried, in steps; the middle is that of the elements. In fewer than 15 steps codes are left over at the ends,
/// in more the outermost elements are cut.
const RANGES: [f32; 7] = [13.5, 14.25, 15.0, 15.75, 16.5, 17.25, 18.0];
/// Times that codes and line are fitted to each other.
const TURNS: usize = 3;
/// Times that `d` and `dmin` are fitted again.
const ROUNDS: usize = 3;

/// The elements of a sub-block are about `step * code - low`; neither is negative.
#[derive(Clone, Copy, Default)]
struct Line {
    step: f32,
    low: f32,
}

/// A block as it will be written, and its squared error.
struct Fit {
    d: f16,
    dmin: f16,
    scales: [u8; SUBS],
    minimums: [u8; SUBS],
    codes: Block,
    error: f32,
}

/// Appends one block of finite numbers.
pub(super) fn encode(x: &[f32; BLOCK_LEN], out: &mut Vec<u8>) {
    let (subs, _) = x.as_chunks::<SUB>();
    let x: &Block = subs.try_into().expect("8 sub-blocks");
    let fit = best_fit(x);
    let halves = [fit.d.to_le_bytes(), fit.dmin.to_le_bytes()];
    pack(halves, (&fit.scales, &fit.minimums), |i| fit.codes[i / SUB][i % SUB] as u8, out);
}

fn best_fit(x: &Block) -> Fit {
    let mut best = fit_in_63(x, &x.each_ref().map(best_line));
    for _ in 0..ROUNDS {
        let (d, dmin) = best_halves(x, &best);
        let next = fit(x, d, dmin, &best.lines());
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    let plain = fit_in_63(x, &x.each_ref().map(plain_line));
    if plain.error < best.error { plain } else { best }
}

fn smallest_and_largest(x: &Sub) -> (f32, f32) {
    x.iter().fold((x[0], x[0]), |(low, high), v| (low.min(*v), high.max(*v)))
}

/// From the smallest element, or 0, to the largest, or 0.
fn plain_line(x: &Sub) -> Line {
    let (low, high) = smallest_and_largest(x);
    Line { step: (high.max(0.0) - low.min(0.0)) / 15.0, low: -low.min(0.0) }
}

/// The line of the least squared error, of those tried.
fn best_line(x: &Sub) -> Line {
    let (low, high) = smallest_and_largest(x);
    let low = low.min(0.0);
    if high - low < NOTHING {
        return Line { step: 0.0, low: -low };
    }
    let (mut least, mut best) = (f32::INFINITY, Line::default());
    for range in RANGES {
        let step = (high - low) / range;
        let below = 0.5 * (15.0 - range) * step;
        let mut line = Line { step, low: (below - low).max(0.0) };
        for _ in 0..TURNS {
            let codes = codes(x, line);
            line = line_through(x, &codes, line);
        }
        let codes = codes(x, line);
        let error = error(x, &codes, line);
        if error < least {
            (least, best) = (error, line);
        }
    }
    best
}

/// The nearest codes.
#[inline(always)]
fn codes(x: &Sub, line: Line) -> Sub {
    let inverse = 1.0 / line.step;
    x.map(|x| nearest(((x + line.low) * inverse).clamp(0.0, 15.0)))
}

#[inline(always)]
fn error(x: &Sub, codes: &Sub, line: Line) -> f32 {
    squared_distance(x, |i| line.step * codes[i] - line.low)
}

/// The line of the least squared error for given codes; `before` where there is none with a positive step.
fn line_through(x: &Sub, codes: &Sub, before: Line) -> Line {
    let (mut sum_x, mut sum_c, mut sum_cc, mut sum_xc) = (0.0, 0.0, 0.0, 0.0);
    for (x, c) in x.iter().zip(codes) {
        sum_x += x;
        sum_c += c;
        sum_cc += c * c;
        sum_xc += x * c;
    }
    let n = SUB as f32;
    // n² times the variance of the codes: an integer, so that 0 is exact.
    let spread = n * sum_cc - sum_c * sum_c;
    let mut line = before;
    if spread > 0.0 {
        line.step = (n * sum_xc - sum_c * sum_x) / spread;
        line.low = (line.step * sum_c - sum_x) / n;
    }
    if line.low < 0.0 && sum_cc > 0.0 {
        line = Line { step: sum_xc / sum_cc, low: 0.0 };
    }
    if line.step > 0.0 && line.low >= 0.0 { line } else { before }
}

impl Fit {
    fn lines(&self) -> [Line; SUBS] {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        std::array::from_fn(|j| Line { step: d * f32::from(self.scales[j]), low: dmin * f32::from(self.minimums[j]) })
    }
}

/// The largest step and the largest low become 63.
fn fit_in_63(x: &Block, wanted: &[Line; SUBS]) -> Fit {
    let largest = wanted.iter().fold(Line::default(), |largest, line| Line {
        step: largest.step.max(line.step),
        low: largest.low.max(line.low),
    });
    fit(x, scale(largest.step / 63.0), scale(largest.low / 63.0), wanted)
}

/// Scales and minimums beside those wanted, and codes, for given `d` and `dmin`.
fn fit(x: &Block, d: f16, dmin: f16, wanted: &[Line; SUBS]) -> Fit {
    let mut fit = Fit { d, dmin, scales: [0; SUBS], minimums: [0; SUBS], codes: [[0.0; SUB]; SUBS], error: 0.0 };
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let beside = |wanted: f32, unit: f32| {
        let near = if unit > 0.0 { nearest((wanted / unit).clamp(0.0, 63.0)) as u8 } else { 0 };
        near.saturating_sub(1)..=(near + 1).min(if unit > 0.0 { 63 } else { 0 })
    };
    for (j, x) in x.iter().enumerate() {
        let mut least = f32::INFINITY;
        for s in beside(wanted[j].step, d) {
            for m in beside(wanted[j].low, dmin) {
                let line = Line { step: d * f32::from(s), low: dmin * f32::from(m) };
                let codes = if s == 0 { [0.0; SUB] } else { codes(x, line) };
                let error = error(x, &codes, line);
                if error < least {
                    (least, fit.scales[j], fit.minimums[j], fit.codes[j]) = (error, s, m, codes);
                }
            }
        }
        fit.error += least;
    }
    fit
}

/// The `d` and `dmin` of the least squared error for the integers and codes of `fit`: two linear equations.
fn best_halves(x: &Block, fit: &Fit) -> (f16, f16) {
    let (mut pp, mut pm, mut mm, mut xp, mut xm) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for (j, x) in x.iter().enumerate() {
        let (s, m) = (f64::from(fit.scales[j]), f64::from(fit.minimums[j]));
        for (x, code) in x.iter().zip(&fit.codes[j]) {
            let (x, p) = (f64::from(*x), s * f64::from(*code));
            pp += p * p;
            pm += p * m;
            mm += m * m;
            xp += x * p;
            xm += x * m;
        }
    }
    // x is about d p - dmin m.
    let determinant = pp * mm - pm * pm;
    let (mut d, mut dmin) = (fit.d.to_f64(), fit.dmin.to_f64());
    if determinant > 0.0 {
        d = (xp * mm - xm * pm) / determinant;
        dmin = (xp * pm - xm * pp) / determinant;
    } else if mm == 0.0 && pp > 0.0 {
        d = xp / pp;
    }
    if d <= 0.0 || dmin < 0.0 {
        return (fit.d, fit.dmin);
    }
    (scale(d as f32), scale(dmin as f32))
}
