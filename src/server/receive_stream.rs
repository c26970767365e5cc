//! The messages of a request stream on their way in: each bounded in size and, once it has begun, in time, and all in
//! bytes together with those of other requests.

use super::limits::MAX_REFLECTION_MESSAGE;
use super::receive::Room;
use super::state::ServerState;
use super::status;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// A flag and the message's length come before each message.
const HEAD_BYTES: usize = 5;

/// Why a request stream was ended. The service that reads it tells its client nothing of that.
pub(super) type Fault = Arc<OnceLock<Status>>;

/// Where the messages of a stream begin and end.
#[derive(Default)]
struct Framing {
    head: [u8; HEAD_BYTES],
    num_head: usize,
    /// Bytes of the message that are still to come.
    missing: usize,
}

/// The body of a request with any number of messages.
pub(super) struct ReceivedStream {
    body: Incoming,
    state: Arc<ServerState>,
    fault: Fault,
    framing: Framing,
    /// Of the message that is not complete.
    deadline: Option<Pin<Box<Sleep>>>,
    room: Room,
}

impl Framing {
    /// What comes next in the stream. Returns the bytes of the message that `data` leaves incomplete and whether a
    /// message ended in it, or nothing where a message is too long.
    fn advance(&mut self, mut data: &[u8]) -> Option<(usize, bool)> {
        let (mut unfinished, mut any_ended) = (0, false);
        while let Some((first, rest)) = data.split_first() {
            if self.missing > 0 {
                let len = self.missing.min(data.len());
                self.missing -= len;
                unfinished += len;
                data = data.get(len..).unwrap_or_default();
            } else {
                if let Some(byte) = self.head.get_mut(self.num_head) {
                    *byte = *first;
                }
                self.num_head += 1;
                unfinished += 1;
                data = rest;
                if self.num_head < HEAD_BYTES {
                    continue;
                }
                let [_flag, len @ ..] = self.head;
                self.missing = u32::from_be_bytes(len) as usize;
                if self.missing > MAX_REFLECTION_MESSAGE {
                    return None;
                }
            }
            if self.missing == 0 {
                (self.num_head, unfinished, any_ended) = (0, 0, true);
            }
        }
        Some((unfinished, any_ended))
    }

    fn is_between_messages(&self) -> bool {
        self.num_head == 0
    }
}

impl ReceivedStream {
    pub fn new(body: Incoming, state: Arc<ServerState>, fault: Fault) -> Self {
        Self { body, state, fault, framing: Framing::default(), deadline: None, room: Room::default() }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        let advanced = self.framing.advance(data);
        let (unfinished, any_ended) = advanced.ok_or_else(|| status::message_too_large(MAX_REFLECTION_MESSAGE))?;
        if any_ended {
            (self.room, self.deadline) = (Room::default(), None);
        }
        self.room.take(&self.state, unfinished)?;
        if self.framing.is_between_messages() {
            self.deadline = None;
        } else {
            let timeout = self.state.limits.message_timeout;
            self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        }
        Ok(())
    }

    fn end(&self, status: Status) -> Box<dyn Error + Send + Sync> {
        self.fault.get_or_init(|| status.clone());
        status.into()
    }
}

impl Body for ReceivedStream {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let is_late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
            return if is_late { Poll::Ready(Some(Err(self.end(status::message_too_slow())))) } else { Poll::Pending };
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = self.take(data)
        {
            return Poll::Ready(Some(Err(self.end(status))));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: u32) -> Vec<u8> {
        [&[0], &len.to_be_bytes()[..], &vec![7; len as usize]].concat()
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let stream = [message(3), message(0), message(300), message(1)].concat();
        for part in [1, 2, 5, 7, 100, stream.len()] {
            let mut framing = Framing::default();
            let mut ends = 0;
            for data in stream.chunks(part) {
                let (unfinished, any_ended) = framing.advance(data).expect("short messages");
                assert!(unfinished <= data.len());
                assert!(any_ended || unfinished == data.len());
                assert!(unfinished > 0 || framing.is_between_messages());
                ends += usize::from(any_ended);
            }
            assert!(framing.is_between_messages());
            assert!(ends == 4 || part > 4, "{ends} ends in parts of {part}");
        }
    }

    #[test]
    fn a_message_is_too_long_by_its_head() {
        let head = |len: usize| [&[0], &(len as u32).to_be_bytes()[..]].concat();
        let after_one = |len| Framing::default().advance(&[message(2), head(len)].concat());
        assert_eq!(after_one(MAX_REFLECTION_MESSAGE), Some((HEAD_BYTES, true)));
        assert_eq!(after_one(MAX_REFLECTION_MESSAGE + 1), None);
        assert_eq!(after_one(u32::MAX as usize), None);
    }
}
