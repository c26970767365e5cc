//! How fast this machine's arithmetic units are: loops of nothing but one instruction, for benches to divide by.
//!
//! Origin: the usual way to measure an instruction's throughput: more independent chains than latency times rate.
//!
//! ```text
//! for round:  16 times (AVX2: 12 times):  acc[i] += a * b        acc, a, b in registers
//! ```
//!
//! [`read`] is the other ceiling: a loop of nothing but loads, and the additions that use them.
//!
//! 1. The arithmetic is assembly, so that the compiler neither removes nor reorders anything.
//! 2. Registers start as they are: no instruction here is slower for any value but subnormal numbers, and the
//!    multipliers are zeroed.
#![allow(unsafe_code)]
#![cfg_attr(not(target_arch = "x86_64"), expect(unused, reason = "no other architecture's units are known"))]

use super::lanes::{self, LANES, LaneOp, Lanes};
use super::{Isa, Path};

/// Independent sums of [`read`]: no load waits for the addition of the one before.
const CHAINS: usize = 8;

/// Reads `memory` once, with the widest loads of the path, and returns the sum of what it read.
pub fn read(isa: Isa, memory: &[[f32; LANES]]) -> f32 {
    lanes::run(isa, Read(memory))
}

struct Read<'a>(&'a [[f32; LANES]]);

impl LaneOp for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f32 {
        let (rounds, rest) = self.0.as_chunks::<CHAINS>();
        let mut sums = [l.splat(0.0); CHAINS];
        for round in rounds {
            for i in 0..CHAINS {
                sums[i] = l.add(sums[i], l.load(&round[i]));
            }
        }
        let mut total = l.splat(0.0);
        for sum in sums {
            total = l.add(total, sum);
        }
        for vector in rest {
            total = l.add(total, l.load(vector));
        }
        l.sum(total)
    }
}

/// A kind of multiply-add, the way the matmul kernels of a path use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// f32 fused multiply-add.
    F32,
    /// bf16 pairs into f32.
    Bf16,
    /// Bytes by fours into i32: one instruction with VNNI, three in AVX2.
    Int8,
}

/// Runs `rounds` rounds of `unit` on this thread and returns the operations done, two for each multiply-add; `None`
/// where the path has no such instruction.
pub fn run(isa: Isa, unit: Unit, rounds: u64) -> Option<u64> {
    match (isa.path(), unit) {
        #[cfg(target_arch = "x86_64")]
        (Path::Avx512, _) => avx512(isa, unit, rounds),
        #[cfg(target_arch = "x86_64")]
        (Path::Avx2 | Path::AvxVnni, _) => avx2(unit, rounds),
        _ => None,
    }
}

/// Sixteen times one instruction on zmm0 to zmm15.
#[cfg(target_arch = "x86_64")]
macro_rules! sixteen {
    ($instruction:literal) => {
        core::arch::asm!(
            "vpxord zmm30, zmm30, zmm30",
            "vpxord zmm31, zmm31, zmm31",
            concat!($instruction, " zmm0, zmm30, zmm31"), concat!($instruction, " zmm1, zmm30, zmm31"),
            concat!($instruction, " zmm2, zmm30, zmm31"), concat!($instruction, " zmm3, zmm30, zmm31"),
            concat!($instruction, " zmm4, zmm30, zmm31"), concat!($instruction, " zmm5, zmm30, zmm31"),
            concat!($instruction, " zmm6, zmm30, zmm31"), concat!($instruction, " zmm7, zmm30, zmm31"),
            concat!($instruction, " zmm8, zmm30, zmm31"), concat!($instruction, " zmm9, zmm30, zmm31"),
            concat!($instruction, " zmm10, zmm30, zmm31"), concat!($instruction, " zmm11, zmm30, zmm31"),
            concat!($instruction, " zmm12, zmm30, zmm31"), concat!($instruction, " zmm13, zmm30, zmm31"),
            concat!($instruction, " zmm14, zmm30, zmm31"), concat!($instruction, " zmm15, zmm30, zmm31"),
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _,
            out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _,
            out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm30") _, out("zmm31") _,
            options(nomem, nostack, preserves_flags),
        )
    };
}

#[cfg(target_arch = "x86_64")]
fn avx512(isa: Isa, unit: Unit, rounds: u64) -> Option<u64> {
    if unit == Unit::Bf16 && !isa.has_bf16() {
        return None;
    }
    for _ in 0..rounds {
        // SAFETY: registers alone are touched, all named; an Isa of this path proves the instructions, `has_bf16`
        // that of BF16.
        unsafe {
            match unit {
                Unit::F32 => sixteen!("vfmadd231ps"),
                Unit::Bf16 => sixteen!("vdpbf16ps"),
                Unit::Int8 => sixteen!("vpdpbusd"),
            }
        }
    }
    let lanes = 16;
    let per_lane = match unit {
        Unit::F32 => 2,
        Unit::Bf16 => 4,
        Unit::Int8 => 8,
    };
    Some(rounds * 16 * lanes * per_lane)
}

/// Four times the three instructions of a byte product on ymm registers.
#[cfg(target_arch = "x86_64")]
macro_rules! byte_products {
    ($($acc:literal $product:literal),*) => {
        core::arch::asm!(
            "vpxor ymm14, ymm14, ymm14",
            "vpxor ymm15, ymm15, ymm15",
            $(concat!("vpmaddubsw ", $product, ", ymm14, ymm15"),
              concat!("vpmaddwd ", $product, ", ", $product, ", ymm15"),
              concat!("vpaddd ", $acc, ", ", $acc, ", ", $product),)*
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
            out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm14") _, out("ymm15") _,
            options(nomem, nostack, preserves_flags),
        )
    };
}

#[cfg(target_arch = "x86_64")]
fn avx2(unit: Unit, rounds: u64) -> Option<u64> {
    let chains = match unit {
        Unit::F32 => 12,
        Unit::Bf16 => return None,
        Unit::Int8 => 6,
    };
    for _ in 0..rounds {
        // SAFETY: registers alone are touched, all named; an Isa of this path proves AVX2 and FMA.
        unsafe {
            match unit {
                Unit::Int8 => byte_products!(
                    "ymm0" "ymm6", "ymm1" "ymm7", "ymm2" "ymm8", "ymm3" "ymm9", "ymm4" "ymm10", "ymm5" "ymm11"
                ),
                _ => core::arch::asm!(
                    "vpxor ymm14, ymm14, ymm14", "vpxor ymm15, ymm15, ymm15",
                    "vfmadd231ps ymm0, ymm14, ymm15", "vfmadd231ps ymm1, ymm14, ymm15",
                    "vfmadd231ps ymm2, ymm14, ymm15", "vfmadd231ps ymm3, ymm14, ymm15",
                    "vfmadd231ps ymm4, ymm14, ymm15", "vfmadd231ps ymm5, ymm14, ymm15",
                    "vfmadd231ps ymm6, ymm14, ymm15", "vfmadd231ps ymm7, ymm14, ymm15",
                    "vfmadd231ps ymm8, ymm14, ymm15", "vfmadd231ps ymm9, ymm14, ymm15",
                    "vfmadd231ps ymm10, ymm14, ymm15", "vfmadd231ps ymm11, ymm14, ymm15",
                    out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                    out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                    out("ymm14") _, out("ymm15") _,
                    options(nomem, nostack, preserves_flags),
                ),
            }
        }
    }
    let lanes = 8;
    Some(rounds * chains * lanes * if unit == Unit::F32 { 2 } else { 8 })
}
