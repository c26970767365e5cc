//! Sixty-four bytes at a time on every instruction-set path, for [`super::codes`].
//!
//! Plain loops over bytes would do, but the compiler turns nested ones into gathers and scatters.
#![allow(unsafe_code)]

use super::panel::Line;

/// Operations on the bytes of a line. A value of the implementing type is the proof that the CPU has the instructions.
/// No method belongs into a closure: it would be compiled without them.
pub trait LineOps: Copy {
    type V: Copy;

    fn load(self, line: &Line) -> Self::V;
    fn store(self, v: Self::V, line: &mut Line);
    /// Each byte shifted right by `shift` (at most 7) and masked with `mask`, which must leave nothing of what comes
    /// from the neighbouring byte.
    fn bits(self, v: Self::V, shift: u32, mask: u8) -> Self::V;
    /// Each byte of `a` with `b << shift`, which must not leave the byte.
    fn or_shifted(self, a: Self::V, b: Self::V, shift: u32) -> Self::V;
    /// `byte` added to each byte, without a carry.
    fn add(self, v: Self::V, byte: u8) -> Self::V;
    /// The entry of `table` for each byte, which is below 16.
    fn look_up(self, table: &[u8; 16], v: Self::V) -> Self::V;
}

/// Plain Rust, four bytes at a time.
#[derive(Clone, Copy)]
pub struct Scalar;

impl LineOps for Scalar {
    type V = [u32; 16];

    #[inline(always)]
    fn load(self, line: &Line) -> Self::V {
        bytemuck::cast(line.0)
    }
    #[inline(always)]
    fn store(self, v: Self::V, line: &mut Line) {
        line.0 = bytemuck::cast(v);
    }
    #[inline(always)]
    fn bits(self, v: Self::V, shift: u32, mask: u8) -> Self::V {
        v.map(|word| word >> shift & u32::from_ne_bytes([mask; 4]))
    }
    #[inline(always)]
    fn or_shifted(self, a: Self::V, b: Self::V, shift: u32) -> Self::V {
        std::array::from_fn(|i| a[i] | b[i] << shift)
    }
    #[inline(always)]
    fn add(self, v: Self::V, byte: u8) -> Self::V {
        v.map(|word| word + u32::from_ne_bytes([byte; 4]))
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], v: Self::V) -> Self::V {
        v.map(|word| u32::from_ne_bytes(word.to_ne_bytes().map(|byte| table[usize::from(byte & 15)])))
    }
}

#[cfg(target_arch = "x86_64")]
pub mod x86 {
    use super::{Line, LineOps};
    use core::arch::x86_64::*;

    /// AVX2: two registers a line.
    #[derive(Clone, Copy)]
    pub struct Avx2(());

    /// AVX-512 F, BW: one register a line.
    #[derive(Clone, Copy)]
    pub struct Avx512(());

    impl Avx2 {
        #[inline]
        #[target_feature(enable = "avx2")]
        pub fn new() -> Self {
            Self(())
        }
    }

    impl Avx512 {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        pub fn new() -> Self {
            Self(())
        }
    }

    impl LineOps for Avx2 {
        type V = (__m256i, __m256i);

        #[inline(always)]
        fn load(self, line: &Line) -> Self::V {
            let half: *const __m256i = line.0.as_ptr().cast();
            // SAFETY: a value of type Avx2 exists only where the CPU has AVX2; a Line is two halves of 32 bytes.
            unsafe { (_mm256_loadu_si256(half), _mm256_loadu_si256(half.add(1))) }
        }
        #[inline(always)]
        fn store(self, v: Self::V, line: &mut Line) {
            let half: *mut __m256i = line.0.as_mut_ptr().cast();
            // SAFETY: as in `load`.
            unsafe {
                _mm256_storeu_si256(half, v.0);
                _mm256_storeu_si256(half.add(1), v.1);
            }
        }
        #[inline(always)]
        fn bits(self, v: Self::V, shift: u32, mask: u8) -> Self::V {
            // SAFETY: a value of type Avx2 exists only where the CPU has AVX2.
            unsafe {
                let (shift, mask) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi8(mask.cast_signed()));
                let bits = |v| _mm256_and_si256(_mm256_srl_epi32(v, shift), mask);
                (bits(v.0), bits(v.1))
            }
        }
        #[inline(always)]
        fn or_shifted(self, a: Self::V, b: Self::V, shift: u32) -> Self::V {
            // SAFETY: a value of type Avx2 exists only where the CPU has AVX2.
            unsafe {
                let shift = _mm_cvtsi32_si128(shift as i32);
                let or = |a, b| _mm256_or_si256(a, _mm256_sll_epi32(b, shift));
                (or(a.0, b.0), or(a.1, b.1))
            }
        }
        #[inline(always)]
        fn add(self, v: Self::V, byte: u8) -> Self::V {
            // SAFETY: a value of type Avx2 exists only where the CPU has AVX2.
            unsafe {
                let byte = _mm256_set1_epi8(byte.cast_signed());
                (_mm256_add_epi8(v.0, byte), _mm256_add_epi8(v.1, byte))
            }
        }
        #[inline(always)]
        fn look_up(self, table: &[u8; 16], v: Self::V) -> Self::V {
            // SAFETY: a value of type Avx2 exists only where the CPU has AVX2; the table is 16 bytes.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                (_mm256_shuffle_epi8(table, v.0), _mm256_shuffle_epi8(table, v.1))
            }
        }
    }

    impl LineOps for Avx512 {
        type V = __m512i;

        #[inline(always)]
        fn load(self, line: &Line) -> Self::V {
            // SAFETY: a value of type Avx512 exists only where the CPU has AVX-512; a Line is aligned to its 64 bytes.
            unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
        }
        #[inline(always)]
        fn store(self, v: Self::V, line: &mut Line) {
            // SAFETY: as in `load`.
            unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), v) }
        }
        #[inline(always)]
        fn bits(self, v: Self::V, shift: u32, mask: u8) -> Self::V {
            // SAFETY: a value of type Avx512 exists only where the CPU has AVX-512.
            unsafe {
                let shifted = _mm512_srl_epi32(v, _mm_cvtsi32_si128(shift as i32));
                _mm512_and_si512(shifted, _mm512_set1_epi8(mask.cast_signed()))
            }
        }
        #[inline(always)]
        fn or_shifted(self, a: Self::V, b: Self::V, shift: u32) -> Self::V {
            // SAFETY: a value of type Avx512 exists only where the CPU has AVX-512.
            unsafe { _mm512_or_si512(a, _mm512_sll_epi32(b, _mm_cvtsi32_si128(shift as i32))) }
        }
        #[inline(always)]
        fn add(self, v: Self::V, byte: u8) -> Self::V {
            // SAFETY: a value of type Avx512 exists only where the CPU has AVX-512 BW.
            unsafe { _mm512_add_epi8(v, _mm512_set1_epi8(byte.cast_signed())) }
        }
        #[inline(always)]
        fn look_up(self, table: &[u8; 16], v: Self::V) -> Self::V {
            // SAFETY: a value of type Avx512 exists only where the CPU has AVX-512 BW; the table is 16 bytes.
            unsafe {
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                _mm512_shuffle_epi8(table, v)
            }
        }
    }
}
