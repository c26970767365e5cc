//! What the server tells about itself.

/// The loaded model, as `GetModelInfo` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    pub name: String,
    pub architecture: String,
    /// The type of most weights.
    pub file_type: String,
    /// Tokens the model was made for.
    pub context_length: u32,
    pub vocab_size: u32,
    /// Number of weights.
    pub parameters: u64,
    /// Hexadecimal, of the file's header.
    pub header_sha256: String,
}

/// The process, as `GetServerInfo` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// Name of the instruction-set path.
    pub isa: String,
    pub threads: usize,
}

impl ServerInfo {
    /// Equal fingerprints mean equal outputs for equal requests, seeds, weights and types of KV cache.
    pub fn fingerprint(&self, model: &ModelInfo) -> String {
        let sha: String = model.header_sha256.chars().take(12).collect();
        format!("llorch-{}-{}-{sha}", env!("CARGO_PKG_VERSION"), self.isa)
    }
}
