//! The validated parameters of a sequence. The server checks ranges before it makes these.

use crate::types::TokenId;

/// How a token is chosen from a row of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy (argmax, ties to the lowest id). Finite, `0 ..= 2`... the server's limit.
    pub temperature: f32,
    /// Keep the `top_k` largest; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose mass reaches `top_p`; 1 keeps all. `(0, 1]`.
    pub top_p: f32,
    /// Keep tokens with at least `min_p` times the largest probability; 0 keeps all. `[0, 1]`.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the window; 1 changes nothing. `> 0`.
    pub repetition_penalty: f32,
    /// How many of the last tokens (prompt and generated) the repetition penalty looks at; 0 is all of them.
    pub repetition_window: u32,
    /// Subtracted once from the logit of every token generated so far. `[-2, 2]`.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token once for each time it was generated. `[-2, 2]`.
    pub frequency_penalty: f32,
    /// Added to single logits, first in the chain. Ids are within the vocabulary, values finite or -inf.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Key of the random stream, with the sequence's index and the position.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// When a sequence ends. Stop strings are text and live at the edge.
#[derive(Clone, Debug, PartialEq)]
pub struct StopParams {
    /// `>= 1`.
    pub max_tokens: u32,
    /// Until so many tokens were generated, end-of-generation and stop tokens are not sampled at all.
    pub min_tokens: u32,
    /// End-of-generation ids do not end the sequence (and are not suppressed).
    pub ignore_eos: bool,
    pub stop_token_ids: Vec<TokenId>,
}

impl Default for StopParams {
    fn default() -> Self {
        Self { max_tokens: 256, min_tokens: 0, ignore_eos: false, stop_token_ids: Vec::new() }
    }
}

/// All that the engine knows about how to continue a sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SequenceParams {
    pub sampling: SamplingParams,
    pub stopping: StopParams,
    /// `Some(k)`: report the chosen token's log-probability and the `k` most likely tokens. `k` may be 0.
    pub logprobs: Option<u32>,
}
