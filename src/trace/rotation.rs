//! The rotation that an index describes, by the engine's own operation.

use super::index::RopeDescription;
use crate::kernels::Isa;
use crate::ops::Ctx;
use crate::ops::pool::Pool;
use crate::ops::rope;

/// Rotates `x` `[T, heads * head_dim]`; row `t` is position `t`. Angles are in f64.
pub fn rotate(pool: &Pool, rope: &RopeDescription, head_dim: usize, mut x: Vec<f32>, positions: usize) -> Vec<f32> {
    let rot = 2 * rope.frequencies.len();
    if x.is_empty() {
        return x;
    }
    let mut cos_sin = Vec::with_capacity(positions * rot);
    for position in 0..positions {
        for frequency in &rope.frequencies {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            cos_sin.extend([(cos * rope.magnitude) as f32, (sin * rope.magnitude) as f32]);
        }
    }
    let ctx = Ctx { pool, isa: Isa::detect() };
    let heads = x.len() / positions / head_dim;
    rope::rotate(&ctx, &mut x, heads, head_dim, rot, rope.pairing, &cos_sin);
    x
}
