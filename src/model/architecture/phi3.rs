//! Phi-3, 3.5 and 4: Q, K and V in one matrix, gate and up in another, long-RoPE factors.
//!
//! `attention.sliding_window` is not honoured: converters wrote it wrongly into many files, which is why llama.cpp
//! does not honour it here either (its pull request 13676).

use crate::model::description::{Description, Positions};
use crate::ops::rope::Pairing;

pub fn describe() -> Description {
    Description { positions: Positions::Rotary(Pairing::Halves), ..Description::default() }
}
