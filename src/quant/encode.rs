//! Weights to the blocks of a file that is kept: what `quantize` writes. [`super::quantize_row`] is quicker and coarser
//! (its K types search for no better scale) and serves synthetic models.
//!
//! F16, BF16, Q8_0 and Q4_0 are what their formats say, byte for byte what other programs write. Q4_K and Q6_K leave
//! the scales to whoever encodes: here they are chosen by least squares, each weight counting alike. That is the
//! measure that follows from knowing nothing about the activations `a`: where they are independent and of one variance,
//! the expected squared error of an output `Σ w a` is that variance times `Σ (w - w')²`. `specs/quantize.md`.

mod fit;
mod q4_0;
mod q4_k;
mod q6_k;
#[cfg(test)]
mod tests;

use super::{WeightType, quantize_row};
use half::{bf16, f16};

/// A row that cannot be written in the type.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    #[error("element {index} is {value}")]
    NotFinite { index: usize, value: f32 },
    #[error("element {index} is {value}, larger than {ty} can hold")]
    TooLarge { index: usize, value: f32, ty: WeightType },
}

/// Appends one row (or any whole number of blocks) in type `ty` to `out`. Types that have no encoder of their own go
/// through [`super::quantize_row`].
///
/// # Errors
/// A NaN, an infinity, or a magnitude that would make an infinity of a number of the format. `out` is unchanged then.
///
/// # Panics
/// The length of `x` is no multiple of the type's block.
pub fn encode_row(ty: WeightType, x: &[f32], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    assert!(x.len().is_multiple_of(ty.block_len()), "a row of {} elements of type {ty}", x.len());
    check(ty, x)?;
    match ty {
        WeightType::Q4_0 => x.as_chunks().0.iter().for_each(|x| q4_0::encode(x, out)),
        WeightType::Q4K => x.as_chunks().0.iter().for_each(|x| q4_k::encode(x, out)),
        WeightType::Q6K => x.as_chunks().0.iter().for_each(|x| q6_k::encode(x, out)),
        _ => quantize_row(ty, x, out),
    }
    Ok(())
}

fn check(ty: WeightType, x: &[f32]) -> Result<(), EncodeError> {
    if let Some((index, &value)) = x.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        return Err(EncodeError::NotFinite { index, value });
    }
    let largest = x.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    if fits(ty, largest) {
        return Ok(());
    }
    let found = x.iter().enumerate().find(|(_, v)| !fits(ty, v.abs()));
    let (index, &value) = found.unwrap_or((0, &largest));
    Err(EncodeError::TooLarge { index, value, ty })
}

/// Whether a block whose largest magnitude is `largest` has finite numbers. The f16 scale of a block grows with it: of
/// Q4_K the smallest element is 63 steps of `dmin`, of Q6_K the largest 32 times 127 steps of `d`.
fn fits(ty: WeightType, largest: f32) -> bool {
    let f16_part = |steps: f32| f16::from_f32(largest / steps).is_finite();
    match ty {
        WeightType::F16 => f16_part(1.0),
        WeightType::BF16 => bf16::from_f32(largest).is_finite(),
        WeightType::Q8_0 => f16_part(127.0),
        WeightType::Q4_0 => f16_part(8.0),
        WeightType::Q4K => f16_part(63.0),
        WeightType::Q6K => f16_part(32.0 * 127.0),
        _ => true,
    }
}
