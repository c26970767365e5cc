//! `generate`: complete one prompt and write the text as it comes.

use super::error::CliError;
use super::model_args::{EngineLimits, LoadedEngine, ModelArgs, load};
use super::output;
use crate::engine::request::{Finish, NewSequence};
use crate::sampling::params::{SamplingParams, SequenceParams, StopParams};
use crate::text::{Detokenizer, StopStrings, Tokenizer};
use crate::types::{FinishReason, SeqId, TokenId};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Rows of a prefill step: large enough to fill the matmul tiles, small enough to stop at within a moment.
const STEP_ROWS: u32 = 512;

#[derive(clap::Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Most tokens to generate.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// 0 takes the most likely token each time.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f32,
    /// Sample among the K most likely; 0 is all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Sample among the most likely tokens whose mass reaches P.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Drop tokens less likely than P times the most likely.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Seed of the random stream [default: drawn, and reported].
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Go on after an end-of-generation token.
    #[arg(long)]
    ignore_eos: bool,
    /// End before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Write one JSON object instead of the text.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct PromptArgs {
    /// The text to continue.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with the text to continue.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// The token ids to continue, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_tokens: Option<Vec<TokenId>>,
}

/// What a completion came to.
struct Completion {
    text: String,
    token_ids: Vec<TokenId>,
    finish_reason: Option<FinishReason>,
    prefill_ms: f64,
    decode_ms: f64,
}

/// Loads a model for one sequence, on the calling thread, and the sequence's prompt, which leaves room for a token.
pub(super) fn load_with_prompt(
    model: &ModelArgs,
    prompt: &PromptArgs,
) -> Result<(LoadedEngine, Vec<TokenId>), CliError> {
    let limits = EngineLimits { max_num_seqs: 1, max_num_batched_tokens: STEP_ROWS, default_max_model_len: None };
    let loaded = load(model, limits)?;
    loaded.engine.bind_thread();
    let prompt = prompt_tokens(prompt, &loaded.tokenizer)?;
    let limit = loaded.max_model_len as usize;
    if prompt.len() >= limit {
        return Err(CliError::BadData(format!("the prompt has {} tokens, the context {limit}", prompt.len())));
    }
    Ok((loaded, prompt))
}

/// Runs the command.
pub fn run(args: GenerateArgs) -> Result<(), CliError> {
    check_ranges(&args)?;
    let (mut loaded, prompt) = load_with_prompt(&args.model, &args.prompt)?;
    let seed = args.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let sequence = NewSequence::new(prompt.clone().into(), Arc::new(params(&args, seed)));
    let completion = complete(&mut loaded, sequence, &args)?;
    if args.json {
        let object = serde_json::json!({
            "text": completion.text,
            "token_ids": completion.token_ids,
            "finish_reason": completion.finish_reason.map_or("cancelled", FinishReason::as_str),
            "prompt_tokens": prompt.len(),
            "completion_tokens": completion.token_ids.len(),
            "seed": seed,
            "timings": { "prefill_ms": completion.prefill_ms, "decode_ms": completion.decode_ms },
        });
        output::print(&format!("{object}\n"))?;
    } else {
        if std::io::stdout().is_terminal() {
            output::print("\n")?;
        }
        tracing::info!(
            seed,
            tokens = completion.token_ids.len(),
            finish_reason = completion.finish_reason.map_or("cancelled", FinishReason::as_str),
            prefill_ms = completion.prefill_ms as u64,
            tokens_per_second = completion.token_ids.len() as f64 / (completion.decode_ms / 1000.0).max(1e-9),
            "generated"
        );
    }
    Ok(())
}

fn check_ranges(args: &GenerateArgs) -> Result<(), CliError> {
    let bad = |flag: &str, value: f32, range: &str| Err(CliError::Usage(format!("--{flag} {value}: not in {range}")));
    if !(0.0..=2.0).contains(&args.temperature) {
        return bad("temperature", args.temperature, "0 ..= 2");
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return bad("top-p", args.top_p, "(0, 1]");
    }
    if !(0.0..=1.0).contains(&args.min_p) {
        return bad("min-p", args.min_p, "[0, 1]");
    }
    if args.stop.iter().any(String::is_empty) {
        return Err(CliError::Usage("--stop: the empty text".into()));
    }
    Ok(())
}

fn params(args: &GenerateArgs, seed: u64) -> SequenceParams {
    SequenceParams {
        sampling: SamplingParams {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            seed,
            ..SamplingParams::default()
        },
        stopping: StopParams { max_tokens: args.max_tokens, ignore_eos: args.ignore_eos, ..StopParams::default() },
        logprobs: None,
    }
}

/// The ids of the prompt, at least one and all within the vocabulary.
pub(super) fn prompt_tokens(args: &PromptArgs, tokenizer: &Tokenizer) -> Result<Vec<TokenId>, CliError> {
    let (flag, text) = match (&args.prompt, &args.prompt_file, &args.prompt_tokens) {
        (Some(text), _, _) => ("--prompt", text.clone()),
        (_, Some(file), _) => ("--prompt-file", output::read_text("--prompt-file", file)?),
        (_, _, Some(ids)) => {
            if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
                let size = tokenizer.vocab_size();
                return Err(CliError::Usage(format!("--prompt-tokens: id {id} is outside the vocabulary of {size}")));
            }
            return Ok(ids.clone());
        }
        (None, None, None) => return Err(CliError::Usage("one of --prompt, --prompt-file, --prompt-tokens".into())),
    };
    let ids = tokenizer.encode(&text, true, false).map_err(|e| CliError::BadData(format!("{flag}: {e}")))?;
    if ids.is_empty() {
        return Err(CliError::Usage(format!("{flag}: no tokens, and this model adds no BOS")));
    }
    Ok(ids)
}

/// Steps the engine until the sequence ends, a stop string is found, nobody reads the text any more, or Ctrl-C.
fn complete(loaded: &mut LoadedEngine, sequence: NewSequence, args: &GenerateArgs) -> Result<Completion, CliError> {
    let interrupted = on_interrupt();
    let id = SeqId(0);
    let refused = |e| CliError::Config(format!("--kv-cache: {e}"));
    loaded.engine.submit(id, sequence).map_err(refused)?;
    let mut text = Output::new(&loaded.tokenizer, args)?;
    let started = Instant::now();
    let mut first_token = None;
    let mut finish_reason = None;
    let wanted = |text: &Output<'_>| !text.unread && !interrupted.load(Ordering::Relaxed);
    while loaded.engine.has_work() && finish_reason.is_none() && wanted(&text) {
        let report = loaded.engine.step();
        for sequence in &report.outputs {
            let (sampled, finish) = sequence.result.as_ref().map_err(|e| CliError::Internal(e.to_string()))?;
            first_token.get_or_insert_with(Instant::now);
            let stopped = text.push(sampled.token, *finish)?;
            finish_reason = if stopped { Some(FinishReason::Stop) } else { finish.map(|f| f.reason) };
        }
    }
    text.finish(finish_reason)?;
    let first = first_token.unwrap_or_else(Instant::now);
    Ok(Completion {
        text: text.text,
        token_ids: text.token_ids,
        finish_reason,
        prefill_ms: first.duration_since(started).as_secs_f64() * 1e3,
        decode_ms: first.elapsed().as_secs_f64() * 1e3,
    })
}

/// Turns tokens into text, holds back what may become a stop string, and writes the rest.
struct Output<'a> {
    tokenizer: &'a Tokenizer,
    detokenizer: Detokenizer,
    stop: StopStrings,
    /// Write the text as it comes.
    stream: bool,
    text: String,
    token_ids: Vec<TokenId>,
    stopped: bool,
    /// The reader of the text has closed its end.
    unread: bool,
}

impl<'a> Output<'a> {
    fn new(tokenizer: &'a Tokenizer, args: &GenerateArgs) -> Result<Self, CliError> {
        let stop = StopStrings::new(args.stop.clone(), false).map_err(|e| CliError::Usage(format!("--stop: {e}")))?;
        Ok(Self {
            tokenizer,
            detokenizer: Detokenizer::new(),
            stop,
            stream: !args.json,
            text: String::new(),
            token_ids: Vec::new(),
            stopped: false,
            unread: false,
        })
    }

    /// True where the token completed a stop string.
    fn push(&mut self, token: TokenId, finish: Option<Finish>) -> Result<bool, CliError> {
        self.token_ids.push(token);
        if finish.is_some_and(|f| f.by_stop_token) {
            return Ok(false);
        }
        let delta = self.detokenizer.push(self.tokenizer.token_bytes(token));
        let found = self.stop.push(&delta);
        self.emit(&found.emit)?;
        self.stopped = found.matched.is_some();
        Ok(self.stopped)
    }

    /// Writes what was held back, unless a stop string ended the text.
    fn finish(&mut self, reason: Option<FinishReason>) -> Result<(), CliError> {
        if self.stopped || reason.is_none() {
            return Ok(());
        }
        let tail = self.detokenizer.finish();
        let found = self.stop.push(&tail);
        self.emit(&found.emit)?;
        if found.matched.is_none() {
            let rest = self.stop.finish();
            self.emit(&rest)?;
        }
        Ok(())
    }

    fn emit(&mut self, text: &str) -> Result<(), CliError> {
        self.text.push_str(text);
        if self.stream && !text.is_empty() {
            self.unread |= output::print_more(text)?.is_break();
        }
        Ok(())
    }
}

/// A flag that Ctrl-C sets; the second Ctrl-C ends the program.
fn on_interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let watch = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if seen.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    };
    if std::thread::Builder::new().name("llorch-signal".into()).spawn(watch).is_err() {
        tracing::warn!("no thread for signals: Ctrl-C ends the program at once");
    }
    flag
}
