//! GPT-2: LayerNorm, learned positions, one matrix for Q, K and V, biases everywhere, GELU:
//! `specs/01_GPT2_PIPELINE.md`.

use crate::model::description::{Description, Positions};
use crate::ops::activation::Activation;
use crate::ops::norm::NormKind;

pub fn describe() -> Description {
    Description {
        norm: NormKind::Layer,
        positions: Positions::Learned,
        activation: Activation::GeluTanh,
        gated: false,
        needs_fused_qkv: true,
        needs_biases: true,
        ..Description::default()
    }
}
