//! What the quantisers share. They round to the nearest code and search for nothing better: good enough for synthetic
//! models and tests.

use half::f16;

/// `d` rounded to f16: its bytes, and the value they hold.
pub(super) fn f16_bytes(d: f32) -> ([u8; 2], f32) {
    let d = f16::from_f32(d);
    (d.to_le_bytes(), d.to_f32())
}

/// `1 / d`, and 0 for 0: a block of zeros gets codes that stand for 0.
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The element of the largest magnitude with its sign; NaN where one is not finite.
pub(super) fn extreme(x: &[f32]) -> f32 {
    if x.iter().any(|v| !v.is_finite()) {
        return f32::NAN;
    }
    x.iter().fold(0.0, |extreme: f32, v| if v.abs() > extreme.abs() { *v } else { extreme })
}

/// The index of the value nearest to `x`; 0 for NaN.
pub(super) fn nearest(values: &[i8; 16], x: f32) -> u8 {
    let distance = |code: usize| (f32::from(values[code]) - x).abs();
    (1..16).fold(0, |best, code| if distance(code) < distance(best) { code } else { best }) as u8
}

/// A super-block whose S sub-blocks are multiples of `d * scales[j]`.
pub(super) struct Scaled<const S: usize> {
    pub d: f32,
    pub scales: [i8; S],
}

impl<const S: usize> Scaled<S> {
    /// The largest magnitude of each sub-block becomes about `steps`, the largest scale `scale_steps`.
    pub fn of(x: &[f32; 256], steps: f32, scale_steps: f32) -> Self {
        let mut wanted = [0.0; S];
        for (wanted, x) in wanted.iter_mut().zip(x.chunks_exact(256 / S)) {
            *wanted = extreme(x).abs() / steps;
        }
        let (_, d) = f16_bytes(extreme(&wanted) / scale_steps);
        let scales = wanted.map(|wanted| (wanted * inverse(d)).round().clamp(0.0, scale_steps) as i8);
        Self { d, scales }
    }

    /// Element `i` of `x` as a multiple of its sub-block's scale.
    pub fn multiple(&self, x: &[f32; 256], i: usize) -> f32 {
        x[i] * inverse(self.d * f32::from(self.scales[i * S / 256]))
    }
}

/// A super-block whose S sub-blocks are multiples of `d * scales[j]` less `dmin * minimums[j]`.
pub(super) struct Affine<const S: usize> {
    pub d: f32,
    pub dmin: f32,
    pub scales: [u8; S],
    pub minimums: [u8; S],
    steps: u8,
}

impl<const S: usize> Affine<S> {
    /// Codes are `0 ..= steps`, scales and minimums `0 ..= scale_steps`.
    pub fn of(x: &[f32; 256], steps: u8, scale_steps: u8) -> Self {
        let (mut wanted, mut lowest) = ([0.0; S], [0.0; S]);
        for (j, x) in x.chunks_exact(256 / S).enumerate() {
            let finite = extreme(x).is_finite();
            lowest[j] = x.iter().fold(0.0, |low: f32, v| low.min(*v)).abs();
            let span = x.iter().fold(0.0, |high: f32, v| high.max(*v)) + lowest[j];
            wanted[j] = if finite { span / f32::from(steps) } else { f32::NAN };
        }
        let parts = |wanted: [f32; S]| {
            let (_, d) = f16_bytes(extreme(&wanted) / f32::from(scale_steps));
            (d, wanted.map(|wanted| (wanted * inverse(d)).round().clamp(0.0, f32::from(scale_steps)) as u8))
        };
        let ((d, scales), (dmin, minimums)) = (parts(wanted), parts(lowest));
        Self { d, dmin, scales, minimums, steps }
    }

    /// The code of element `i` of `x`.
    pub fn code(&self, x: &[f32; 256], i: usize) -> u8 {
        let j = i * S / 256;
        let above = x[i] + self.dmin * f32::from(self.minimums[j]);
        let code = (above * inverse(self.d * f32::from(self.scales[j]))).round();
        code.clamp(0.0, f32::from(self.steps)) as u8
    }
}

/// The smallest and the largest element; NaN where one is not finite.
pub(super) fn span(x: &[f32]) -> (f32, f32) {
    if x.iter().any(|v| !v.is_finite()) {
        return (f32::NAN, f32::NAN);
    }
    let low = x.iter().fold(f32::INFINITY, |low, v| low.min(*v));
    (low, x.iter().fold(f32::NEG_INFINITY, |high, v| high.max(*v)))
}
