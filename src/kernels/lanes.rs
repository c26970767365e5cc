//! Sixteen f32 lanes on every instruction-set path, with the same bits on each.
//!
//! A kernel is written once as a [`LaneOp`], generic over [`Lanes`], and [`run`] compiles it for each path. Each method
//! is one IEEE 754 operation a lane (or a selection), so equal inputs give equal bits whatever the path; a NaN stays a
//! NaN, though its payload may differ.
#![allow(unsafe_code)]

use super::{Isa, Path};
use half::{bf16, f16};

#[cfg(test)]
mod tests;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen f32. A value of the implementing type is the proof that the CPU has the instructions.
pub trait Lanes: Copy {
    type V: Copy;

    /// Vector accumulators that fit the register file beside their operands.
    const ACCUMULATORS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    /// Widens exactly.
    fn load_f16(self, x: &[f16; LANES]) -> Self::V;
    /// Widens exactly.
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::V;
    fn load_i8(self, x: &[i8; LANES]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? x : y`.
    fn if_greater(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Lanes `0..count` of `x`, the others of `y`.
    fn if_before(self, count: usize, x: Self::V, y: Self::V) -> Self::V;
    /// `a > b ? a : b`: `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^(n - 1)` for lanes that hold `1.5 * 2^23 + n` with an integer `n` in `-125..=128`.
    fn half_power_of_two(self, shifted: Self::V) -> Self::V;

    /// Loads `x` (at most 16 elements) and fills the other lanes with 0.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        let mut padded = [0.0; LANES];
        padded[..x.len()].copy_from_slice(x);
        self.load(&padded)
    }

    /// Stores the first `out.len()` lanes (at most 16).
    #[inline(always)]
    fn store_part(self, v: Self::V, out: &mut [f32]) {
        let mut padded = [0.0; LANES];
        self.store(v, &mut padded);
        let len = out.len();
        out.copy_from_slice(&padded[..len]);
    }

    /// The sum of the lanes, by halving: lane `i` and `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, v: Self::V) -> f32;

    /// The greatest lane: the tree of [`Self::sum`] with [`Self::max`] in place of the addition.
    fn greatest(self, v: Self::V) -> f32;

    /// Asks for the cache line of `x`, which is about to be read. Changes nothing.
    #[inline(always)]
    fn prefetch<T>(self, _x: &T) {}
}

/// A computation over [`Lanes`]. `run` must be `#[inline(always)]`, and so must be what it calls with `Lanes`, or it is
/// compiled without the path's instructions: right, but slow. For the same reason no `Lanes` method belongs
/// into a closure.
pub trait LaneOp {
    type Output;
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Runs `op` on the path `isa`.
#[inline]
pub fn run<O: LaneOp>(isa: Isa, op: O) -> O::Output {
    match isa.path() {
        Path::Scalar => op.run(Scalar),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` with this path exists only where the CPU has these features.
        Path::Avx2 | Path::AvxVnni => unsafe { x86::run_avx2(op) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Path::Avx512 => unsafe { x86::run_avx512(op) },
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::AvxVnni | Path::Avx512 => unreachable!("no such Isa value on this architecture"),
    }
}

/// Plain Rust: the oracle.
#[derive(Clone, Copy)]
struct Scalar;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Lanes for Scalar {
    type V = [f32; LANES];
    const ACCUMULATORS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::V {
        each(|i| x[i].to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::V {
        each(|i| f32::from_bits(u32::from(x[i].to_bits()) << 16))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::V {
        each(|i| f32::from(x[i]))
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn if_greater(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn if_before(self, count: usize, x: Self::V, y: Self::V) -> Self::V {
        each(|i| if i < count { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn half_power_of_two(self, shifted: Self::V) -> Self::V {
        each(|i| f32::from_bits(shifted[i].to_bits().wrapping_add(126) << 23))
    }
    #[inline(always)]
    fn sum(self, mut v: Self::V) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }
    #[inline(always)]
    fn greatest(self, mut v: Self::V) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] = if v[i] > v[i + half] { v[i] } else { v[i + half] };
            }
        }
        v[0]
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, LaneOp, Lanes, bf16, f16};
    use core::arch::x86_64::*;

    /// AVX2, FMA and F16C: two registers a vector. Only made by [`run_avx2`].
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// AVX-512 F, BW, DQ, VL: one register a vector. Only made by [`run_avx512`].
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    /// # Safety
    /// The CPU must have AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn run_avx2<O: LaneOp>(op: O) -> O::Output {
        op.run(Avx2(()))
    }

    /// # Safety
    /// The CPU must have AVX-512 F, BW, DQ, VL and AVX2, FMA, F16C.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn run_avx512<O: LaneOp>(op: O) -> O::Output {
        op.run(Avx512(()))
    }

    /// Folds eight lanes to one: lane `i` and `i + 4`, then `i + 2`, `i + 1`.
    macro_rules! fold {
        ($f:ident, $v:expr) => {{
            let v = $v;
            let v = $f(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = $f(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32($f(v, _mm_movehdup_ps(v)))
        }};
    }

    /// [`Lanes::prefetch`], into the first level.
    macro_rules! prefetch {
        () => {
            #[inline(always)]
            fn prefetch<T>(self, x: &T) {
                // SAFETY: a prefetch changes nothing the program can see; SSE is part of every x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(x).cast()) };
            }
        };
    }

    /// Applies a two-register intrinsic to both halves.
    macro_rules! halves {
        ($f:ident, $a:ident, $b:ident) => {
            // SAFETY: a value of type Avx2 exists only where the CPU has AVX2 and FMA.
            unsafe { ($f($a.0, $b.0), $f($a.1, $b.1)) }
        };
    }

    impl Lanes for Avx2 {
        type V = (__m256, __m256);
        const ACCUMULATORS: usize = 4;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            // SAFETY: a value of type Avx2 exists only where the CPU has AVX2.
            let v = unsafe { _mm256_set1_ps(x) };
            (v, v)
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::V {
            // SAFETY: as in `splat`; the unaligned loads read x[0..8] and x[8..16].
            unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
        }
        #[inline(always)]
        fn load_f16(self, x: &[f16; LANES]) -> Self::V {
            // SAFETY: a value of type Avx2 exists only where the CPU has F16C; the loads read x[0..8] and x[8..16].
            unsafe {
                let low = _mm_loadu_si128(x.as_ptr().cast());
                let high = _mm_loadu_si128(x.as_ptr().add(8).cast());
                (_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
            }
        }
        #[inline(always)]
        fn load_bf16(self, x: &[bf16; LANES]) -> Self::V {
            // SAFETY: as in `splat`; the loads read x[0..8] and x[8..16]: bf16 is 16 bits, the upper half of an f32.
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
                (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)))
            }
        }
        #[inline(always)]
        fn load_i8(self, x: &[i8; LANES]) -> Self::V {
            // SAFETY: as in `splat`; the loads read x[0..8] and x[8..16].
            unsafe {
                let low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()));
                let high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().add(8).cast()));
                (_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
            }
        }
        #[inline(always)]
        fn store(self, v: Self::V, out: &mut [f32; LANES]) {
            // SAFETY: as in `splat`; the unaligned stores write out[0..8] and out[8..16].
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), v.0);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
            }
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_add_ps, a, b)
        }
        #[inline(always)]
        fn sub(self, a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_sub_ps, a, b)
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_mul_ps, a, b)
        }
        #[inline(always)]
        fn div(self, a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_div_ps, a, b)
        }
        #[inline(always)]
        fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: a value of type Avx2 exists only where the CPU has FMA.
            unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
        }
        #[inline(always)]
        fn if_greater(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe {
                let low = _mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0);
                let high = _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1);
                (_mm256_blendv_ps(y.0, x.0, low), _mm256_blendv_ps(y.1, x.1, high))
            }
        }
        #[inline(always)]
        fn if_before(self, count: usize, x: Self::V, y: Self::V) -> Self::V {
            let count = count.min(LANES) as i32;
            // SAFETY: as in `splat`.
            unsafe {
                let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let low = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
                let high = _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lane);
                (
                    _mm256_blendv_ps(y.0, x.0, _mm256_castsi256_ps(low)),
                    _mm256_blendv_ps(y.1, x.1, _mm256_castsi256_ps(high)),
                )
            }
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_max_ps, a, b)
        }
        #[inline(always)]
        fn half_power_of_two(self, shifted: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe {
                let bias = _mm256_set1_epi32(126);
                let low = _mm256_add_epi32(_mm256_castps_si256(shifted.0), bias);
                let high = _mm256_add_epi32(_mm256_castps_si256(shifted.1), bias);
                (_mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)))
            }
        }
        #[inline(always)]
        fn sum(self, v: Self::V) -> f32 {
            // SAFETY: as in `splat`.
            unsafe { fold!(_mm_add_ps, _mm256_add_ps(v.0, v.1)) }
        }
        #[inline(always)]
        fn greatest(self, v: Self::V) -> f32 {
            // SAFETY: as in `splat`.
            unsafe { fold!(_mm_max_ps, _mm256_max_ps(v.0, v.1)) }
        }
        prefetch!();
    }

    impl Lanes for Avx512 {
        type V = __m512;
        const ACCUMULATORS: usize = 16;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            // SAFETY: a value of type Avx512 exists only where the CPU has AVX-512F; so below.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::V {
            // SAFETY: as in `splat`; the unaligned load reads the 16 elements.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn load_f16(self, x: &[f16; LANES]) -> Self::V {
            // SAFETY: as in `splat`; the unaligned load reads the 16 elements (32 bytes).
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
        }
        #[inline(always)]
        fn load_bf16(self, x: &[bf16; LANES]) -> Self::V {
            // SAFETY: as in `splat`; the unaligned load reads the 16 elements, each the upper half of an f32.
            unsafe {
                let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
            }
        }
        #[inline(always)]
        fn load_i8(self, x: &[i8; LANES]) -> Self::V {
            // SAFETY: as in `splat`; the unaligned load reads the 16 elements.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
        }
        #[inline(always)]
        fn store(self, v: Self::V, out: &mut [f32; LANES]) {
            // SAFETY: as in `splat`; the unaligned store writes the 16 elements.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn if_greater(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x) }
        }
        #[inline(always)]
        fn if_before(self, count: usize, x: Self::V, y: Self::V) -> Self::V {
            let mask = ((1u32 << count.min(LANES)) - 1) as u16;
            // SAFETY: as in `splat`.
            unsafe { _mm512_mask_blend_ps(mask, y, x) }
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn half_power_of_two(self, shifted: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe {
                let biased = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(126));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        fn sum(self, v: Self::V) -> f32 {
            // SAFETY: as in `splat`; AVX-512DQ too.
            unsafe { fold!(_mm_add_ps, _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
        }
        #[inline(always)]
        fn greatest(self, v: Self::V) -> f32 {
            // SAFETY: as in `sum`.
            unsafe { fold!(_mm_max_ps, _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
        }
        prefetch!();
    }
}
