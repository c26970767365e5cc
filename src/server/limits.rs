//! Every bound of the server, with its default.

use crate::text::{MAX_STOP_BYTES, MAX_STOP_STRINGS};
use std::ops::RangeInclusive;
use std::time::Duration;

pub const MAX_N: u32 = 128;
pub const MAX_TOP_LOGPROBS: u32 = 20;
pub const MAX_STOP_TOKEN_IDS: usize = 128;
pub const MAX_LOGIT_BIAS: usize = 1024;
pub const MAX_REQUEST_ID: usize = 128;
/// Bytes of `kv.cache_salt`.
pub const MAX_CACHE_SALT: usize = 256;
/// Characters of `tenant`.
pub const MAX_TENANT: usize = 64;
/// Values that `priority` takes.
pub const PRIORITIES: RangeInclusive<i32> = -10..=10;
/// Bytes of one message of a reflection stream.
pub const MAX_REFLECTION_MESSAGE: usize = 16 << 10;
pub const MAX_STOPS: usize = MAX_STOP_STRINGS;
pub const MAX_STOPS_BYTES: usize = MAX_STOP_BYTES;
/// Violations told of one request, their bytes together, and those of one list. They travel in headers, of which many
/// clients take 8 KiB.
pub const MAX_VIOLATIONS: usize = 64;
pub const MAX_VIOLATION_BYTES: usize = 3072;
pub const MAX_VIOLATIONS_A_LIST: usize = 8;

/// Whether `name` can be a tenant's. Requests without a tenant have the empty name.
pub fn is_tenant(name: &str) -> bool {
    name.len() <= MAX_TENANT && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Bounds of the transport and of what the server holds for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    pub max_connections: u32,
    /// Of one connection.
    pub max_concurrent_streams: u32,
    /// Of one request message.
    pub max_message_bytes: usize,
    /// Of all request messages together that are not received to the end.
    pub max_receiving_bytes: usize,
    /// A request's message must be there within this time.
    pub message_timeout: Duration,
    pub max_header_list_bytes: u32,
    /// Streams that a client opened and reset before they were looked at.
    pub max_pending_resets: usize,
    /// Data that a client may send ahead, of one stream and of one connection.
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    /// Data of one stream that lies in the transport.
    pub max_send_buffer_bytes: usize,
    /// A connection that is silent so long is asked for a sign of life, and given so long to show it.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// A new connection must send the HTTP/2 preface within this time: keepalive watches it only afterwards.
    pub preface_timeout: Duration,
    /// What a slow reader may leave unread, in bytes; the second with top_logprobs.
    pub max_unread_bytes: usize,
    pub max_unread_bytes_logprobs: usize,
    /// Texts above this size are encoded by [`ServerLimits::max_encoders`] threads beside the asynchronous ones.
    pub inline_encode_bytes: usize,
    pub max_encoders: usize,
    /// Texts that wait for an encoder.
    pub max_waiting_encodes: usize,
    /// Of what a response other than a stream holds.
    pub max_response_bytes: usize,
    /// Of all responses together that are not sent to the end, but for 64 KiB each.
    pub max_answer_bytes: usize,
    /// A connection that reads nothing of such an answer for so long is closed.
    pub answer_timeout: Duration,
    pub drain_timeout: Duration,
    /// An engine that completes no step for so long, though there is work, has stalled.
    pub stall_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_concurrent_streams: 1024,
            max_message_bytes: 4 << 20,
            max_receiving_bytes: 256 << 20,
            message_timeout: Duration::from_secs(30),
            max_header_list_bytes: 16 << 10,
            max_pending_resets: 20,
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 1 << 20,
            max_send_buffer_bytes: 64 << 10,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            preface_timeout: Duration::from_secs(5),
            max_unread_bytes: 64 << 10,
            max_unread_bytes_logprobs: 1 << 20,
            inline_encode_bytes: 4 << 10,
            max_encoders: 2,
            max_waiting_encodes: 256,
            max_response_bytes: 64 << 20,
            max_answer_bytes: 256 << 20,
            answer_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
        }
    }
}
