//! When a sequence ends by a token or a length. Stop strings are text and live at the edge.

use super::params::StopParams;
use crate::types::{Finish, FinishReason, TokenId};

/// Whether the sequence ends with `token`, just chosen.
///
/// `num_generated` and `num_tokens` (prompt and generated) count it; `max_len` is the context length.
/// A stop token comes before `max_tokens`, and that before the context (SMP-11).
pub fn finish(
    token: TokenId,
    num_generated: u32,
    num_tokens: u32,
    params: &StopParams,
    eog_ids: &[TokenId],
    max_len: u32,
) -> Option<Finish> {
    let is_eog = !params.ignore_eos && eog_ids.contains(&token);
    if is_eog || params.stop_token_ids.contains(&token) {
        Some(Finish { reason: FinishReason::Stop, by_stop_token: true })
    } else if num_generated >= params.max_tokens {
        Some(Finish { reason: FinishReason::Length, by_stop_token: false })
    } else if num_tokens >= max_len {
        Some(Finish { reason: FinishReason::ContextLimit, by_stop_token: false })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(token: TokenId, num_generated: u32, num_tokens: u32, params: &StopParams) -> Option<FinishReason> {
        finish(token, num_generated, num_tokens, params, &[2], 10).map(|finish| finish.reason)
    }

    #[test]
    fn smp_11_stop_before_length_before_context() {
        covers!("SMP-11");
        for row in crate::spec::table("SMP-11").rows() {
            let params = StopParams {
                max_tokens: 4,
                stop_token_ids: row.list("stop_ids"),
                ignore_eos: row.get("ignore_eos"),
                ..StopParams::default()
            };
            let found = reason(row.get("token"), row.get("generated"), row.get("known"), &params);
            let found = found.map_or(String::new(), |reason| format!("{reason:?}"));
            assert_eq!(found, row.text("end"), "token {} of {}", row.text("token"), row.text("known"));
        }
    }

    #[test]
    fn smp_11_ignore_eos_leaves_stop_ids() {
        covers!("SMP-11");
        let params = StopParams { ignore_eos: true, stop_token_ids: vec![7], ..StopParams::default() };
        assert_eq!(reason(2, 1, 5, &params), None);
        assert_eq!(reason(7, 1, 5, &params), Some(FinishReason::Stop));
        assert!(finish(7, 1, 5, &params, &[2], 10).is_some_and(|finish| finish.by_stop_token));
    }
}
