//! OLMo 2 and 3: norms behind the sublayers only, and of the whole Q and K projections. OLMo 3 has layers with a
//! window, which rotate without scaling, by frequencies of their own where the file has them.

use super::{Sizes, window};
use crate::model::description::{Description, NormPlacement, Positions, QkNorm, Window};
use crate::model::keys::{ConfigError, Keys};
use crate::ops::rope::Pairing;

pub fn describe(keys: &Keys<'_>, sizes: Sizes) -> Result<Description, ConfigError> {
    let theta = keys.positive_or("rope.freq_base", 10_000.0)?;
    let local_theta = keys.positive_or("rope.freq_base_swa", theta)?;
    Ok(Description {
        placement: NormPlacement::After,
        positions: Positions::Rotary(Pairing::Halves),
        qk_norm: QkNorm::Projection,
        window: window(keys, sizes, 4)?.map(|window| Window { rope_theta: Some(local_theta), ..window }),
        ..Description::default()
    })
}
