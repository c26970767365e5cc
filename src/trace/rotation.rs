//! The rotation that an index describes, by the engine's own operation.

use super::index::{Pairing, RopeDescription};
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
    if rope.pairing == Pairing::Halves {
        swap_pairs(&mut x, head_dim, rot, true);
    }
    rope::rope_adjacent(&ctx, &mut x, heads, head_dim, rot, &cos_sin);
    if rope.pairing == Pairing::Halves {
        swap_pairs(&mut x, head_dim, rot, false);
    }
    x
}

/// Moves dimensions `i` and `i + rot / 2` of each head to `2i` and `2i + 1`, or back.
fn swap_pairs(x: &mut [f32], head_dim: usize, rot: usize, to_adjacent: bool) {
    for head in x.chunks_exact_mut(head_dim) {
        let old = head[..rot].to_vec();
        for i in 0..rot / 2 {
            for (halves, adjacent) in [(i, 2 * i), (i + rot / 2, 2 * i + 1)] {
                if to_adjacent {
                    head[adjacent] = old[halves];
                } else {
                    head[halves] = old[adjacent];
                }
            }
        }
    }
}
