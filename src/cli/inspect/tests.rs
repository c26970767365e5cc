//! What `inspect` shows of small models, by hand.

use super::*;
use crate::gguf::test_model::TestModel;
use clap::{Args, Parser};

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    need: NeedArgs,
}

fn need(file: &ModelFile, flags: &[&str]) -> Result<Option<Need>, CliError> {
    let flags = Flags::try_parse_from([&["inspect"][..], flags].concat()).expect("flags");
    Need::of(file, &flags.need)
}

fn report(model: &TestModel, flags: &[&str]) -> Report {
    let file = ModelFile::from_bytes(model.build()).expect("valid");
    Report::new(&file, need(&file, flags).expect("no bad flag")).expect("described")
}

#[test]
fn sizes_parameters_and_memory_are_those_of_the_shape() {
    let report = report(&TestModel { head_dim: 8, ..TestModel::default() }, &[]);
    let json = report.json(Path::new("m.gguf"));
    assert_eq!(json["head_dim"], 8);
    assert_eq!(json["vocab_size"], 320);
    // Embedding and head; per layer q and o 64 x 32, k and v 64 x 16, three of 64 x 128, two norms; one more norm.
    assert_eq!(json["parameters"], 2 * 320 * 64 + 2 * (2 * 2048 + 2 * 1024 + 3 * 8192 + 128) + 64);
    // K and V, 2 bytes, 2 layers, 2 KV heads of 8, 1024 tokens.
    assert_eq!(json["memory"]["kv_f16_bytes_per_1024_tokens"], 2 * 2 * 2 * 2 * 8 * 1024);
    assert_eq!(json["tensor_types"][0]["type"], "F32");
    assert_eq!(json["tokenizer"]["eos"], 2);
}

/// By hand, for 2 layers, 2 KV heads of 16, a vocabulary of 320 (10 panels), hidden 64, FFN 128.
#[test]
fn the_memory_needed_is_that_of_the_flags() {
    let flags = ["--max-model-len", "100", "--max-num-seqs", "3", "--kv-type", "f32", "--block-size", "16"];
    let json = report(&TestModel::default(), &flags).json(Path::new("m.gguf"));
    let memory = &json["memory"];
    assert_eq!(memory["kv_bytes_per_token"], 2 * 2 * 2 * 16 * 4);
    // 100 tokens are 7 blocks of 16.
    assert_eq!(memory["kv_cache_bytes"], 3 * 7 * 16 * 512);
    // Every matrix here is whole panels.
    assert_eq!(memory["loaded_weight_bytes"], 4 * json["parameters"].as_u64().expect("a count"));
    let parts = ["loaded_weight_bytes", "kv_cache_bytes", "workspace_bytes"].map(|key| memory[key].as_u64());
    assert_eq!(memory["total_bytes"].as_u64(), parts.into_iter().sum());
    let text = report(&TestModel::default(), &["--max-num-seqs", "1"]).text(Path::new("m.gguf"));
    assert!(text.contains("for 1 sequence of 256 tokens\n"), "{text}");
    assert!(text.contains("  KV cache        64.00 KiB (f16, 256 bytes a token): --kv-cache 65536\n"), "{text}");
}

#[test]
fn flags_that_serve_refuses_are_refused() {
    let file = ModelFile::from_bytes(TestModel::default().build()).expect("valid");
    for flags in [["--max-model-len", "257"], ["--kv-type", "f64"]] {
        let error = need(&file, &flags).expect_err("refused").to_string();
        assert!(error.contains(flags[0]) && error.contains(flags[1]), "{error}");
    }
}

#[test]
fn a_model_that_cannot_run_has_no_memory_needed() {
    for model in [
        TestModel::default().with_key("general.architecture", "other"),
        TestModel::default().with_tensor_type("blk.0.attn_q.weight", 9),
    ] {
        let report = report(&model, &[]);
        assert!(report.json(Path::new("m"))["memory"]["total_bytes"].is_null());
        assert!(!report.text(Path::new("m")).contains("memory needed"));
    }
}

/// The defaults are those of `serve`.
#[test]
fn the_flags_are_those_of_serve() {
    let of = |command: clap::Command, flag: &str| {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).expect("a flag").clone();
        arg.get_default_values().to_vec()
    };
    let serve = <crate::cli::serve::ServeArgs as clap::Args>::augment_args(clap::Command::new("serve"));
    let inspect = InspectArgs::augment_args(clap::Command::new("inspect"));
    for flag in ["max-model-len", "max-num-seqs", "max-num-batched-tokens", "kv-type", "block-size"] {
        assert_eq!(of(inspect.clone(), flag), of(serve.clone(), flag), "{flag}");
    }
}

#[test]
fn missing_keys_are_dashes_and_unsupported_types_are_marked() {
    let model = TestModel::default()
        .with_key_removed("llama.context_length")
        .with_tensor_type("blk.0.attn_q.weight", 9)
        .with_key("general.name", "evil\x1b[2J");
    let text = report(&model, &[]).text(Path::new("m.gguf"));
    assert!(text.contains("context           -\n"), "{text}");
    assert!(text.contains("Q8_1              1 tensor, 4.50 KiB, not supported yet\n"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_wrong_type_is_an_error_that_names_the_key() {
    let file = ModelFile::from_bytes(TestModel::default().with_key("llama.block_count", "two").build());
    let error = Report::new(&file.expect("valid"), None).err().expect("refused");
    assert!(error.to_string().contains("llama.block_count"), "{error}");
}
