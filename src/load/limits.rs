//! How long a target may keep silent and how much it may send: no target holds up a run or fills the memory.

use std::time::Duration;

/// How long the client waits for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, and for what the target says of itself.
    pub answer: Duration,
    /// gRPC: a connection with requests under way that was silent for this long is asked for a sign of life (an HTTP/2
    /// ping), and is lost after as long again without one.
    pub keep_alive: Duration,
    /// HTTP: for the head of an answer, and then for each piece of it.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(5),
            keep_alive: Duration::from_secs(30),
            // A request may wait long for its turn, and the server need say nothing meanwhile.
            idle: Duration::from_secs(600),
        }
    }
}

/// What `future` gives within `limit`; or else a line that says how long was waited.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, String> {
    let late = |_| format!("no answer within {} s", limit.as_secs_f64());
    tokio::time::timeout(limit, future).await.map_err(late)
}

/// Tokens beyond twice those asked for, and bytes beyond those of the tokens: room for whatever a server sends beside.
const SPARE_TOKENS: u64 = 256;
const SPARE_BYTES: u64 = 64 << 20;
/// Of the events or messages of one token. Servers of completions need less than 2 KiB, with all that they tell.
const TOKEN_BYTES: u64 = 16 << 10;

/// What one answer may still bring.
#[derive(Debug)]
pub(super) struct Allowance {
    tokens: u64,
    bytes: u64,
}

impl Allowance {
    /// For a request of `gen_tokens` tokens.
    pub fn new(gen_tokens: u32) -> Self {
        let asked = u64::from(gen_tokens);
        Self { tokens: 2 * asked + SPARE_TOKENS, bytes: TOKEN_BYTES * asked + SPARE_BYTES }
    }

    /// Takes off what came. A server that goes beyond does not mean to end; the error says what there is too much of.
    pub fn take(&mut self, tokens: u64, bytes: u64) -> Result<(), &'static str> {
        let less = |left: u64, came: u64, what| left.checked_sub(came).ok_or(what);
        self.tokens = less(self.tokens, tokens, "more than twice the tokens asked for")?;
        self.bytes = less(self.bytes, bytes, "more bytes than the tokens asked for can need")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_bring_what_was_asked_for_and_some_more() {
        let mut allowance = Allowance::new(1000);
        assert!((0..1000).all(|_| allowance.take(1, TOKEN_BYTES).is_ok()));
        assert_eq!(allowance.take(1256, SPARE_BYTES), Ok(()));
        assert!(allowance.take(1, 0).is_err_and(|what| what.contains("tokens asked")));
        assert!(allowance.take(0, 1).is_err_and(|what| what.contains("bytes")));
        assert!(Allowance::new(u32::MAX).take(u64::from(u32::MAX), 1 << 40).is_ok());
    }
}
