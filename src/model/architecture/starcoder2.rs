//! StarCoder 2: LayerNorm and biases as in GPT-2, with rotary positions and grouped heads.

use super::gpt2;
use crate::model::description::{Description, Positions};
use crate::ops::rope::Pairing;

pub fn describe() -> Description {
    Description { positions: Positions::Rotary(Pairing::Halves), needs_fused_qkv: false, ..gpt2::describe() }
}
