//! The choice among more sequences than are returned: what they bring is held back until all have ended, and the ones
//! of the highest cumulative log-probability are sent, the best first.

use super::outbox::{self, Outbox};
use super::proto::{Finished, Token};

/// What one sequence has brought so far.
#[derive(Default)]
struct Candidate {
    text: String,
    tokens: Vec<Token>,
    /// Sum of the model's own log-probabilities of its tokens, before any processor.
    logprob: f64,
    finished: Option<Finished>,
}

/// Too much is held back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge(pub usize);

/// The sequences of a request of which the best `n` are returned.
pub(super) struct BestOf {
    candidates: Vec<Candidate>,
    n: usize,
    bytes: usize,
    max_bytes: usize,
}

impl BestOf {
    /// The best `n` of `best_of`; together they may hold `max_bytes`.
    pub fn new(n: u32, best_of: u32, max_bytes: usize) -> Self {
        let candidates = (0..best_of).map(|_| Candidate::default()).collect();
        Self { candidates, n: n as usize, bytes: 0, max_bytes }
    }

    /// A token of sequence `index`, and what it adds to the sequence's output.
    pub fn push(&mut self, index: u32, text: &str, tokens: Vec<Token>, logprob: f32) -> Result<(), TooLarge> {
        self.bytes += outbox::weight(text, &tokens);
        if self.bytes > self.max_bytes {
            return Err(TooLarge(self.max_bytes));
        }
        if let Some(candidate) = self.candidates.get_mut(index as usize) {
            candidate.text.push_str(text);
            candidate.tokens.extend(tokens);
            candidate.logprob += f64::from(logprob);
        }
        Ok(())
    }

    /// The last message of its sequence, as if it were returned.
    pub fn finish(&mut self, finished: Finished) {
        if let Some(candidate) = self.candidates.get_mut(finished.index as usize) {
            candidate.finished = Some(finished);
        }
    }

    /// Sends the best; the index of each is its rank. Equals stay in order.
    pub fn send(mut self, outbox: &Outbox) {
        self.candidates.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
        for (rank, candidate) in (0..).zip(self.candidates.into_iter().take(self.n)) {
            if !candidate.text.is_empty() || !candidate.tokens.is_empty() {
                outbox.push_whole(rank, &candidate.text, candidate.tokens);
            }
            if let Some(finished) = candidate.finished {
                outbox.finish(Finished { index: rank, ..finished });
            }
        }
    }
}
