//! Q4_0 as the format defines it: the element of the largest magnitude becomes -8.

use half::f16;

use crate::quant::q4_0::BLOCK_LEN;

/// Appends one block. `d` is the extreme over -8; codes are `x / d + 8`, rounded half up, by `d` before it is rounded
/// to f16. Of elements of equal magnitude the first is the extreme.
pub(super) fn encode(x: &[f32; BLOCK_LEN], out: &mut Vec<u8>) {
    let extreme = x[1..].iter().fold(x[0], |extreme, v| if v.abs() > extreme.abs() { *v } else { extreme });
    let d = extreme / -8.0;
    // The reciprocal of the smallest numbers is infinite; their f16 is 0, whatever the codes.
    let inverse = Some(1.0 / d).filter(|inverse| inverse.is_finite()).unwrap_or(0.0);
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend((0..BLOCK_LEN / 2).map(|i| code(x[i]) | code(x[i + BLOCK_LEN / 2]) << 4));
}
