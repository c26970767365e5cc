//! Seeded numbers as a function of (key, index): SplitMix64 used as a counter-based generator.

/// Stream of numbers named by a seed and a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream(u64);

impl Stream {
    pub(super) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a spreads the name over 64 bits; the mixer does the rest.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self(mix(seed ^ mix(hash)))
    }

    /// 64 uniform bits.
    pub(super) fn bits(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number of mean 0 and variance 1, nearly normal: the sum of eight uniform 16-bit numbers, at most 4.9 in size.
    /// Sums of integers have the same bits everywhere, which `ln` and `cos` have not.
    pub(super) fn normal(self, index: u64) -> f32 {
        // sqrt(8 * (2^32 - 1) / 12)
        const DEVIATION: f32 = 53_509.97;
        let sum = sum16(self.bits(2 * index)) + sum16(self.bits(2 * index + 1));
        // The mean of the sum is 8 * 65535 / 2; both sides are exact in f32.
        (sum as f32 - 262_140.0) / DEVIATION
    }
}

fn sum16(bits: u64) -> u32 {
    let lane = |shift: u32| ((bits >> shift) & 0xffff) as u32;
    lane(0) + lane(16) + lane(32) + lane(48)
}

/// SplitMix64's output function.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixer_agrees_with_published_splitmix64_outputs() {
        // Seed 1234567: first outputs of the reference implementation.
        let next = |n: u64| mix(1_234_567_u64.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        assert_eq!(
            [next(1), next(2), next(3)],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let stream = Stream::new(1, "moments");
        let n = 100_000u64;
        let moment = |p: i32| (0..n).map(|i| f64::from(stream.normal(i)).powi(p)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        // Eight summands give a kurtosis of 3 - 1.2 / 8.
        assert!((moment(4) - 2.85).abs() < 0.1, "fourth moment {}", moment(4));
    }
}
