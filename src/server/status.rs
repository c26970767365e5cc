//! The table of errors: which status, which reason (`specs/06_GRPC_API.md`). Every status but tonic's own is made here.

use crate::engine::request::{RequestError, Stage};
use crate::text::EncodeError;
use std::collections::HashMap;
use std::time::Duration;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

const DOMAIN: &str = "llorch";

/// A status with its ErrorInfo.
pub(super) fn with_reason(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

/// Violations that the message of a status spells out; the details have all of them.
const SPELT_OUT: usize = 4;

/// Every violation at once.
pub(super) fn invalid(violations: Vec<FieldViolation>) -> Status {
    let spelt_out = violations.iter().take(SPELT_OUT).map(|v| format!("{}: {}", v.field, v.description));
    let mut text = spelt_out.collect::<Vec<_>>().join("; ");
    if violations.len() > SPELT_OUT {
        text.push_str("; and more, see the details");
    }
    let mut details = ErrorDetails::with_error_info("FIELD_INVALID", DOMAIN, HashMap::new());
    details.set_bad_request(violations);
    Status::with_error_details(Code::InvalidArgument, text, details)
}

/// One violation.
pub(super) fn invalid_field(field: &str, description: impl Into<String>) -> Status {
    invalid(vec![FieldViolation::new(field, description)])
}

/// Fields that this build does not know how to honour.
pub(super) fn unimplemented(fields: &[&str]) -> Status {
    let names = fields.join(", ");
    let metadata = HashMap::from([("fields".to_owned(), names.clone())]);
    let details = ErrorDetails::with_error_info("FIELD_UNIMPLEMENTED", DOMAIN, metadata);
    Status::with_error_details(Code::Unimplemented, format!("not built yet: {names}"), details)
}

pub(super) fn loading() -> Status {
    with_reason(Code::Unavailable, "LOADING", "the model is being loaded")
}

pub(super) fn draining() -> Status {
    with_reason(Code::Unavailable, "DRAINING", "the server is draining")
}

pub(super) fn model_not_found(name: &str) -> Status {
    let name: String = name.chars().take(64).collect();
    with_reason(Code::NotFound, "MODEL_NOT_FOUND", format!("model {name:?} is not loaded"))
}

pub(super) fn request_not_found() -> Status {
    with_reason(Code::NotFound, "REQUEST_NOT_FOUND", "no such request is in flight")
}

pub(super) fn message_too_large(limit: usize) -> Status {
    let message = format!("the message is larger than {limit} bytes");
    with_reason(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
}

pub(super) fn message_too_slow() -> Status {
    with_reason(Code::DeadlineExceeded, "IN_TRANSFER", "the request's message did not arrive in time")
}

/// Nobody reads it; it is counted as CANCELLED. That code itself tonic takes for a request without a message.
pub(super) fn client_gone() -> Status {
    Status::aborted("the client went before its message was complete")
}

pub(super) fn response_too_large(limit: usize) -> Status {
    let message = format!("the response would be larger than {limit} bytes");
    with_reason(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
}

pub(super) fn slow_consumer() -> Status {
    with_reason(Code::ResourceExhausted, "SLOW_CONSUMER", "the client reads too slowly")
}

pub(super) fn sequence_panic() -> Status {
    with_reason(Code::Internal, "SEQUENCE_PANIC", "a panic ended the request")
}

pub(super) fn encode_failed(error: &EncodeError) -> Status {
    match error {
        EncodeError::NoToken { .. } | EncodeError::TooLong { .. } => invalid_field("text", error.to_string()),
        EncodeError::Internal(_) => with_reason(Code::Internal, "SEQUENCE_PANIC", error.to_string()),
    }
}

pub(super) fn queue_full(retry_after_ms: u64) -> Status {
    retryable("QUEUE_FULL", "the request queue is full", retry_after_ms)
}

pub(super) fn deadline(stage: Stage) -> Status {
    let (reason, text) = match stage {
        Stage::Queue => ("IN_QUEUE", "the deadline passed in the queue"),
        Stage::Prefill => ("IN_PREFILL", "the deadline passed while the prompt was computed"),
        Stage::Decode => ("IN_DECODE", "the deadline passed while tokens were generated"),
    };
    with_reason(Code::DeadlineExceeded, reason, text)
}

/// RESOURCE_EXHAUSTED with the advice when to try again, for applications and for libraries.
fn retryable(reason: &str, message: &str, retry_after_ms: u64) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(Duration::from_millis(retry_after_ms)));
    let mut status = Status::with_error_details(Code::ResourceExhausted, message, details);
    status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(retry_after_ms));
    status
}

/// The status of an engine error.
pub(super) fn of(error: &RequestError) -> Status {
    let text = error.to_string();
    match error {
        RequestError::QueueFull { retry_after_ms } => queue_full(*retry_after_ms),
        RequestError::Quota { retry_after_ms } => retryable("QUOTA", &text, *retry_after_ms),
        RequestError::DeadlineUnmeetable { retry_after_ms } => retryable("DEADLINE_UNMEETABLE", &text, *retry_after_ms),
        RequestError::DuplicateId => with_reason(Code::AlreadyExists, "REQUEST_ID_IN_FLIGHT", text),
        RequestError::Draining => draining(),
        RequestError::ContextExceeded { .. } => with_reason(Code::OutOfRange, "CONTEXT_EXCEEDED", text),
        RequestError::KvCapacity { .. } => with_reason(Code::OutOfRange, "KV_CAPACITY", text),
        RequestError::DeadlineExceeded(stage) => deadline(*stage),
        RequestError::Aborted => with_reason(Code::Cancelled, "ADMIN", "the request was aborted"),
        RequestError::SlowConsumer => slow_consumer(),
        RequestError::AllMasked => invalid_field("sampling.logit_bias", text),
        RequestError::NonFiniteLogits => with_reason(Code::Internal, "NON_FINITE_LOGITS", text),
        RequestError::SequencePanic => sequence_panic(),
        RequestError::EngineFault => with_reason(Code::Internal, "ENGINE_FAULT", text),
        RequestError::EngineRestart => with_reason(Code::Unavailable, "ENGINE_RESTART", text),
    }
}

/// The `reason` label of `llorch_admission_rejections_total`, for errors that are refusals.
pub(super) fn rejection(error: &RequestError) -> Option<&'static str> {
    match error {
        RequestError::QueueFull { .. } => Some("queue_full"),
        RequestError::Quota { .. } => Some("quota"),
        RequestError::DeadlineUnmeetable { .. } => Some("deadline_unmeetable"),
        RequestError::Draining => Some("draining"),
        RequestError::KvCapacity { .. } => Some("kv_capacity"),
        RequestError::ContextExceeded { .. } => Some("context_exceeded"),
        RequestError::DuplicateId => Some("duplicate_id"),
        RequestError::EngineRestart => Some("engine_restart"),
        _ => None,
    }
}

/// The name of a code, as metrics and the load tester show it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// TXT-13: what the vocabulary cannot say is the client's, and no fault of ours.
    #[test]
    fn a_text_without_tokens_is_invalid() {
        for error in [EncodeError::NoToken { byte: 0xff }, EncodeError::TooLong { len: 9 }] {
            let status = encode_failed(&error);
            assert_eq!((status.code(), status.message()), (Code::InvalidArgument, format!("text: {error}").as_str()));
        }
        assert_eq!(encode_failed(&EncodeError::Internal(String::new())).code(), Code::Internal);
    }

    fn every_status() -> Vec<Status> {
        let limits = RequestError::KvCapacity { needed: 2, available: 1 };
        let context = RequestError::ContextExceeded { prompt_tokens: 9, limit: 8 };
        let errors = [
            RequestError::QueueFull { retry_after_ms: 1 },
            RequestError::Quota { retry_after_ms: 1 },
            RequestError::DeadlineUnmeetable { retry_after_ms: 1 },
            RequestError::DuplicateId,
            RequestError::Draining,
            context,
            limits,
            RequestError::DeadlineExceeded(Stage::Queue),
            RequestError::DeadlineExceeded(Stage::Prefill),
            RequestError::DeadlineExceeded(Stage::Decode),
            RequestError::Aborted,
            RequestError::SlowConsumer,
            RequestError::AllMasked,
            RequestError::NonFiniteLogits,
            RequestError::SequencePanic,
            RequestError::EngineFault,
            RequestError::EngineRestart,
        ];
        let others = [
            invalid_field("n", "is bad"),
            unimplemented(&["sampling.typical_p"]),
            loading(),
            draining(),
            model_not_found("x"),
            request_not_found(),
            message_too_large(1),
            message_too_slow(),
            response_too_large(1),
            slow_consumer(),
            sequence_panic(),
        ];
        errors.iter().map(of).chain(others).collect()
    }

    #[test]
    fn api_45_statuses_and_reasons_are_those_of_the_table() {
        covers!("API-45");
        let table = crate::spec::table("API-45");
        let expected: BTreeSet<(String, String)> = table
            .rows()
            .flat_map(|row| {
                row.list::<String>("reasons").into_iter().map(move |reason| (row.text("status").to_owned(), reason))
            })
            .collect();
        let found = every_status().into_iter().map(|status| {
            let info = status.get_details_error_info().expect("ErrorInfo");
            assert_eq!(info.domain, DOMAIN);
            (code_name(status.code()).to_owned(), info.reason)
        });
        assert_eq!(found.collect::<BTreeSet<_>>(), expected);
    }
}
