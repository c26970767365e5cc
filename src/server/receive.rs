//! A request's message on its way in: bounded in time, and in bytes over all requests together.

use super::state::ServerState;
use super::status;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// So much of each message needs no room: a health check is answered whatever others send. With every stream of every
/// connection it is 256 MiB.
const FREE_BYTES: usize = 256;

/// The room that one message takes while it comes in.
#[derive(Default)]
pub(super) struct Room {
    num_received: usize,
    held: Option<OwnedSemaphorePermit>,
}

/// The body of a request with one message. Dropped once the message is read, which gives its bytes back.
pub(super) struct Received {
    body: Incoming,
    state: Arc<ServerState>,
    deadline: Pin<Box<Sleep>>,
    room: Room,
}

impl Room {
    /// Takes `bytes` from what all messages may hold together, or tells that it is used up.
    pub fn take(&mut self, state: &ServerState, bytes: usize) -> Result<(), Status> {
        let free = FREE_BYTES.saturating_sub(self.num_received);
        self.num_received += bytes;
        let permits = u32::try_from(bytes.saturating_sub(free)).unwrap_or(u32::MAX);
        let Ok(more) = Semaphore::try_acquire_many_owned(Arc::clone(&state.receiving), permits) else {
            state.metrics.count_rejection("receiving_full");
            return Err(status::queue_full(1000));
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

impl Received {
    pub fn new(body: Incoming, state: Arc<ServerState>) -> Self {
        let deadline = Box::pin(sleep(state.limits.message_timeout));
        Self { body, state, deadline, room: Room::default() }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending if this.deadline.as_mut().poll(cx).is_ready() => {
                return Poll::Ready(Some(Err(status::message_too_slow().into())));
            }
            Poll::Pending => return Poll::Pending,
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = this.room.take(&this.state, data.len())
        {
            return Poll::Ready(Some(Err(status.into())));
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            // A stream that was reset ends without the mark of an end.
            None if this.body.is_end_stream() => None,
            None | Some(Err(_)) => Some(Err(status::client_gone().into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
