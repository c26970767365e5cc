//! Granite 3: Llama with four factors: of the embedding, the scores, the sublayers and the logits.

use crate::model::description::{Description, Positions};
use crate::model::keys::{ConfigError, Keys};

pub fn describe(keys: &Keys<'_>) -> Result<Description, ConfigError> {
    let default = Description::default();
    if keys.nonzero("expert_count")?.is_some() {
        return Err(keys.bad("expert_count", "above 0", "is not supported in granite files"));
    }
    // The files switch the rotation by this key.
    let rotates = keys.bool("rope.scaling.finetuned")?.unwrap_or(true);
    let logit_divisor = keys.positive("logit_scale")?.ok_or_else(|| keys.bad("logit_scale", "", "is missing"))?;
    Ok(Description {
        positions: if rotates { default.positions } else { Positions::None },
        embedding_scale: keys.switched_off_by_zero("embedding_scale")?.unwrap_or(1.0),
        residual_scale: keys.switched_off_by_zero("residual_scale")?.unwrap_or(1.0),
        attention_scale: keys.switched_off_by_zero("attention.scale")?,
        logit_scale: 1.0 / logit_divisor,
        ..default
    })
}
