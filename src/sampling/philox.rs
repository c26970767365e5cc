//! The random stream: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//!
//! Counter-based: a number is a function of key and counter. No state, so nothing to save when a sequence is preempted.

/// Multipliers of the two words of a round.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;

/// Four random words for a counter and a key.
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let (high0, low0) = wide_mul(MULTIPLIERS[0], counter[0]);
        let (high1, low1) = wide_mul(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The number in `[0, 1)` that chooses the token at `position` (tokens before it) of sequence `index` of a request.
///
/// Key: the seed, low word first. Counter: position, index, 0, 0. Of the result, words 0 (low) and 1 (high) make 64
/// bits, of which the upper 53 are the number in units of 2^-53.
pub fn uniform(seed: u64, index: u32, position: u32) -> f64 {
    let [low, high, _, _] = philox4x32_10([position, index, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(high) << 32) | u64::from(low);
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// High and low word of the product.
fn wide_mul(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors that the authors publish with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn smp_7_philox_known_answers() {
        covers!("SMP-7");
        for row in crate::spec::table("SMP-7").rows() {
            let words = |column| row.hex_words(column);
            let counter: [u32; 4] = words("counter").try_into().unwrap();
            let key: [u32; 2] = words("key").try_into().unwrap();
            assert_eq!(philox4x32_10(counter, key)[..], words("result"), "{counter:x?} {key:x?}");
        }
    }

    #[test]
    fn smp_8_uniform_uses_seed_index_and_position() {
        covers!("SMP-8");
        // 53 upper bits of 0xe169c58d_6627e8d5.
        assert_eq!(uniform(0, 0, 0), (0xe169_c58d_6627_e8d5_u64 >> 11) as f64 / 9_007_199_254_740_992.0);
        // Computed by a separate program.
        for row in crate::spec::table("SMP-8").rows() {
            assert_eq!(uniform(row.get("seed"), row.get("index"), row.get("position")), row.get::<f64>("u"));
        }
        let base = uniform(7, 1, 5);
        assert!(base != uniform(8, 1, 5) && base != uniform(7, 2, 5) && base != uniform(7, 1, 6));
        assert!(base != uniform(7 + (1 << 32), 1, 5), "the high word of the seed counts");
    }
}
