//! Seeded random numbers of a load test: SplitMix64 (Steele et al. 2014) and the distributions drawn from it.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers that depends on its seed alone.
pub struct Random(u64);

impl Random {
    /// Stream number `stream` of `seed`: streams of one seed have nothing in common.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed.wrapping_add(mix(stream.wrapping_add(STEP)))))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// In `(0, 1)`, never an end.
    pub fn unit(&mut self) -> f64 {
        ((self.next_u64() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// In `low ..= high`.
    pub fn range(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high.max(low) - low) + 1;
        // The product of a 32-bit number and a span of at most 2^32 fits; the quotient is below `span`.
        low + (((self.next_u64() >> 32) * span) >> 32) as u32
    }

    /// True for `percent` of a hundred draws.
    pub fn percent(&mut self, percent: f64) -> bool {
        self.unit() * 100.0 < percent
    }

    /// Gamma with `shape` above 0 and mean 1 (Marsaglia and Tsang 2000); shape 1 is the exponential distribution.
    pub fn gamma_mean_one(&mut self, shape: f64) -> f64 {
        if shape == 1.0 {
            return -self.unit().ln();
        }
        if shape < 1.0 {
            // A gamma of shape + 1 times u^(1/shape) has the wanted shape.
            let boost = self.unit().powf(1.0 / shape);
            return self.gamma(shape + 1.0) * boost / shape;
        }
        self.gamma(shape) / shape
    }

    /// Gamma with `shape` of at least 1 and scale 1.
    fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.unit().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// Normal with mean 0 and variance 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
