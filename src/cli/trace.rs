//! `trace`: run a prompt and write the twelve checkpoints of it as `.npy` files and an `index.json`.

use super::error::CliError;
use super::generate::{PromptArgs, load_with_prompt};
use super::model_args::{LoadedEngine, ModelArgs};
use crate::engine::request::NewSequence;
use crate::kernels::{Isa, IsaError};
use crate::model::Model;
use crate::sampling::params::{SamplingParams, SequenceParams, StopParams};
use crate::trace::describe::{Circumstances, describe};
use crate::trace::recorder::Recorder;
use crate::trace::{INDEX_FILE, Trace};
use crate::types::{SeqId, TokenId};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(clap::Args)]
pub struct TraceArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Tokens to generate, the most likely each time; end-of-generation tokens do not end it.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Folder to write, made where it does not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Traces are compared in f32: the cache of this command is f32 unless the user says otherwise.
pub fn with_defaults(command: clap::Command) -> clap::Command {
    let kv_type = |arg: clap::Arg| {
        arg.default_value("f32").help("Type of the cached K and V: f32, as references have it, f16, bf16 or q8_0")
    };
    command.mut_subcommand("trace", |trace| trace.mut_arg("kv_type", kv_type))
}

/// Runs the command.
pub fn run(args: TraceArgs) -> Result<(), CliError> {
    let (mut loaded, prompt) = load_with_prompt(&args.model, &args.prompt)?;
    let isa: Isa = args.model.isa.parse().map_err(|e: IsaError| CliError::Config(e.to_string()))?;
    let run = Circumstances {
        weights: &loaded.matrix_types,
        kv_type: args.model.kv_type.clone(),
        isa: isa.name().into(),
        prompt: &prompt,
    };
    let description = describe(loaded.engine.model(), run);
    let recorder = record(&mut loaded, prompt, args.max_tokens)?;
    let trace = recorder.finish(description).map_err(|e| CliError::Internal(e.to_string()))?;
    write(&args.out, &trace)?;
    tracing::info!(
        tokens = ?trace.index.tokens,
        positions = trace.index.positions(),
        files = trace.arrays.len() + 1,
        "traced"
    );
    Ok(())
}

/// Runs the sequence to its end under observation.
fn record(loaded: &mut LoadedEngine, prompt: Vec<TokenId>, max_tokens: u32) -> Result<Recorder, CliError> {
    let params = SequenceParams {
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stopping: StopParams { max_tokens, ignore_eos: true, ..StopParams::default() },
        logprobs: None,
    };
    let (engine, id) = (&mut loaded.engine, SeqId(0));
    let sequence = NewSequence::new(prompt.into(), Arc::new(params));
    engine.submit(id, sequence).map_err(|e| CliError::Config(format!("--kv-cache: {e}")))?;
    let vocab_size = engine.model().vocab_size();
    engine.observe(id, Box::new(Recorder::new(vocab_size)));
    while engine.has_work() {
        let report = engine.step();
        for output in &report.outputs {
            output.result.as_ref().map_err(|e| CliError::Internal(e.to_string()))?;
        }
    }
    let observer: Option<Box<dyn Any>> = engine.take_observer().map(|observer| observer as Box<dyn Any>);
    let recorder = observer.and_then(|observer| observer.downcast::<Recorder>().ok());
    recorder.map(|recorder| *recorder).ok_or_else(|| CliError::Internal("the observer is gone".into()))
}

/// Writes the folder, the index last: a folder that was not finished is no trace.
fn write(out: &Path, trace: &Trace) -> Result<(), CliError> {
    let io = |path: &Path, e: std::io::Error| CliError::Io(format!("--out {}: {e}", path.display()));
    std::fs::create_dir_all(out).map_err(|e| io(out, e))?;
    let index = out.join(INDEX_FILE);
    if index.exists() {
        std::fs::remove_file(&index).map_err(|e| io(&index, e))?;
    }
    for (name, bytes) in trace.files() {
        let path = out.join(name);
        std::fs::write(&path, bytes).map_err(|e| io(&path, e))?;
    }
    Ok(())
}
