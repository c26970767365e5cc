//! Qwen 2 and 2.5 (biases on Q, K and V), Qwen 3 (norms of Q and K instead), and Qwen 3's mixtures.

use super::{experts, feed_forward_length};
use crate::model::description::{Description, Positions, QkNorm};
use crate::model::keys::{ConfigError, Keys, MAX_WIDTH};
use crate::ops::rope::Pairing;

pub fn describe_qwen2() -> Description {
    Description { positions: Positions::Rotary(Pairing::Halves), ..Description::default() }
}

pub fn describe_qwen3() -> Description {
    Description { qk_norm: QkNorm::Head, ..describe_qwen2() }
}

/// The router's weights are normalised over the experts used, as in the dense layers' place in Mixtral.
pub fn describe_qwen3moe(keys: &Keys<'_>) -> Result<Description, ConfigError> {
    let used = keys.size("expert_used_count", 4096)?;
    let default = match keys.contains("expert_feed_forward_length") {
        true => 0,
        false => feed_forward_length(keys)? / used,
    };
    let intermediate_size = keys.size_or("expert_feed_forward_length", default, MAX_WIDTH)?;
    if intermediate_size == 0 {
        return Err(keys.bad("feed_forward_length", 0, "is less than expert_used_count, and experts have no width"));
    }
    let experts = experts(keys, intermediate_size)?;
    if experts.is_none() {
        return Err(keys.bad("expert_count", 0, "must not be zero"));
    }
    Ok(Description { experts, ..describe_qwen3() })
}
