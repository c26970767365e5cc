//! Gemma 1 to 3: scaled embeddings, GELU gates; from 2 on norms around each sublayer and layers with a window.
//!
//! Converters add the 1 that Gemma's norms add to their weights, so that the norm is the ordinary one.

use super::{Sizes, local_layers, window};
use crate::model::description::{Description, NormPlacement, Positions, QkNorm, Window};
use crate::model::keys::{ConfigError, Keys};
use crate::ops::activation::Activation;
use crate::ops::rope::Pairing;

pub fn describe_gemma(sizes: Sizes) -> Description {
    Description {
        positions: Positions::Rotary(Pairing::Halves),
        activation: Activation::GeluTanh,
        embedding_scale: (sizes.hidden_size as f32).sqrt(),
        ..Description::default()
    }
}

/// Every other layer has a window. Scores and logits are capped.
pub fn describe_gemma2(keys: &Keys<'_>, sizes: Sizes) -> Result<Description, ConfigError> {
    let size = keys.size_or("attention.sliding_window", 4096, u32::MAX)? as u32;
    let local_theta = keys.positive("rope.freq_base_swa")?;
    let window = Window { size, layers: local_layers(keys, sizes, 2)?, rope_theta: local_theta };
    Ok(Description {
        placement: NormPlacement::Around,
        // The 27B model alone scales by the width of a head as if the heads shared the hidden size.
        attention_scale: scale_by_hidden_share(sizes, 46),
        attention_soft_cap: Some(keys.positive_or("attn_logit_softcapping", 50.0)?),
        logit_soft_cap: Some(keys.positive_or("final_logit_softcapping", 30.0)?),
        window: Some(window),
        ..describe_gemma(sizes)
    })
}

/// Five of six layers have a window and a rotation of their own; Q and K have norms.
pub fn describe_gemma3(keys: &Keys<'_>, sizes: Sizes) -> Result<Description, ConfigError> {
    let local_theta = keys.positive_or("rope.freq_base_swa", 10_000.0)?;
    Ok(Description {
        placement: NormPlacement::Around,
        qk_norm: QkNorm::Head,
        attention_scale: scale_by_hidden_share(sizes, 62),
        logit_soft_cap: keys.switched_off_by_zero("final_logit_softcapping")?,
        window: window(keys, sizes, 6)?.map(|window| Window { rope_theta: Some(local_theta), ..window }),
        ..describe_gemma(sizes)
    })
}

/// `1 / sqrt(hidden / heads)` for the model of so many layers: no key of the file tells it.
fn scale_by_hidden_share(sizes: Sizes, layers: usize) -> Option<f32> {
    (sizes.num_layers == layers).then(|| 1.0 / ((sizes.hidden_size / sizes.num_heads) as f32).sqrt())
}
