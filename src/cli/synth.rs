//! `synth`: model files with seeded random weights, for benchmarks and tests at real sizes.

use super::error::CliError;
use super::output::model_file_error;
use super::progress::Bar;
use super::whole_file::write_whole;
use crate::gguf::ModelFile;
use crate::gguf::test_model::TestModel;
use crate::gguf::writer::Value;
use crate::quant::WeightType;
use std::fs::File;
use std::io::{BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct SynthArgs {
    /// Sizes: tiny, 15m, 160m, 1b (TinyLlama-1.1B), 3b (Llama-3.2-3B), 7b (Llama-2-7B), gpt2, gpt2-medium.
    #[arg(long, value_name = "NAME")]
    shape: String,
    /// Type of the matrices: f32, f16, bf16, q8_0, q4_0, q4_k, … (f16 where a row is no multiple of the type's block).
    #[arg(long = "type", value_name = "TYPE")]
    weight_type: String,
    /// Architecture: llama, mixtral, gpt2, qwen2, qwen3, qwen3moe, phi3, gemma, gemma2, gemma3, stablelm, granite,
    /// olmo2, starcoder2 [default: the shape's, else llama].
    #[arg(long, value_name = "NAME")]
    arch: Option<String>,
    /// Context length to write [default: the shape's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// The same seed gives the same file.
    #[arg(long, value_name = "S", default_value_t = 42)]
    seed: u64,
    /// File whose tokenizer is copied [default: a synthetic vocabulary of 32000; 50257 for the shapes of GPT-2].
    #[arg(long, value_name = "GGUF")]
    vocab: Option<PathBuf>,
    /// The file to write; one that exists is replaced when the new one is complete.
    #[arg(value_name = "OUT.gguf")]
    out: PathBuf,
}

/// Sizes of a named shape.
struct Shape {
    name: &'static str,
    hidden: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    context: usize,
}

const fn shape(
    name: &'static str,
    [hidden, ffn, layers]: [usize; 3],
    [heads, kv_heads]: [usize; 2],
    context: usize,
) -> Shape {
    Shape { name, hidden, ffn, layers, heads, kv_heads, context }
}

const SHAPES: [Shape; 8] = [
    shape("tiny", [256, 688, 4], [8, 4], 512),
    shape("15m", [288, 768, 6], [6, 6], 1024),
    shape("160m", [768, 2048, 12], [12, 12], 2048),
    shape("1b", [2048, 5632, 22], [32, 4], 2048),
    shape("3b", [3072, 8192, 28], [24, 8], 4096),
    shape("7b", [4096, 11008, 32], [32, 32], 4096),
    shape("gpt2", [768, 3072, 12], [12, 12], 1024),
    shape("gpt2-medium", [1024, 4096, 24], [16, 16], 1024),
];

const SYNTHETIC_VOCAB: usize = 32_000;
const GPT2_VOCAB: usize = 50_257;

impl Shape {
    fn is_gpt2(&self) -> bool {
        self.name.starts_with("gpt2")
    }

    /// This shape in the architecture of `small`, whose proportions it keeps where the shape says nothing.
    fn applied_to(&self, small: TestModel) -> TestModel {
        let head_dim = self.hidden / self.heads;
        let rope_dims = small.rope_dims.map(|dims| dims * head_dim / small.head_dim / 2 * 2);
        // llama.cpp has one size of Q, K and V for GPT-2.
        let kv_heads = if small.layout.position_table { self.heads } else { self.kv_heads };
        let mut model = TestModel {
            hidden: self.hidden,
            ffn: self.ffn,
            layers: self.layers,
            heads: self.heads,
            kv_heads,
            head_dim,
            rope_dims,
            window: small.window.map(|_| self.context / 4),
            ..small
        };
        for (key, value) in &mut model.more_keys {
            if *key == "expert_feed_forward_length" {
                *value = Value::U32(self.ffn as u32);
            }
        }
        model
    }
}

/// Writes the file.
pub fn run(args: SynthArgs) -> Result<(), CliError> {
    let model = describe(&args)?;
    write_whole(&args.out, |file| {
        write_model(file, &model).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => CliError::Usage(error.to_string()),
            _ => CliError::Io(format!("writing {}: {error}", args.out.display())),
        })
    })
}

/// The model that the flags ask for.
fn describe(args: &SynthArgs) -> Result<TestModel, CliError> {
    let Some(shape) = SHAPES.iter().find(|shape| shape.name == args.shape) else {
        let names = SHAPES.map(|shape| shape.name).join(", ");
        return Err(CliError::Usage(format!("--shape {}: unknown; known are {names}", args.shape)));
    };
    let arch = args.arch.as_deref().unwrap_or(if shape.is_gpt2() { "gpt2" } else { "llama" });
    let known = TestModel::ARCHITECTURES;
    let Some(small) = TestModel::of(arch).filter(|_| known.contains(&arch)) else {
        return Err(CliError::Usage(format!("--arch {arch}: unknown; known are {}", known.join(", "))));
    };
    let weight_type = weight_type(&args.weight_type)?;
    let (vocab, tokenizer) = match &args.vocab {
        None => (if shape.is_gpt2() { GPT2_VOCAB } else { SYNTHETIC_VOCAB }, None),
        Some(path) => {
            let keys = tokenizer_keys(path)?;
            (keys.0, Some(keys.1))
        }
    };
    Ok(TestModel {
        name: format!("synthetic-{}-{}", small.name, shape.name),
        vocab,
        context: args.context.map_or(shape.context, |n| n as usize),
        weight_type,
        // `tiny` has an FFN of 688 = 21.5 * 32: its `ffn_down` cannot be of an integer type.
        odd_rows_as: Some(WeightType::F16),
        seed: args.seed,
        tokenizer,
        ..shape.applied_to(small)
    })
}

fn weight_type(name: &str) -> Result<WeightType, CliError> {
    let lower_case = |ty: WeightType| ty.to_string().to_lowercase();
    WeightType::ALL.into_iter().find(|ty| lower_case(*ty) == name).ok_or_else(|| {
        let known = WeightType::ALL.map(lower_case).join(", ");
        CliError::Usage(format!("--type {name}: unknown; known are {known}"))
    })
}

/// The number of tokens of another file, and its `tokenizer.*` keys.
fn tokenizer_keys(path: &Path) -> Result<(usize, Vec<(String, Value)>), CliError> {
    let error = |e| model_file_error(path, &e);
    let file = ModelFile::open(path).map_err(error)?;
    let metadata = file.metadata();
    let tokens = metadata.byte_strings("tokenizer.ggml.tokens").map_err(error)?.map_or(0, |tokens| tokens.len());
    if tokens == 0 {
        return Err(CliError::BadData(format!("{}: key tokenizer.ggml.tokens is missing or empty", path.display())));
    }
    let keys = metadata.keys().filter(|key| key.starts_with("tokenizer."));
    let copied = keys.filter_map(|key| {
        let (value_type, bytes) = metadata.raw(key)?;
        Some((key.to_owned(), Value::Raw(value_type, bytes.into())))
    });
    Ok((tokens, copied.collect()))
}

fn write_model(file: File, model: &TestModel) -> std::io::Result<()> {
    let mut bar = Bar::new(model.tensor_bytes()?, "writing");
    let mut done = 0;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = model.write_with_progress(&mut out, &mut |bytes| {
        done += bytes;
        bar.set(done);
    });
    bar.finish();
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn args(shape: &str, weight_type: &str, out: &Path) -> SynthArgs {
        SynthArgs {
            shape: shape.into(),
            weight_type: weight_type.into(),
            arch: None,
            context: Some(77),
            seed: 1,
            vocab: None,
            out: out.into(),
        }
    }

    #[test]
    fn the_file_is_complete_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("tiny.gguf");
        fs::write(&out, "an older file").expect("written");
        run(args("tiny", "q8_0", &out)).expect("written");
        let file = ModelFile::open(&out).expect("valid");
        assert_eq!(file.metadata().require_u32("llama.context_length").expect("there"), 77);
        assert_eq!(file.metadata().require_u32("llama.feed_forward_length").expect("there"), 688);
        assert_eq!(file.tensor("token_embd.weight").expect("there").dims, [256, 32_000]);
        let weight_type = |name: &str| file.tensor(name).expect("there").weight_type().expect("known");
        assert_eq!(weight_type("blk.3.ffn_up.weight"), WeightType::Q8_0);
        assert_eq!(weight_type("blk.3.ffn_down.weight"), WeightType::F16);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn the_tokenizer_of_another_file_is_copied() {
        let dir = tempfile::tempdir().expect("a folder");
        let (vocab, out) = (dir.path().join("vocab.gguf"), dir.path().join("out.gguf"));
        let donor = TestModel { vocab: 301, ..TestModel::default() }.with_key("tokenizer.ggml.odd", 7u32);
        fs::write(&vocab, donor.build()).expect("written");
        run(SynthArgs { vocab: Some(vocab.clone()), ..args("tiny", "f16", &out) }).expect("written");
        let (from, to) = (ModelFile::open(&vocab).expect("valid"), ModelFile::open(&out).expect("valid"));
        assert_eq!(to.metadata().require_u32("llama.vocab_size").expect("there"), 301);
        let keys: Vec<&str> = from.metadata().keys().filter(|key| key.starts_with("tokenizer.")).collect();
        assert!(keys.contains(&"tokenizer.ggml.odd"));
        for key in keys {
            assert_eq!(from.metadata().raw(key), to.metadata().raw(key), "{key}");
        }
    }

    #[test]
    fn every_architecture_takes_every_shape() {
        for arch in TestModel::ARCHITECTURES {
            for shape in &SHAPES {
                let args = SynthArgs { arch: Some(arch.into()), ..args(shape.name, "q4_k", Path::new("x.gguf")) };
                let model = describe(&args).expect("described");
                assert!(model.tensor_bytes().expect("planned") > 1 << 20, "{arch} {}", shape.name);
                assert_eq!(model.head_dim * model.heads, model.hidden, "{arch} {}", shape.name);
            }
        }
    }

    #[test]
    fn a_shape_of_gpt2_is_a_gpt2() {
        let model = describe(&args("gpt2-medium", "f16", Path::new("x.gguf"))).expect("described");
        assert_eq!((model.arch.as_str(), model.vocab, model.layers), ("gpt2", 50_257, 24));
        let llama = SynthArgs { arch: Some("llama".into()), ..args("gpt2", "f16", Path::new("x.gguf")) };
        assert_eq!(describe(&llama).expect("described").arch, "llama");
    }

    #[test]
    fn what_cannot_be_written_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("x.gguf");
        let message = |args: SynthArgs| run(args).expect_err("refused").to_string();
        let unknown = message(SynthArgs { arch: Some("llama-yarn".into()), ..args("tiny", "f32", &out) });
        assert!(unknown.starts_with("--arch llama-yarn: unknown; known are llama, mixtral, gpt2, "), "{unknown}");
        assert!(message(args("huge", "f32", &out)).contains("--shape huge"));
        assert!(message(args("tiny", "q4", &out)).contains("--type q4"));
        assert!(message(args("tiny", "f32", dir.path())).contains("not a regular file"));
        assert!(message(args("tiny", "f32", &dir.path().join("none/x.gguf"))).contains("cannot create"));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
}
