//! What a file says about its tokenizer, as plain values.

/// The `tokenizer.ggml.*` keys that matter, read but not yet checked against each other.
///
/// [`Tokenizer::from_data`](super::Tokenizer::from_data) checks them. Tests fill this in by hand.
#[derive(Clone, Debug, Default)]
pub struct TokenizerData {
    /// `tokenizer.ggml.model`: `llama` (SentencePiece) or `gpt2` (byte-level BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: how byte-level BPE splits a text into words. SentencePiece has none.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the token of each id, spelt as the vocabulary spells it.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`: SentencePiece merges the pair whose token has the highest score. Absent: all 0.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.token_type`. Absent: all normal.
    pub token_types: Option<Vec<i32>>,
    /// `tokenizer.ggml.merges`: pairs in order of rank, the two parts separated by a space. Byte-level BPE needs it.
    pub merges: Option<Vec<String>>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `general.name`: some tokens take the space after them away in models of one name.
    pub model_name: Option<String>,
    /// The keys of `SPECIAL_KEYS` that the file has, with their ids.
    pub special_ids: Vec<(&'static str, u32)>,
}

pub const NAME: &str = "general.name";
pub const MODEL: &str = "tokenizer.ggml.model";
pub const TOKENS: &str = "tokenizer.ggml.tokens";
pub const SCORES: &str = "tokenizer.ggml.scores";
pub const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub const MERGES: &str = "tokenizer.ggml.merges";
pub const PRE: &str = "tokenizer.ggml.pre";
pub const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub const BOS: &str = "tokenizer.ggml.bos_token_id";
pub const EOS: &str = "tokenizer.ggml.eos_token_id";
pub const EOT: &str = "tokenizer.ggml.eot_token_id";
pub const EOM: &str = "tokenizer.ggml.eom_token_id";
pub const UNK: &str = "tokenizer.ggml.unknown_token_id";
pub const FIM_PRE: &str = "tokenizer.ggml.fim_pre_token_id";
pub const FIM_SUF: &str = "tokenizer.ggml.fim_suf_token_id";
pub const FIM_MID: &str = "tokenizer.ggml.fim_mid_token_id";
pub const OLD_FIM_PRE: &str = "tokenizer.ggml.prefix_token_id";
pub const OLD_FIM_SUF: &str = "tokenizer.ggml.suffix_token_id";
pub const OLD_FIM_MID: &str = "tokenizer.ggml.middle_token_id";
pub const FIM_PAD: &str = "tokenizer.ggml.fim_pad_token_id";
pub const FIM_REP: &str = "tokenizer.ggml.fim_rep_token_id";
pub const FIM_SEP: &str = "tokenizer.ggml.fim_sep_token_id";

/// The keys that hold one token id. Those without a meaning here are read all the same, so that an id outside the
/// vocabulary is refused.
pub const SPECIAL_KEYS: [&str; 17] = [
    BOS,
    EOS,
    EOT,
    EOM,
    UNK,
    FIM_PAD,
    FIM_REP,
    FIM_SEP,
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.mask_token_id",
    FIM_PRE,
    FIM_SUF,
    FIM_MID,
    OLD_FIM_PRE,
    OLD_FIM_SUF,
    OLD_FIM_MID,
];

impl TokenizerData {
    /// The id that `key` names, if the file has the key.
    pub fn special(&self, key: &str) -> Option<u32> {
        self.special_ids.iter().find(|(name, _)| *name == key).map(|(_, id)| *id)
    }
}
