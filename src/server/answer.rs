//! A response on its way out: what a client leaves unread is bounded over all responses together.

use super::state::ServerState;
use super::status;
use hyper::body::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tonic::Status;

/// Frames of this size and less need no room: the transport holds as much of each stream anyway
/// ([`super::limits::ServerLimits::max_send_buffer_bytes`]).
const FREE_BYTES: usize = 64 << 10;

/// Bytes that a connection on which answers are read sends at least between two looks. The protocol itself sends less.
const LEAST_SENT: u64 = 1024;

/// What one connection has sent, and what it holds of frames that take room.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    sent: AtomicU64,
    held: AtomicU64,
}

impl Outgoing {
    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns when answers lie there of which nothing was read for `time`, after twice that at the latest.
    pub async fn stalls(&self, time: Duration) {
        let mut before = None;
        loop {
            sleep(time).await;
            let (sent, held) = (self.sent.load(Ordering::Relaxed), self.held.load(Ordering::Relaxed));
            if held > 0 && before.is_some_and(|before| sent - before < LEAST_SENT) {
                return;
            }
            before = (held > 0).then_some(sent);
        }
    }
}

/// The bytes of a frame, and the room they take until the last part of them is sent or dropped.
struct Held {
    data: Bytes,
    outgoing: Arc<Outgoing>,
    _room: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.outgoing.held.fetch_sub(self.data.len() as u64, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// The same bytes, which take room while they exist; or why there is none.
pub(super) fn hold(state: &ServerState, outgoing: &Arc<Outgoing>, data: Bytes) -> Result<Bytes, Status> {
    if data.len() <= FREE_BYTES {
        return Ok(data);
    }
    let limit = state.limits.max_answer_bytes;
    let Some(permits) = u32::try_from(data.len()).ok().filter(|_| data.len() <= limit) else {
        return Err(status::response_too_large(limit));
    };
    let Ok(room) = Semaphore::try_acquire_many_owned(Arc::clone(&state.answering), permits) else {
        state.metrics.count_rejection("answers_full");
        return Err(status::queue_full(1000));
    };
    outgoing.held.fetch_add(data.len() as u64, Ordering::Relaxed);
    Ok(Bytes::from_owner(Held { data, outgoing: Arc::clone(outgoing), _room: room }))
}
