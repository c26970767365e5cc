//! `inspect`: what a model file holds and what running it takes.

use super::error::CliError;
use super::memory_need::{Need, NeedArgs};
use super::output::{model_file_error, print};
use crate::gguf::error::shown;
use crate::gguf::tensor_type::TensorType;
use crate::gguf::{GgufError, Metadata, ModelFile};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct InspectArgs {
    /// Model file (GGUF), or the first file of a split model.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    need: NeedArgs,
}

/// Prints the description.
pub fn run(args: InspectArgs) -> Result<(), CliError> {
    let file = ModelFile::open(&args.path).map_err(|error| model_file_error(&args.path, &error))?;
    let need = Need::of(&file, &args.need)?;
    let report = Report::new(&file, need).map_err(|error| model_file_error(&args.path, &error))?;
    let text = if args.json { format!("{:#}\n", report.json(&args.path)) } else { report.text(&args.path) };
    print(&text)
}

/// What is shown. Keys that the file lacks are `None`: files of any architecture, and without weights, can be shown.
struct Report {
    version: u32,
    parts: usize,
    file_bytes: u64,
    header_sha256: String,
    architecture: String,
    name: Option<String>,
    sizes: Sizes,
    vocab_size: Option<u64>,
    parameters: u64,
    types: Vec<TypeCount>,
    tokenizer: Tokenizer,
    need: Option<Need>,
}

struct Sizes {
    context_length: Option<u64>,
    layers: Option<u64>,
    hidden: Option<u64>,
    heads: Option<u64>,
    kv_heads: Option<u64>,
    head_dim: Option<u64>,
    value_dim: Option<u64>,
    ffn: Option<u64>,
}

struct TypeCount {
    name: &'static str,
    tensors: u64,
    bytes: u64,
    supported: bool,
}

struct Tokenizer {
    model: Option<String>,
    pre: Option<String>,
    tokens: Option<u64>,
    bos: Option<u64>,
    eos: Option<u64>,
}

impl Report {
    fn new(file: &ModelFile, need: Option<Need>) -> Result<Self, GgufError> {
        let m = file.metadata();
        let architecture = shown(m.require_str("general.architecture")?.as_bytes());
        let tokenizer = Tokenizer::new(m)?;
        let embedding_rows = file.tensor("token_embd.weight").and_then(|tensor| tensor.dims.get(1).copied());
        let vocab_size = match (embedding_rows, tokenizer.tokens) {
            (Some(rows), _) => Some(rows),
            (None, Some(tokens)) => Some(tokens),
            (None, None) => m.u64(&format!("{architecture}.vocab_size"))?,
        };
        Ok(Self {
            version: file.version(),
            parts: file.num_parts(),
            file_bytes: file.file_bytes(),
            header_sha256: file.header_sha256(),
            name: m.str("general.name")?.map(|name| shown(name.as_bytes())),
            sizes: Sizes::new(m, &architecture)?,
            architecture,
            vocab_size,
            parameters: file.tensors().map(|tensor| tensor.num_elements()).fold(0, u64::saturating_add),
            types: type_counts(file),
            tokenizer,
            need,
        })
    }

    fn weight_bytes(&self) -> u64 {
        self.types.iter().map(|count| count.bytes).sum()
    }

    /// K and V of 1024 tokens in f16; `None` where a size is missing or senseless.
    fn kv_bytes_per_1k(&self) -> Option<u64> {
        let s = &self.sizes;
        let width = s.head_dim?.checked_add(s.value_dim?)?.checked_mul(s.kv_heads?)?;
        width.checked_mul(s.layers?)?.checked_mul(2 * 1024)
    }

    fn json(&self, path: &Path) -> Value {
        let types = self
            .types
            .iter()
            .map(|t| json!({ "type": t.name, "tensors": t.tensors, "bytes": t.bytes, "supported": t.supported }));
        let (s, t) = (&self.sizes, &self.tokenizer);
        json!({
            "path": path.display().to_string(),
            "gguf_version": self.version,
            "files": self.parts,
            "file_bytes": self.file_bytes,
            "header_sha256": self.header_sha256,
            "architecture": self.architecture,
            "name": self.name,
            "context_length": s.context_length,
            "num_layers": s.layers,
            "hidden_size": s.hidden,
            "num_heads": s.heads,
            "num_kv_heads": s.kv_heads,
            "head_dim": s.head_dim,
            "intermediate_size": s.ffn,
            "vocab_size": self.vocab_size,
            "parameters": self.parameters,
            "tensor_types": types.collect::<Vec<_>>(),
            "tokenizer": { "model": t.model, "pre": t.pre, "tokens": t.tokens, "bos": t.bos, "eos": t.eos },
            "memory": self.memory_json(),
        })
    }

    fn memory_json(&self) -> Value {
        let n = self.need.as_ref();
        json!({
            "weight_bytes": self.weight_bytes(),
            "kv_f16_bytes_per_1024_tokens": self.kv_bytes_per_1k(),
            "max_model_len": n.map(|n| n.max_model_len),
            "max_num_seqs": n.map(|n| n.max_num_seqs),
            "max_num_batched_tokens": n.map(|n| n.max_num_batched_tokens),
            "kv_type": n.map(|n| n.kv_type.to_string()),
            "loaded_weight_bytes": n.map(|n| n.weights),
            "kv_bytes_per_token": n.map(|n| n.kv_per_token),
            "kv_cache_bytes": n.map(|n| n.kv_cache),
            "workspace_bytes": n.map(|n| n.workspace),
            "total_bytes": n.map(Need::total),
        })
    }

    fn text(&self, path: &Path) -> String {
        let (s, t) = (&self.sizes, &self.tokenizer);
        let text = |value: &Option<String>| value.clone().unwrap_or("-".into());
        let mut rows = vec![
            ("file", shown(path.display().to_string().as_bytes())),
            ("format", format!("GGUF v{}, {} in {}", self.version, size(self.file_bytes), files(self.parts))),
            ("architecture", self.architecture.clone()),
            ("name", text(&self.name)),
            ("parameters", format!("{} ({})", self.parameters, short_count(self.parameters))),
            ("context", number(s.context_length)),
            ("layers", number(s.layers)),
            ("hidden size", number(s.hidden)),
            ("heads", number(s.heads)),
            ("KV heads", number(s.kv_heads)),
            ("head size", number(s.head_dim)),
            ("FFN size", number(s.ffn)),
            ("vocabulary", number(self.vocab_size)),
            ("tokenizer", format!("{}, pre-tokenizer {}", text(&t.model), text(&t.pre))),
            ("BOS, EOS", format!("{}, {}", number(t.bos), number(t.eos))),
            ("weights", size(self.weight_bytes())),
            ("KV per 1k tokens", self.kv_bytes_per_1k().map_or("-".into(), |bytes| format!("{} (f16)", size(bytes)))),
            ("header SHA-256", self.header_sha256.clone()),
        ];
        for count in &self.types {
            let note = if count.supported { "" } else { ", not supported yet" };
            let tensors = if count.tensors == 1 { "tensor" } else { "tensors" };
            rows.push((count.name, format!("{} {tensors}, {}{note}", count.tensors, size(count.bytes))));
        }
        rows.extend(self.need.iter().flat_map(need_rows));
        let mut out = String::new();
        for (name, value) in rows {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name:<17} {value}");
        }
        out
    }
}

impl Sizes {
    fn new(m: &Metadata, architecture: &str) -> Result<Self, GgufError> {
        // Some architectures have a list for each layer where others have one number; lists are not shown.
        let get = |key: &str| {
            let key = format!("{architecture}.{key}");
            if m.type_name(&key).is_some_and(|name| name.starts_with("array")) { Ok(None) } else { m.u64(&key) }
        };
        let (hidden, heads) = (get("embedding_length")?, get("attention.head_count")?);
        let even_share = hidden.zip(heads).and_then(|(hidden, heads)| hidden.checked_div(heads));
        Ok(Self {
            context_length: get("context_length")?,
            layers: get("block_count")?,
            hidden,
            heads,
            kv_heads: if m.contains(&format!("{architecture}.attention.head_count_kv")) {
                get("attention.head_count_kv")?
            } else {
                heads
            },
            head_dim: get("attention.key_length")?.or(even_share),
            value_dim: get("attention.value_length")?.or(even_share),
            ffn: get("feed_forward_length")?,
        })
    }
}

impl Tokenizer {
    fn new(m: &Metadata) -> Result<Self, GgufError> {
        let text = |key| Ok(m.str(key)?.map(|text| shown(text.as_bytes())));
        Ok(Self {
            model: text("tokenizer.ggml.model")?,
            pre: text("tokenizer.ggml.pre")?,
            tokens: m.byte_strings("tokenizer.ggml.tokens")?.map(|tokens| tokens.len() as u64),
            bos: m.u64("tokenizer.ggml.bos_token_id")?,
            eos: m.u64("tokenizer.ggml.eos_token_id")?,
        })
    }
}

/// Tensors and bytes of each type, in the order of ggml's numbers.
fn type_counts(file: &ModelFile) -> Vec<TypeCount> {
    let mut counts: BTreeMap<u32, TypeCount> = BTreeMap::new();
    for tensor in file.tensors() {
        let supported = TensorType::from_id(tensor.ggml_type).is_some_and(|ty| ty.weight_type().is_some());
        let zero = TypeCount { name: tensor.type_name(), tensors: 0, bytes: 0, supported };
        let count = counts.entry(tensor.ggml_type).or_insert(zero);
        count.tensors += 1;
        // Tensors do not overlap, so the sum is at most the files' size.
        count.bytes += tensor.num_bytes;
    }
    counts.into_values().collect()
}

fn need_rows(n: &Need) -> [(&'static str, String); 4] {
    let sequences = if n.max_num_seqs == 1 { "1 sequence" } else { &format!("{} sequences", n.max_num_seqs) };
    let per_token = size(n.kv_per_token);
    [
        ("memory needed", format!("{} for {sequences} of {} tokens", size(n.total()), n.max_model_len)),
        ("  weights", size(n.weights)),
        ("  KV cache", format!("{} ({}, {per_token} a token): --kv-cache {}", size(n.kv_cache), n.kv_type, n.kv_cache)),
        ("  workspace", format!("{} for steps of {} tokens", size(n.workspace), n.max_num_batched_tokens)),
    ]
}

fn number(value: Option<u64>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".into() } else { format!("{count} files") }
}

/// Bytes in the largest binary unit that leaves at least 1.
fn size(bytes: u64) -> String {
    for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            return format!("{:.2} {name}", bytes as f64 / unit as f64);
        }
    }
    format!("{bytes} bytes")
}

/// A count as people say it: 1.10 B, 260.0 K.
fn short_count(count: u64) -> String {
    for (unit, name) in [(1e9, "B"), (1e6, "M"), (1e3, "K")] {
        if count as f64 >= unit {
            return format!("{:.2} {name}", count as f64 / unit);
        }
    }
    count.to_string()
}

#[cfg(test)]
mod tests;
