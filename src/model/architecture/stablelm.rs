//! StableLM: LayerNorm and a rotation of part of each head. StableLM 2 12B has norms for the heads of Q and K, and no
//! `ffn_norm`: its feed-forward layers read the same normalised input as attention.

use crate::model::description::{Description, Positions, QkNorm};
use crate::ops::norm::NormKind;
use crate::ops::rope::Pairing;

pub fn describe() -> Description {
    Description {
        norm: NormKind::Layer,
        positions: Positions::Rotary(Pairing::Halves),
        qk_norm: QkNorm::EachHead,
        may_share_norm: true,
        ..Description::default()
    }
}
