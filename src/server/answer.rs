//! A response on its way out: what a client leaves unread is bounded over all responses together.

use super::state::ServerState;
use hyper::body::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Frames of this size and less need no room: the transport holds as much of each stream anyway
/// ([`super::limits::ServerLimits::max_send_buffer_bytes`]).
const FREE_BYTES: usize = 64 << 10;

/// The bytes of a frame, and the room they take until the last part of them is sent or dropped.
struct Held {
    data: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// The same bytes, which take room while they exist. `None` when there is none left.
pub(super) fn hold(state: &ServerState, data: Bytes) -> Option<Bytes> {
    if data.len() <= FREE_BYTES {
        return Some(data);
    }
    let permits = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let room = Semaphore::try_acquire_many_owned(Arc::clone(&state.answering), permits).ok()?;
    Some(Bytes::from_owner(Held { data, _room: room }))
}
