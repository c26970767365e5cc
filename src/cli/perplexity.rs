//! `perplexity`: how well a model predicts a text.
//!
//! The text's tokens are cut into windows of `--context` tokens (a rest shorter than a window is left out). Where the
//! model adds BOS, it replaces the first token of each window. The second half of each window is scored, so that every
//! scored token has at least half a window before it: the procedure of llama.cpp's perplexity tool, so that figures
//! compare. Perplexity is `exp(mean of -ln p(token))`.

use super::error::CliError;
use super::model_args::{LoadedModel, ModelArgs, load_model};
use super::output;
use crate::kv_cache::{KvCache, KvShape};
use crate::model::decoder::Decoder;
use crate::model::{ForwardBatch, Model};
use crate::types::{BlockId, Slot, TokenId};
use std::path::PathBuf;
use std::sync::Arc;

/// Rows computed, and scored, at a time.
const CHUNK_ROWS: usize = 128;

#[derive(clap::Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text.
    #[arg(long, value_name = "TEXT")]
    file: PathBuf,
    /// Tokens in a window.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    context: u32,
    /// Write one JSON object.
    #[arg(long)]
    json: bool,
}

/// Sums over the scored tokens.
#[derive(Default)]
struct Score {
    /// Sum of -ln p.
    nll: f64,
    /// Sum of (-ln p)^2.
    nll_squared: f64,
    tokens: u64,
}

impl Score {
    fn add(&mut self, nll: f64) {
        self.nll += nll;
        self.nll_squared += nll * nll;
        self.tokens += 1;
    }

    fn perplexity(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }

    /// One standard error of the perplexity, by the delta method.
    fn standard_error(&self) -> f64 {
        let n = self.tokens as f64;
        let mean = self.nll / n;
        let variance = (self.nll_squared / n - mean * mean).max(0.0);
        (variance / (n - 1.0).max(1.0)).sqrt() * self.perplexity()
    }
}

/// Runs the command.
pub fn run(args: PerplexityArgs) -> Result<(), CliError> {
    let text = output::read_text("--file", &args.file)?;
    let loaded = load_model(&args.model, Some(args.context))?;
    let window = args.context as usize;
    if args.context > loaded.config.context_length {
        let context = loaded.config.context_length;
        return Err(CliError::Config(format!("--context {window}: the model's context is {context}")));
    }
    let bos = loaded.tokenizer.adds_bos().then(|| loaded.tokenizer.bos()).flatten();
    let tokens = loaded.tokenizer.encode(&text, true, false).map_err(|e| CliError::BadData(format!("--file: {e}")))?;
    if tokens.len() < 2 * window {
        let n = tokens.len();
        return Err(CliError::BadData(format!("--file: {n} tokens, at least {} are needed", 2 * window)));
    }
    let score = score_windows(loaded, &args, &tokens, bos)?;
    let (ppl, error) = (score.perplexity(), score.standard_error());
    let line = if args.json {
        let object = serde_json::json!({
            "perplexity": ppl, "standard_error": error, "tokens": score.tokens, "context": window,
        });
        object.to_string()
    } else {
        format!("perplexity {ppl:.4} +/- {error:.4} over {} tokens, windows of {window}", score.tokens)
    };
    output::print(&format!("{line}\n"))
}

fn score_windows(
    loaded: LoadedModel,
    args: &PerplexityArgs,
    tokens: &[TokenId],
    bos: Option<TokenId>,
) -> Result<Score, CliError> {
    let (window, block_size) = (args.context as usize, args.model.block_size as usize);
    let c = loaded.config;
    let blocks = window.div_ceil(block_size);
    let shape = KvShape {
        layers: c.num_layers,
        kv_heads: c.num_kv_heads,
        head_dim: c.head_dim,
        block_size,
        kv_type: loaded.kv_type,
    };
    let mut kv_cache = KvCache::new(shape, blocks).map_err(|e| CliError::Config(format!("--context: {e}")))?;
    let mut model = Decoder::new(c, loaded.weights, Arc::clone(&loaded.pool), loaded.isa, CHUNK_ROWS, CHUNK_ROWS);
    let mut score = Score::default();
    let mut bar = super::progress::Bar::new(tokens.len() as u64, "scoring");
    let mut batch = ForwardBatch::default();
    let _awake = loaded.pool.begin_step();
    for (index, tokens) in tokens.chunks_exact(window).enumerate() {
        let mut tokens = tokens.to_vec();
        if let Some(bos) = bos {
            tokens[0] = bos;
        }
        for start in (0..window).step_by(CHUNK_ROWS) {
            let end = (start + CHUNK_ROWS).min(window);
            fill_chunk(&mut batch, &tokens, start..end, block_size);
            let logits = model.forward(&batch, &mut kv_cache);
            let vocab_size = logits.len() / batch.logits_rows.len().max(1);
            for (row, logits) in batch.logits_rows.iter().zip(logits.chunks_exact(vocab_size.max(1))) {
                let next = tokens[start + *row as usize + 1];
                score.add(-log_probability(logits, next));
            }
        }
        bar.set(((index + 1) * window) as u64);
    }
    bar.finish();
    if !score.nll.is_finite() {
        return Err(CliError::BadData("logits are not finite".into()));
    }
    Ok(score)
}

/// One sequence's rows `range`, in blocks 0, 1, 2 …; rows of the second half ask for logits, but for the last one.
fn fill_chunk(batch: &mut ForwardBatch, tokens: &[TokenId], range: std::ops::Range<usize>, block_size: usize) {
    batch.clear();
    let first_scored = tokens.len() / 2;
    for position in range.clone() {
        batch.token_ids.push(tokens[position]);
        batch.positions.push(position as u32);
        batch.slot_mapping.push(Slot(position as u32));
        if position >= first_scored && position + 1 < tokens.len() {
            batch.logits_rows.push((position - range.start) as u32);
        }
    }
    let blocks = range.end.div_ceil(block_size) as u32;
    batch.block_tables.extend((0..blocks).map(BlockId));
    batch.block_table_start.extend([0, blocks]);
    batch.query_start_loc.extend([0, range.len() as u32]);
    batch.seq_lens.push(range.end as u32);
}

/// `ln softmax(logits)[token]` in f64.
fn log_probability(logits: &[f32], token: TokenId) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    f64::from(logits[token as usize] - max) - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probability_of_known_odds() {
        // Odds 1 : 3 : 4 give probabilities 1/8, 3/8, 4/8, whatever the offset.
        let logits = [1f32.ln() + 50.0, 3f32.ln() + 50.0, 4f32.ln() + 50.0];
        for (token, p) in [(0, 0.125f64), (1, 0.375), (2, 0.5)] {
            assert!((log_probability(&logits, token) - p.ln()).abs() < 1e-5);
        }
    }

    #[test]
    fn a_uniform_guess_among_seven_has_perplexity_seven() {
        let mut score = Score::default();
        (0..10).for_each(|_| score.add(7f64.ln()));
        assert!((score.perplexity() - 7.0).abs() < 1e-12 && score.standard_error() < 1e-6);
    }

    #[test]
    fn chunks_score_the_second_half_but_the_last_token() {
        let tokens: Vec<TokenId> = (0..10).collect();
        let mut batch = ForwardBatch::default();
        fill_chunk(&mut batch, &tokens, 4..10, 4);
        assert_eq!(batch.logits_rows, [1, 2, 3, 4], "positions 5, 6, 7, 8");
        assert_eq!(batch.block_tables.len(), 3);
        assert_eq!(batch.seq_lens, [10]);
    }
}
