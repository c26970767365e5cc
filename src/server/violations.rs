//! Collects what is wrong with a message, so that a client hears of everything at once.

use super::limits::{MAX_VIOLATION_BYTES, MAX_VIOLATIONS, MAX_VIOLATIONS_A_LIST};
use super::status;
use tonic::Status;
use tonic_types::FieldViolation;

/// The violations of one message, as many as fit the headers of a response.
#[derive(Default)]
pub(super) struct Violations {
    told: Vec<FieldViolation>,
    bytes: usize,
}

impl Violations {
    pub fn push(&mut self, field: impl Into<String>, description: impl Into<String>) {
        let violation = FieldViolation::new(field, description);
        let bytes = violation.field.len() + violation.description.len();
        if self.told.is_empty() || (self.told.len() < MAX_VIOLATIONS && self.bytes + bytes <= MAX_VIOLATION_BYTES) {
            self.bytes += bytes;
            self.told.push(violation);
        }
    }

    /// `value` or its default. `accept` says what is allowed, in code; `rule` says it in words. Write `accept` as what
    /// holds, never as the negation of what does not: NaN fails every comparison.
    pub fn number(
        &mut self,
        field: &str,
        value: Option<f32>,
        default: f32,
        rule: &str,
        accept: impl Fn(f32) -> bool,
    ) -> f32 {
        match value {
            None => default,
            Some(value) if accept(value) => value,
            Some(value) => {
                self.push(field, format!("{value} is not {rule}"));
                default
            }
        }
    }

    /// Ids outside `0 .. vocab_size`; the first few, so that other fields are heard of as well.
    pub fn token_ids(&mut self, field: &str, ids: &[u32], vocab_size: usize) {
        let outside = ids.iter().enumerate().filter(|(_, id)| **id as usize >= vocab_size);
        for (index, id) in outside.take(MAX_VIOLATIONS_A_LIST) {
            self.push(format!("{field}[{index}]"), format!("{id} is outside the vocabulary of {vocab_size} tokens"));
        }
    }

    /// INVALID_ARGUMENT if there are any.
    pub fn check(self) -> Result<(), Status> {
        if self.told.is_empty() { Ok(()) } else { Err(status::invalid(self.told)) }
    }
}
