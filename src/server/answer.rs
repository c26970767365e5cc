//! A response on its way out: what a client leaves unread is bounded over all responses together.

use super::state::ServerState;
use super::status;
use hyper::body::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tonic::Status;

/// Frames of this size and less need no room: the transport holds as much of each stream anyway
/// ([`super::limits::ServerLimits::max_send_buffer_bytes`]). Longer ones go to it in pieces of that size.
const FREE_BYTES: usize = 64 << 10;

/// Pieces of a frame that the transport has taken. It takes the next when the client has read most of those before.
type Taken = AtomicU64;

/// Frames of one connection that take room.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Mutex<Vec<Waiting>>);

/// A frame that exists, maybe.
#[derive(Debug)]
struct Waiting {
    taken: Weak<Taken>,
    /// When it was looked at last.
    before: Option<u64>,
}

impl Outgoing {
    /// Returns when an answer lies there of which nothing was read for `time`, after twice that at the latest. That
    /// others are read does not count: they may be small and many.
    pub async fn stalls(&self, time: Duration) {
        loop {
            sleep(time).await;
            if self.any_rests() {
                return;
            }
        }
    }

    /// Whether nothing of an answer was taken since the last look.
    fn any_rests(&self) -> bool {
        let mut any_rests = false;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|waiting| {
            let taken = waiting.taken.upgrade().map(|taken| taken.load(Ordering::Relaxed));
            any_rests |= taken.is_some() && taken == waiting.before;
            waiting.before = taken;
            taken.is_some()
        });
        any_rests
    }

    fn add(&self, taken: &Arc<Taken>) {
        let waiting = Waiting { taken: Arc::downgrade(taken), before: None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(waiting);
    }
}

/// The bytes of a frame, and the room they take until the last part of them is sent or dropped.
struct Held {
    data: Bytes,
    _taken: Arc<Taken>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// What the transport has not taken of a frame.
#[derive(Default)]
pub(super) struct Rest {
    data: Bytes,
    taken: Weak<Taken>,
}

impl Rest {
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The next piece; an empty one after the last.
    pub fn take(&mut self) -> Bytes {
        let piece = self.data.split_to(self.data.len().min(FREE_BYTES));
        if let Some(taken) = self.taken.upgrade() {
            taken.fetch_add(1, Ordering::Relaxed);
        }
        piece
    }
}

/// The same bytes, which take room while they exist; or why there is none.
pub(super) fn hold(state: &ServerState, outgoing: &Outgoing, data: Bytes) -> Result<Rest, Status> {
    if data.len() <= FREE_BYTES {
        return Ok(Rest { data, taken: Weak::new() });
    }
    let limit = state.limits.max_answer_bytes;
    let Some(permits) = u32::try_from(data.len()).ok().filter(|_| data.len() <= limit) else {
        return Err(status::response_too_large(limit));
    };
    let Ok(room) = Semaphore::try_acquire_many_owned(Arc::clone(&state.answering), permits) else {
        state.metrics.count_rejection("answers_full");
        return Err(status::queue_full(1000));
    };
    let taken = Arc::default();
    outgoing.add(&taken);
    let weak = Arc::downgrade(&taken);
    Ok(Rest { data: Bytes::from_owner(Held { data, _taken: taken, _room: room }), taken: weak })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_to_be_read() {
        let outgoing = Outgoing::default();
        let (slow, unread) = (Arc::default(), Arc::default());
        outgoing.add(&slow);
        assert!(!outgoing.any_rests(), "it is new");
        slow.fetch_add(1, Ordering::Relaxed);
        outgoing.add(&unread);
        assert!(!outgoing.any_rests(), "one was read, one is new");
        slow.fetch_add(1, Ordering::Relaxed);
        assert!(outgoing.any_rests(), "one was not read");
        drop(unread);
        slow.fetch_add(1, Ordering::Relaxed);
        assert!(!outgoing.any_rests(), "it is gone");
        assert!(outgoing.any_rests(), "nothing was read");
    }
}
