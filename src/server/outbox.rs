//! What lies between a request's task and its client: deltas that were not read yet, merged, up to a bound.

use super::proto::{Delta, Finished, GenerateResponse, Token, generate_response::Event};
use crate::engine::handle::{Canceller, Cause};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio_stream::Stream;
use tonic::Status;

/// What a token entry weighs beside its bytes: id, log-probability, framing.
const TOKEN_BYTES: usize = 24;

/// Bytes of one delta, about: a client that reads slowly is seen to read with each.
const DELTA_BYTES: usize = 32 << 10;

/// The client left more unread than it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

/// An event that was not read.
struct Unread {
    event: Event,
    /// Weight of its delta, and of that what counts against the bound.
    bytes: usize,
    counted: usize,
}

struct Inner {
    pending: VecDeque<Unread>,
    /// What counts of the pending deltas, and its bound.
    bytes: usize,
    max_bytes: usize,
    /// Nothing comes after what is pending but this.
    end: Option<Option<Status>>,
    waker: Option<Waker>,
}

/// The end that the request's task writes to. Dropping it without [`Outbox::end`] is a fault of the task.
pub(super) struct Outbox(Arc<Mutex<Inner>>);

/// The end that the client reads. Dropping it before its end cancels the request.
pub(super) struct ResponseStream {
    inner: Arc<Mutex<Inner>>,
    canceller: Canceller,
    ended: bool,
}

/// A pair of ends.
pub(super) fn channel(max_bytes: usize, canceller: Canceller) -> (Outbox, ResponseStream) {
    let inner = Inner { pending: VecDeque::new(), bytes: 0, max_bytes, end: None, waker: None };
    let inner = Arc::new(Mutex::new(inner));
    (Outbox(Arc::clone(&inner)), ResponseStream { inner, canceller, ended: false })
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that a delta holds, roughly.
pub(super) fn weight(text: &str, tokens: &[Token]) -> usize {
    let token =
        |t: &Token| TOKEN_BYTES + t.bytes.len() + t.top.iter().map(|top| TOKEN_BYTES + top.bytes.len()).sum::<usize>();
    text.len() + tokens.iter().map(token).sum::<usize>()
}

impl Inner {
    /// Adds to the last unread delta of sequence `index`, or begins one. `counted` of it counts against the bound.
    fn append(&mut self, index: u32, text: &str, tokens: Vec<Token>, counted: usize) {
        let bytes = weight(text, &tokens);
        self.bytes += counted;
        let last = self.pending.iter_mut().rev().find_map(|unread| match &mut unread.event {
            Event::Delta(delta) if delta.index == index => Some((delta, &mut unread.bytes, &mut unread.counted)),
            _ => None,
        });
        match last.filter(|(_, before, _)| **before + bytes <= DELTA_BYTES) {
            Some((delta, all, all_counted)) => {
                delta.text.push_str(text);
                delta.tokens.extend(tokens);
                *all += bytes;
                *all_counted += counted;
            }
            None => {
                let event = Event::Delta(Delta { index, text: text.to_owned(), tokens });
                self.pending.push_back(Unread { event, bytes, counted });
            }
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Outbox {
    /// An event that is no delta.
    pub fn push(&self, event: Event) {
        let mut inner = lock(&self.0);
        inner.pending.push_back(Unread { event, bytes: 0, counted: 0 });
        inner.wake();
    }

    /// What sequence `index` brings next.
    pub fn push_delta(&self, index: u32, text: &str, tokens: Vec<Token>) -> Result<(), Overflow> {
        let mut inner = lock(&self.0);
        let weight = weight(text, &tokens);
        if inner.bytes + weight > inner.max_bytes {
            return Err(Overflow);
        }
        inner.append(index, text, tokens, weight);
        inner.wake();
        Ok(())
    }

    /// The prompt's text for every sequence. It does not count against the bound: the client asked for it.
    pub fn push_echo(&self, index: u32, text: &str) {
        self.push_whole(index, text, Vec::new());
    }

    /// What the client does not read late: it could not have come earlier. It does not count against the bound.
    pub fn push_whole(&self, index: u32, text: &str, tokens: Vec<Token>) {
        let mut inner = lock(&self.0);
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(DELTA_BYTES));
            inner.append(index, piece, Vec::new(), 0);
            rest = after;
        }
        for token in tokens {
            inner.append(index, "", vec![token], 0);
        }
        inner.wake();
    }

    pub fn finish(&self, finished: Finished) {
        self.push(Event::Finished(finished));
    }

    /// The end of the stream, with an error or without. Only the first call counts.
    pub fn end(&self, error: Option<Status>) {
        let mut inner = lock(&self.0);
        if inner.end.is_none() {
            inner.end = Some(error);
            inner.wake();
        }
    }

    /// Drops what is unread; `error` is the end instead.
    pub fn give_up(&self, error: Status) {
        let mut inner = lock(&self.0);
        inner.pending = VecDeque::new();
        inner.bytes = 0;
        inner.end = Some(Some(error));
        inner.wake();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.end(Some(super::status::sequence_panic()));
    }
}

impl Stream for ResponseStream {
    type Item = Result<GenerateResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut inner = lock(&self.inner);
        if let Some(Unread { event, counted, .. }) = inner.pending.pop_front() {
            inner.bytes -= counted;
            return Poll::Ready(Some(Ok(GenerateResponse { event: Some(event) })));
        }
        let Some(error) = inner.end.clone() else {
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(inner);
        self.ended = true;
        Poll::Ready(error.map(Err))
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        if lock(&self.inner).end.is_none() {
            self.canceller.cancel(Cause::Client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::backlog::Claim;
    use crate::engine::request::NewRequest;
    use crate::engine::ticket::Ticket;
    use futures_util::FutureExt;
    use std::time::Instant;
    use tokio_stream::StreamExt;

    fn pair(max_bytes: usize) -> (Outbox, ResponseStream, Arc<Ticket>) {
        let prompt = vec![1].into();
        let params = Arc::default();
        let request = NewRequest { request_id: "a".into(), prompt, params, n: 1, ..NewRequest::default() };
        let ticket = Arc::new(Ticket::new(&request, Claim::default(), 0, Arc::default(), Instant::now()));
        let (outbox, stream) = channel(max_bytes, Canceller::new(Arc::clone(&ticket)));
        (outbox, stream, ticket)
    }

    fn next(stream: &mut ResponseStream) -> Option<Result<Event, Status>> {
        let item = stream.next().now_or_never().expect("something is there");
        item.map(|result| result.map(|response| response.event.expect("an event")))
    }

    fn delta(index: u32, text: &str) -> Event {
        Event::Delta(Delta { index, text: text.into(), tokens: Vec::new() })
    }

    #[test]
    fn unread_deltas_of_a_sequence_are_merged() {
        let (outbox, mut stream, _) = pair(100);
        for (index, text) in [(0, "a"), (1, "x"), (0, "b"), (0, "c"), (1, "y")] {
            outbox.push_delta(index, text, Vec::new()).unwrap();
        }
        outbox.end(None);
        assert_eq!(next(&mut stream).unwrap().unwrap(), delta(0, "abc"));
        assert_eq!(next(&mut stream).unwrap().unwrap(), delta(1, "xy"));
        assert!(next(&mut stream).is_none());
    }

    #[test]
    fn the_bound_counts_what_is_unread() {
        let (outbox, mut stream, _) = pair(10);
        outbox.push_delta(0, "1234567890", Vec::new()).unwrap();
        assert_eq!(outbox.push_delta(0, "1", Vec::new()), Err(Overflow));
        assert_eq!(next(&mut stream).unwrap().unwrap(), delta(0, "1234567890"));
        outbox.push_delta(0, "1", Vec::new()).unwrap();
    }

    #[test]
    fn an_echo_of_any_length_leaves_the_bound_to_the_completion() {
        let (outbox, _stream, _) = pair(10);
        outbox.push_echo(0, &"p".repeat(1000));
        outbox.push_delta(0, "1234567890", Vec::new()).unwrap();
        assert_eq!(outbox.push_delta(0, "1", Vec::new()), Err(Overflow));
    }

    #[test]
    fn an_echo_that_was_read_leaves_the_bound_as_it_was() {
        let (outbox, mut stream, _) = pair(10);
        outbox.push_echo(0, &"p".repeat(1000));
        assert_eq!(next(&mut stream).unwrap().unwrap(), delta(0, &"p".repeat(1000)));
        assert_eq!(outbox.push_delta(0, "12345678901", Vec::new()), Err(Overflow));
        outbox.push_delta(0, "1234567890", Vec::new()).unwrap();
    }

    #[test]
    fn a_long_text_comes_in_pieces() {
        let (outbox, mut stream, _) = pair(usize::MAX);
        let text = "é".repeat(DELTA_BYTES);
        outbox.push_echo(0, &text);
        outbox.push_delta(0, &text[..DELTA_BYTES], Vec::new()).unwrap();
        outbox.push_whole(1, "", vec![Token::default(); DELTA_BYTES / TOKEN_BYTES + 1]);
        outbox.end(None);
        let (mut read, mut tokens) = (String::new(), 0);
        while let Some(event) = next(&mut stream) {
            let Event::Delta(delta) = event.unwrap() else { panic!("a delta") };
            assert!(weight(&delta.text, &delta.tokens) <= DELTA_BYTES);
            read.push_str(&delta.text);
            tokens += delta.tokens.len();
        }
        assert!(read == text.clone() + &text[..DELTA_BYTES]);
        assert_eq!(tokens, DELTA_BYTES / TOKEN_BYTES + 1);
    }

    #[test]
    fn what_nobody_reads_is_dropped() {
        let (outbox, mut stream, _) = pair(10);
        outbox.push_echo(0, "a");
        outbox.push_delta(0, "b", Vec::new()).unwrap();
        outbox.end(None);
        outbox.give_up(Status::internal("unread"));
        assert_eq!(next(&mut stream).unwrap().unwrap_err().message(), "unread");
        assert!(next(&mut stream).is_none());
    }

    #[test]
    fn what_is_pending_comes_before_the_error_and_nothing_after_it() {
        let (outbox, mut stream, _) = pair(10);
        outbox.push_delta(0, "a", Vec::new()).unwrap();
        outbox.end(Some(Status::internal("first")));
        outbox.end(None);
        assert_eq!(next(&mut stream).unwrap().unwrap(), delta(0, "a"));
        assert_eq!(next(&mut stream).unwrap().unwrap_err().message(), "first");
        assert!(next(&mut stream).is_none());
    }

    #[test]
    fn a_reader_that_goes_cancels_and_a_writer_that_goes_is_a_fault() {
        let (_outbox, stream, ticket) = pair(10);
        drop(stream);
        assert_eq!(ticket.cause(), Some(Cause::Client));
        let (outbox, mut stream, ticket) = pair(10);
        drop(outbox);
        assert_eq!(next(&mut stream).unwrap().unwrap_err().code(), tonic::Code::Internal);
        drop(stream);
        assert_eq!(ticket.cause(), None);
    }
}
