//! Functions of `specs/numerics.md` word for word, in plain f32: what the vector code must give bit for bit.

use std::f64::consts::{LN_2, PI};
use std::sync::LazyLock;

/// The polynomial of degree 4 that equals `f` at the Chebyshev nodes of `from ..= to`, lowest power first.
pub fn interpolation(f: impl Fn(f64) -> f64, from: f64, to: f64) -> [f32; 5] {
    let nodes: [f64; 5] = std::array::from_fn(|j| {
        let cosine = ((2 * j + 1) as f64 * PI / 10.0).cos();
        (from + to) / 2.0 + (to - from) / 2.0 * cosine
    });
    // Newton's divided differences, multiplied out.
    let mut differences = nodes.map(f);
    for k in 1..5 {
        for i in (k..5).rev() {
            differences[i] = (differences[i] - differences[i - 1]) / (nodes[i] - nodes[i - k]);
        }
    }
    let mut powers = [0.0; 5];
    for i in (0..5).rev() {
        // powers * (x - nodes[i]) + differences[i]
        for k in (0..5).rev() {
            let below = if k > 0 { powers[k - 1] } else { differences[i] };
            powers[k] = below - powers[k] * nodes[i];
        }
    }
    powers.map(|power| power as f32)
}

/// The coefficients of EXP-1.
pub static EXP: LazyLock<[f32; 5]> = LazyLock::new(|| {
    // (e^r - 1 - r) / r^2 by its series: without cancellation, and defined at 0.
    let series = |r: f64| (2..20).rev().fold(0.0, |sum, n| (sum * r) / f64::from(n + 1) + 1.0) / 2.0;
    interpolation(series, -1.0005 * LN_2 / 2.0, 1.0005 * LN_2 / 2.0)
});

/// The coefficients of EXP-2.
pub static TANH: LazyLock<[f32; 5]> = LazyLock::new(|| {
    let quotient = |z: f64| (z.sqrt().tanh() - z.sqrt()) / (z * z.sqrt());
    interpolation(quotient, 0.0, 0.625 * 0.625)
});

fn chain(coefficients: &[f32; 5], x: f32) -> f32 {
    let [c0, c1, c2, c3, c4] = *coefficients;
    x.mul_add(x.mul_add(x.mul_add(x.mul_add(c4, c3), c2), c1), c0)
}

/// EXP-1.
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x < -86.9 {
        return 0.0;
    }
    let x = x.min(89.0);
    const HIGH: f64 = 0.693_359_375;
    let (high, low) = (HIGH as f32, (LN_2 - HIGH) as f32);
    let t = x.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = t - 12_582_912.0;
    let r = n.mul_add(-low, n.mul_add(-high, x));
    let y = (r * r).mul_add(chain(&EXP, r), r) + 1.0;
    (y + y) * 2f32.powi(n as i32 - 1)
}

/// EXP-2: the hyperbolic tangent.
pub fn tanh(y: f32) -> f32 {
    if y.abs() <= 0.625 {
        let z = y * y;
        // Both zeros give +0.
        return (y * z).mul_add(chain(&TANH, z), y) + 0.0;
    }
    let great = 1.0 - 2.0 / (exp(y.abs() + y.abs()) + 1.0);
    if y < 0.0 { -great } else { great }
}

/// EXP-2: the cap.
pub fn soft_cap(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// ACT-1.
pub fn silu(g: f32) -> f32 {
    g / (1.0 + exp(0.0 - g))
}

/// ACT-2.
pub fn gelu(g: f32) -> f32 {
    let a = -2.0 * (2.0 / PI).sqrt();
    g / (1.0 + exp(g * (g * g).mul_add((a * 0.044_715) as f32, a as f32)))
}

/// NORM-1, without a bias.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut lanes = [0f32; 16];
    x.iter().enumerate().for_each(|(i, x)| lanes[i % 16] = x.mul_add(*x, lanes[i % 16]));
    let f = 1.0 / (sum_of_lanes(lanes) / x.len() as f32 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| (x * f) * w).collect()
}

/// The tree of "Sums over lanes".
pub fn sum_of_lanes(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}
