//! The types K and V are stored in: how a row is rounded to one, and how it is read back as f32.

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::kernels::lanes::{LANES, Lanes};
use crate::kv_cache::SCALE_BLOCK;

#[cfg(test)]
mod tests;

/// An element of the cache. Where [`Self::SCALED`], the value is the element times the scale of its block; the product
/// is exact in f32.
pub(super) trait Element: Pod + Default + Send + Sync {
    const SCALED: bool = false;
    /// The type that others are widened to.
    const WIDE: bool = false;
    /// Without the scale.
    fn widen(self) -> f32;
    /// [`Self::widen`] of 16 elements.
    fn load<L: Lanes>(l: L, x: &[Self; LANES]) -> L::V;
    /// Rounds a head's K or V, to the nearest, ties to even. `scales` has one place a block of [`SCALE_BLOCK`].
    fn round(x: &[f32], out: &mut [Self], scales: &mut [f16]);
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, x: &[Self; LANES]) -> L::V {
        l.load_f16(x)
    }
    fn round(x: &[f32], out: &mut [Self], _: &mut [f16]) {
        out.convert_from_f32_slice(x);
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, x: &[Self; LANES]) -> L::V {
        l.load_bf16(x)
    }
    fn round(x: &[f32], out: &mut [Self], _: &mut [f16]) {
        out.convert_from_f32_slice(x);
    }
}

impl Element for f32 {
    const WIDE: bool = true;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, x: &[Self; LANES]) -> L::V {
        l.load(x)
    }
    fn round(x: &[f32], out: &mut [Self], _: &mut [f16]) {
        out.copy_from_slice(x);
    }
}

/// Q8_0.
impl Element for i8 {
    const SCALED: bool = true;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, x: &[Self; LANES]) -> L::V {
        l.load_i8(x)
    }
    fn round(x: &[f32], out: &mut [Self], scales: &mut [f16]) {
        for ((x, out), scale) in x.chunks(SCALE_BLOCK).zip(out.chunks_mut(SCALE_BLOCK)).zip(scales) {
            *scale = round_block(x, out);
        }
    }
}

/// KV-2: rounds a block to integers and returns its scale.
fn round_block(x: &[f32], out: &mut [i8]) -> f16 {
    const SIGN: u32 = 1 << 31;
    const INFINITE: u32 = 0xff << 23;
    /// Adding it rounds to an integer, ties to even, which sits in the low bits: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    // The bits of magnitudes are in the order of the magnitudes; infinity and NaN are above all others.
    let greatest = x.iter().fold(0, |greatest, x| greatest.max((x.to_bits() & !SIGN).cast_signed())).cast_unsigned();
    let d = f32::from_bits(greatest) / 127.0;
    let scale = f16::from_f32(d);
    if greatest >= INFINITE || scale.is_infinite() || scale == f16::ZERO {
        out.fill(0);
        return if scale == f16::ZERO { scale } else { f16::NAN };
    }
    let r = 1.0 / d;
    for (out, x) in out.iter_mut().zip(x) {
        *out = (x * r + ROUND).to_bits() as i8;
    }
    scale
}
