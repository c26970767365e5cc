//! MM-4 to MM-11 word for word, over the raw tensor, and the error bounds that go with them.

use super::run;
use crate::kernels::Isa;
use crate::ops::packed_matrix::PackedMatrix;
use crate::ops::pool::Pool;
use crate::ops::test_weights::{Block, Range, decode, decode_blocks, random_activations, random_tensor};
use crate::ops::tests::TestRng;
use crate::quant::WeightType;

/// A matrix and its input.
pub(super) struct Case {
    pub(super) ty: WeightType,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) m: usize,
    pub(super) raw: Vec<u8>,
    pub(super) x: Vec<f32>,
}

impl Case {
    pub(super) fn random(random: &mut TestRng, range: Range, ty: WeightType, (n, k, m): (usize, usize, usize)) -> Self {
        let raw = random_tensor(random, range, ty, n, k);
        Self { ty, n, k, m, raw, x: random_activations(random, range, m, k) }
    }

    pub(super) fn packed(&self) -> PackedMatrix {
        PackedMatrix::pack(self.ty, self.n, self.k, &self.raw).unwrap()
    }

    pub(super) fn run(&self, isa: Isa, pool: &Pool) -> Vec<f32> {
        run(isa, pool, &self.packed(), &self.x, self.m)
    }

    /// MM-4 to MM-6 and MM-8 to MM-11, word for word.
    pub(super) fn expected(&self, isa: Isa) -> Vec<f32> {
        if self.ty == WeightType::BF16 && isa.has_bf16() {
            return self.expected_of_pairs();
        }
        if self.ty.block_len() == 1 {
            return self.expected_of_floats();
        }
        let len = self.ty.block_len();
        let blocks = decode_blocks(self.ty, &self.raw);
        let mut out = Vec::new();
        for x in self.x.chunks(self.k) {
            let quantised: Vec<_> = x.chunks(len).map(quantise_by_definition).collect();
            for row in blocks.chunks(self.k / len) {
                let fold = if len == 32 { fold_32 } else { fold_256 };
                out.push(row.iter().zip(&quantised).fold(0f32, |acc, (w, (p, dx))| fold(acc, w, p, *dx)));
            }
        }
        out
    }

    fn expected_of_floats(&self) -> Vec<f32> {
        let w = decode(self.ty, &self.raw);
        let row = |x: &[f32], w: &[f32]| w.iter().zip(x).fold(0f32, |acc, (w, x)| w.mul_add(*x, acc));
        self.x.chunks(self.k).flat_map(|x| w.chunks(self.k).map(move |w| row(x, w)).collect::<Vec<_>>()).collect()
    }

    fn expected_of_pairs(&self) -> Vec<f32> {
        let w = decode(self.ty, &self.raw);
        let row = |x: &[f32], w: &[f32]| {
            let step = |acc: f32, w: f32, x: f32| flush(flush(w).mul_add(bf16_by_definition(x), acc));
            let pairs = w.chunks(2).zip(x.chunks(2));
            pairs.fold(0f32, |acc, (w, x)| match (w, x) {
                ([w0, w1], [x0, x1]) => step(step(acc, *w1, *x1), *w0, *x0),
                _ => step(step(acc, 0.0, 0.0), w[0], x[0]),
            })
        };
        self.x.chunks(self.k).flat_map(|x| w.chunks(self.k).map(|w| row(x, w)).collect::<Vec<_>>()).collect()
    }

    pub(super) fn describe(&self) -> String {
        format!("{} N {} K {} M {}", self.ty, self.n, self.k, self.m)
    }
}

/// MM-11: subnormal numbers are 0.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// MM-11: the nearest number with 8 significant bits, in f64, where the halves between two are exact.
fn bf16_by_definition(x: f32) -> f32 {
    let x = flush(x);
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = (x.abs().to_bits() >> 23) as i32 - 127;
    let unit = 2f64.powi(exponent - 7);
    ((f64::from(x) / unit).round_ties_even() * unit) as f32
}

fn dot(q: &[i32], p: &[i32]) -> f32 {
    q.iter().zip(p).map(|(q, p)| i64::from(*q) * i64::from(*p)).sum::<i64>() as f32
}

/// MM-6 and MM-8: one block added.
fn fold_32(acc: f32, w: &Block, p: &[i32], dx: f32) -> f32 {
    let acc = dot(&w.q, p).mul_add(w.d * dx, acc);
    if w.minimums.is_empty() { acc } else { dot(&[1; 32], p).mul_add(w.m * dx, acc) }
}

/// MM-10: one super-block added.
fn fold_256(acc: f32, w: &Block, p: &[i32], dx: f32) -> f32 {
    let mut t = 0f32;
    for ((q, p), scale) in w.q.chunks(w.sub_len()).zip(p.chunks(w.sub_len())).zip(&w.scales) {
        t = dot(q, p).mul_add(*scale as f32, t);
    }
    let acc = t.mul_add(w.d * dx, acc);
    if w.minimums.is_empty() {
        return acc;
    }
    let sums: Vec<i32> = p.chunks(w.sub_len()).map(|p| p.iter().sum()).collect();
    dot(&w.minimums, &sums).mul_add(w.m * dx, acc)
}

/// MM-5 and MM-9 for one block, rounding in f64.
fn quantise_by_definition(x: &[f32]) -> (Vec<i32>, f32) {
    let mut p = vec![0; x.len()];
    if x.iter().any(|x| !x.is_finite()) {
        return (p, f32::NAN);
    }
    let a = x.iter().fold(0f32, |a, x| if x.abs() > a { x.abs() } else { a });
    let r = 127f32 / a;
    if r.is_infinite() {
        return (p, 0.0);
    }
    for (p, x) in p.iter_mut().zip(x) {
        let y = f64::from(x * r);
        let below = y.floor();
        let up = y - below > 0.5 || (y - below == 0.5 && below % 2.0 != 0.0);
        *p = (below as i32 + i32::from(up)).clamp(-127, 127);
    }
    (p, a / 127.0)
}

/// The weights without a rounding to f32.
pub(super) fn decode_exactly(ty: WeightType, raw: &[u8]) -> Vec<f64> {
    if ty.block_len() == 1 {
        return decode(ty, raw).into_iter().map(f64::from).collect();
    }
    decode_blocks(ty, raw).iter().flat_map(|block| block.weights().collect::<Vec<_>>()).collect()
}

impl Case {
    /// The stated bound of each output.
    pub(super) fn bounds(&self) -> Vec<f64> {
        let (unit, k) = (2f64.powi(-24), self.k as f64);
        let len = self.ty.block_len();
        if len == 1 {
            let w = decode_exactly(self.ty, &self.raw);
            let bound = |w: &[f64], x: &[f32]| {
                let magnitude: f64 = w.iter().zip(x).map(|(w, x)| (w * f64::from(*x)).abs()).sum();
                let chain = k * unit / (1.0 - k * unit) * magnitude + k * 2f64.powi(-149);
                let pairs = self.ty == WeightType::BF16 && Isa::detect().has_bf16();
                // MM-11: the activations are rounded to 8 bits, and every number below 2^-126 is 0.
                let flushed = 2f64.powi(-126) * (1.0 + w.iter().map(|w| w.abs()).sum::<f64>());
                if pairs { chain + 2f64.powi(-8) * (1.0 + k * unit) * magnitude + 3.0 * k * flushed } else { chain }
            };
            return self
                .x
                .chunks(self.k)
                .flat_map(|x| w.chunks(self.k).map(|w| bound(w, x)).collect::<Vec<_>>())
                .collect();
        }
        let blocks = decode_blocks(self.ty, &self.raw);
        let bound = |row: &[Block], x: &[f32]| {
            let mut rounding = 0.0;
            let mut magnitude = 0.0;
            for (block, x) in row.iter().zip(x.chunks(len)) {
                let dx = x.iter().fold(0f64, |a, x| a.max(f64::from(x.abs()))) / 127.0;
                rounding += 0.51 * dx * block.weights().map(f64::abs).sum::<f64>();
                let parts = block.magnitudes().zip(x);
                magnitude += parts.map(|(w, x)| w * (f64::from(x.abs()) + 0.51 * dx)).sum::<f64>();
            }
            // One rounding of the scale, one for each step of the chain, and those within a super-block.
            let folds = if row[0].minimums.is_empty() { 1 } else { 2 };
            let within = if len == 256 { row[0].scales.len() + 1 } else { 0 };
            rounding + (folds * row.len() + within + 1) as f64 * 1.01 * unit * magnitude
        };
        let rows = |x| blocks.chunks(self.k / len).map(|row| bound(row, x)).collect::<Vec<_>>();
        self.x.chunks(self.k).flat_map(rows).collect()
    }
}
