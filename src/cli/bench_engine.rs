//! `bench engine`: the engine without server or text; prints the columns of llama-batched-bench.
//!
//! For each batch size B: *prefill* is the time from an idle engine to the first token of all B prompts (each sequence
//! asks for one token); *decode* is the time of N steps in which all B sequences are past their prompt. Prompts are
//! distinct random tokens, submitted before the clock starts.
//!
//! llama-batched-bench counts the same work: its PP is from the first batch of prompt tokens to the end of the last,
//! with logits for the last token of each prompt only, and its TG is N steps of B rows with logits for each. It starts
//! both clocks with filled batches, and both programs cut prompts into pieces of 512 rows and warm up first. Where the
//! two differ, it is to our cost:
//! - we sample: an argmax over each row of logits is in both our times, and the next step reads the token chosen; the
//!   peer looks at no logits and decodes random tokens;
//! - our scheduling is in both times, its batches are made by its loop (TG) or before the clock starts (PP);
//! - while our last prompts are computed the first sequences decode already, so that we read contexts up to
//!   `B * pp / 512` tokens longer than its `pp + 1 ..= pp + N`.
//!
//! `--tokens` tells what each sequence was asked and what it produced: the tokens of `generate --temperature 0`.

use super::error::CliError;
use super::model_args::{EngineLimits, LoadedEngine, ModelArgs, load};
use super::output;
use crate::engine::request::{NewSequence, Stage};
use crate::sampling::params::{SamplingParams, SequenceParams, StopParams};
use crate::types::{SeqId, TokenId};
use std::sync::Arc;
use std::time::Instant;

#[derive(clap::Args)]
pub struct BenchEngineArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt tokens of a sequence.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pp: u32,
    /// Tokens to generate for a sequence.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    tg: u32,
    /// Sequences decoded together.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,4,16,32",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Most rows (tokens) in a step.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_num_batched_tokens: u32,
    /// Write one JSON object a line instead of the table.
    #[arg(long)]
    json: bool,
    /// Add the prompt and the tokens of each sequence to the JSON.
    #[arg(long, requires = "json")]
    tokens: bool,
}

const HEAD: &str = "\
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
";

/// Times of one batch size, in seconds.
struct Row {
    pp: u32,
    tg: u32,
    batch: u32,
    prefill_s: f64,
    decode_s: f64,
    /// Where they are asked for: prompts and tokens.
    sequences: Option<serde_json::Value>,
}

/// A sequence of the engine; its id is its place in the list.
struct Sequence {
    prompt: Arc<[TokenId]>,
    token_ids: Vec<TokenId>,
}

/// Runs the command.
pub fn run(args: BenchEngineArgs) -> Result<(), CliError> {
    let largest = args.batch.iter().copied().max().unwrap_or(1);
    let limits = EngineLimits {
        max_num_seqs: largest,
        max_num_batched_tokens: args.max_num_batched_tokens,
        default_max_model_len: Some(longest(&args)),
    };
    let mut loaded = load(&args.model, limits)?;
    fits(&args, loaded.max_model_len)?;
    loaded.engine.bind_thread();
    warm_up(&mut loaded, args.pp)?;
    if !args.json && output::print_more(HEAD)?.is_break() {
        return Ok(());
    }
    for batch in &args.batch {
        let row = measure(&mut loaded, *batch, &args)?;
        let line = if args.json { row.json() } else { row.table() };
        if output::print_more(&format!("{line}\n"))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Refuses sequences that end before the last timed step: each decodes `tg` tokens after the first one, which the
/// prompt's last row gives, and before them one in each step that computes the prompts of others.
fn fits(args: &BenchEngineArgs, max_model_len: u32) -> Result<(), CliError> {
    let BenchEngineArgs { pp, tg, max_num_batched_tokens, .. } = args;
    for batch in &args.batch {
        let steps = (u64::from(*batch) * u64::from(*pp)).div_ceil(u64::from((*max_num_batched_tokens).max(1)));
        let longest = u64::from(*pp) + u64::from(*tg) + steps;
        if longest > u64::from(max_model_len) {
            return Err(CliError::Usage(format!(
                "--pp {pp}, --tg {tg} and --batch {batch}: {longest} tokens with those that come while prompts are \
                 computed, more than the context of {max_model_len}"
            )));
        }
    }
    Ok(())
}

/// Tokens of the longest sequence: while the last prompts are computed, the first sequences already decode.
fn longest(args: &BenchEngineArgs) -> u32 {
    args.pp.saturating_add(max_tokens(args))
}

fn max_tokens(args: &BenchEngineArgs) -> u32 {
    args.tg.saturating_add(args.pp).saturating_add(16)
}

/// Prompt tokens of the warm-up, or fewer where `--pp` is less: what fits with those fits with these.
const WARM_UP_TOKENS: u32 = 8;

/// Touches every weight and buffer once.
fn warm_up(loaded: &mut LoadedEngine, pp: u32) -> Result<(), CliError> {
    let mut sequences = submit(loaded, 1, pp.min(WARM_UP_TOKENS), 2)?;
    while loaded.engine.has_work() {
        step(loaded, &mut sequences)?;
    }
    Ok(())
}

/// Submits `batch` sequences of distinct random prompts; ids start at 0.
fn submit(
    loaded: &mut LoadedEngine,
    batch: u32,
    prompt_tokens: u32,
    max_tokens: u32,
) -> Result<Vec<Sequence>, CliError> {
    let params = Arc::new(SequenceParams {
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stopping: StopParams { max_tokens, ignore_eos: true, ..StopParams::default() },
        logprobs: None,
    });
    let vocab_size = u64::from(loaded.info.vocab_size);
    let submit_one = |index: u32| {
        let prompt: Arc<[TokenId]> =
            (0..prompt_tokens).map(|i| (mix(u64::from(index) << 32 | u64::from(i)) % vocab_size) as TokenId).collect();
        // Without the prefix cache: what is measured is computing.
        let sequence = NewSequence::new(Arc::clone(&prompt), Arc::clone(&params));
        let refused = |e| CliError::Config(format!("--batch {batch}: {e}"));
        loaded.engine.submit(SeqId(u64::from(index)), sequence).map_err(refused)?;
        Ok(Sequence { prompt, token_ids: Vec::with_capacity(max_tokens as usize) })
    };
    (0..batch).map(submit_one).collect()
}

/// A fixed scramble of 64 bits (the finaliser of splitmix64, Steele et al. 2014).
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One step, whose tokens go to their sequences. Tells how many sequences it had.
fn step(loaded: &mut LoadedEngine, sequences: &mut [Sequence]) -> Result<u32, CliError> {
    let report = loaded.engine.step();
    for output in &report.outputs {
        let (sampled, _) = output.result.as_ref().map_err(|e| CliError::Internal(e.to_string()))?;
        sequences[output.id.0 as usize].token_ids.push(sampled.token);
    }
    Ok(report.num_sequences)
}

fn measure(loaded: &mut LoadedEngine, batch: u32, args: &BenchEngineArgs) -> Result<Row, CliError> {
    let mut prefilled = submit(loaded, batch, args.pp, 1)?;
    let started = Instant::now();
    while loaded.engine.has_work() {
        step(loaded, &mut prefilled)?;
    }
    let prefill_s = started.elapsed().as_secs_f64();

    let mut sequences = submit(loaded, batch, args.pp, max_tokens(args))?;
    let too_many = |reason: String| {
        Err(CliError::Config(format!(
            "--kv-cache or --max-num-batched-tokens: too small for --batch {batch}, {reason}"
        )))
    };
    while !all_decode(loaded, batch) {
        step(loaded, &mut sequences)?;
        if let Some(ended) = (0..batch).find(|id| loaded.engine.stage(SeqId(u64::from(*id))).is_none()) {
            return too_many(format!("sequence {ended} ended before all had a token"));
        }
    }
    let started = Instant::now();
    for _ in 0..args.tg {
        let n = step(loaded, &mut sequences)?;
        if n != batch {
            return too_many(format!("{n} sequences were in a step"));
        }
    }
    let decode_s = started.elapsed().as_secs_f64();
    for id in 0..batch {
        loaded.engine.abort(SeqId(u64::from(id)));
    }
    let sequences = args.tokens.then(|| sequences_json(&prefilled, &sequences));
    Ok(Row { pp: args.pp, tg: args.tg, batch, prefill_s, decode_s, sequences })
}

fn all_decode(loaded: &LoadedEngine, batch: u32) -> bool {
    (0..batch).all(|id| loaded.engine.stage(SeqId(u64::from(id))) == Some(Stage::Decode))
}

/// The prompts, the one token of each in the timed prefill, and the tokens of the run whose decode steps were timed.
fn sequences_json(prefilled: &[Sequence], decoded: &[Sequence]) -> serde_json::Value {
    let both = prefilled.iter().zip(decoded);
    let object = |(prefilled, decoded): (&Sequence, &Sequence)| {
        serde_json::json!({
            "prompt": *decoded.prompt, "prefill_token_ids": prefilled.token_ids, "token_ids": decoded.token_ids,
        })
    };
    both.map(object).collect()
}

impl Row {
    /// Tokens of all prompts, of all completions, and of both.
    fn tokens(&self) -> (f64, f64, f64) {
        let (pp, tg) = (f64::from(self.pp) * f64::from(self.batch), f64::from(self.tg) * f64::from(self.batch));
        (pp, tg, pp + tg)
    }

    fn table(&self) -> String {
        let (pp, tg, all) = self.tokens();
        let total = self.prefill_s + self.decode_s;
        format!(
            "| {:5} | {:6} | {:4} | {:6} | {:8.3} | {:8.2} | {:8.3} | {:8.2} | {:8.3} | {:8.2} |",
            self.pp,
            self.tg,
            self.batch,
            all,
            self.prefill_s,
            pp / self.prefill_s,
            self.decode_s,
            tg / self.decode_s,
            total,
            all / total
        )
    }

    fn json(&self) -> String {
        let (pp, tg, all) = self.tokens();
        let total = self.prefill_s + self.decode_s;
        let mut object = serde_json::json!({
            "pp": self.pp, "tg": self.tg, "pl": self.batch, "n_kv": all,
            "t_pp": self.prefill_s, "speed_pp": pp / self.prefill_s,
            "t_tg": self.decode_s, "speed_tg": tg / self.decode_s,
            "t": total, "speed": all / total,
        });
        if let Some(sequences) = &self.sequences {
            object["sequences"] = sequences.clone();
        }
        object.to_string()
    }
}
