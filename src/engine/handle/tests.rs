//! The handle without an actor.

use super::*;
use crate::engine::load::StepSample;
use std::time::Duration;

/// A handle without an actor: 100 prompt tokens take a second.
fn handle() -> (EngineHandle, crossbeam_channel::Receiver<Submission>) {
    let facts = EngineFacts {
        vocab_size: 10,
        max_model_len: 10_000,
        max_num_seqs: 1,
        max_num_batched_tokens: 100,
        block_size: 1,
        num_blocks: 10_000,
    };
    let mut window = LoadWindow::default();
    window.push(StepSample { duration: Duration::from_secs(1), prompt_tokens: 100, generated_tokens: 0 });
    let admission = Admission::new(QueueLimits { max_queued: 100, max_queued_tokens: 100_000 });
    let metrics = Arc::new(Metrics::new().unwrap());
    let shared =
        Arc::new(Shared { facts, admission, load: Mutex::new(window), heartbeat: Heartbeat::default(), metrics });
    let (sender, inbox) = crossbeam_channel::bounded(100);
    (EngineHandle { shared, inbox: sender }, inbox)
}

fn request(id: &str, tokens: usize, deadline: Option<Duration>) -> NewRequest {
    let deadline = deadline.map(|after| Instant::now() + after);
    NewRequest { request_id: id.into(), prompt: vec![1; tokens].into(), n: 1, deadline, ..NewRequest::default() }
}

#[test]
fn a_hopeless_deadline_is_refused_and_a_doubtful_one_is_not() {
    let (handle, _inbox) = handle();
    let _first = handle.submit(request("first", 1000, Some(Duration::from_millis(500)))).unwrap();
    let hopeless = handle.submit(request("hopeless", 10, Some(Duration::from_secs(4)))).err();
    assert_eq!(hopeless, Some(RequestError::DeadlineUnmeetable { retry_after_ms: 10_000 }));
    handle.submit(request("doubtful", 10, Some(Duration::from_secs(7)))).unwrap();
    handle.submit(request("patient", 10, None)).unwrap();
    let late = handle.submit(request("late", 10, Some(Duration::ZERO))).err();
    assert_eq!(late, Some(RequestError::DeadlineExceeded(Stage::Queue)));
}

#[test]
fn an_id_is_free_once_its_stream_has_ended() {
    let (handle, inbox) = handle();
    let dropped = handle.submit(request("mine", 10, None)).unwrap();
    assert_eq!(handle.submit(request("mine", 10, None)).err(), Some(RequestError::DuplicateId));
    drop(dropped);
    let mut stopped = handle.submit(request("mine", 10, None)).unwrap();
    stopped.finish(0);
    let _third = handle.submit(request("mine", 10, None)).unwrap();
    drop(stopped);
    // The end of an earlier request must not free the id of a later one.
    assert_eq!(handle.submit(request("mine", 10, None)).err(), Some(RequestError::DuplicateId));
    assert!(handle.abort("mine"));
    let causes: Vec<_> = inbox.try_iter().map(|submission| submission.ticket.cause()).collect();
    assert_eq!(causes, [Some(Cause::Client), None, Some(Cause::Admin)]);
}

#[test]
fn an_actor_that_is_gone_refuses_and_leaves_no_trace() {
    let (handle, inbox) = handle();
    drop(inbox);
    assert_eq!(handle.submit(request("a", 10, None)).err(), Some(RequestError::EngineRestart));
    assert_eq!((handle.num_requests(), handle.load().waiting), (0, 0));
}
