//! HTTP/2 as bytes: connections that stop in the middle, break the protocol, or end with a reset.

use llorch_cpud::server::proto::GenerateRequest;
use prost::Message;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection whose end is a reset: what lies in its buffers is thrown away.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_zero_linger()?;
    Ok(stream)
}

/// Sends what it can: the server may have closed.
pub async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}

/// Reads frames until there were so many, a stream or the connection has ended, or one is no frame.
pub async fn read_frames(stream: &mut TcpStream, count: u32) {
    for _ in 0..count {
        let mut header = [0; 9];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let ends = header[3] == GOAWAY || header[3] == RST_STREAM;
        let ends = ends || matches!(header[3], DATA | HEADERS) && header[4] & END_STREAM != 0;
        if ends || length > 1 << 14 || stream.read_exact(&mut vec![0; length]).await.is_err() {
            return;
        }
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The preface, and settings that let the server send `window` bytes of a stream.
pub fn greeting(window: u32) -> Vec<u8> {
    let setting = [&4u16.to_be_bytes()[..], &window.to_be_bytes()].concat();
    [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()
}

fn text(prefix: &[u8], value: &str) -> Vec<u8> {
    [prefix, &[value.len() as u8], value.as_bytes()].concat()
}

/// The headers of a Generate, from HPACK's static table and without its compression.
pub fn headers(stream: u32) -> Vec<u8> {
    let block = [
        vec![0x83, 0x86],
        text(&[0x04], "/llorch.v1.Inference/Generate"),
        text(&[0x01], "test"),
        text(&[0x0f, 0x10], "application/grpc"),
        text(&text(&[0x00], "te"), "trailers"),
    ];
    frame(HEADERS, END_HEADERS, stream, &block.concat())
}

/// A message with gRPC's five bytes before it.
pub fn message(request: &GenerateRequest) -> Vec<u8> {
    let body = request.encode_to_vec();
    [&[0][..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

/// The whole of a call.
pub fn call(stream: u32, body: &[u8]) -> Vec<u8> {
    [headers(stream), frame(DATA, END_STREAM, stream, body)].concat()
}

/// A call whose body stops after `bytes` bytes.
pub fn half_call(stream: u32, body: &[u8], bytes: usize) -> Vec<u8> {
    [headers(stream), frame(DATA, 0, stream, &body[..bytes.min(body.len())])].concat()
}

/// What no HTTP/2 client may send, number `which` of [`NUM_BREACHES`].
pub fn breach(which: u32) -> Vec<u8> {
    let after_greeting = |bytes: Vec<u8>| [greeting(65_535), bytes].concat();
    match which {
        0 => b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(),
        1 => vec![0xff; 4096],
        2 => [PREFACE, &[0xff; 64]].concat(),
        // A frame longer than was agreed on.
        3 => after_greeting([&[0xff, 0xff, 0xff, DATA, 0][..], &1u32.to_be_bytes()].concat()),
        // Data of a stream that was not opened; an even stream; a window of nothing more; a ping of three bytes.
        4 => after_greeting(frame(DATA, 0, 1, b"data")),
        5 => after_greeting(headers(2)),
        6 => after_greeting(frame(WINDOW_UPDATE, 0, 0, &0u32.to_be_bytes())),
        7 => after_greeting(frame(PING, 0, 0, b"abc")),
        // Headers that HPACK cannot read.
        8 => after_greeting(frame(HEADERS, END_HEADERS, 1, &[0xff; 16])),
        // Streams that are reset as soon as they are open, more than are borne.
        _ => after_greeting(
            (0..200u32)
                .flat_map(|i| [headers(2 * i + 1), frame(RST_STREAM, 0, 2 * i + 1, &8u32.to_be_bytes())].concat())
                .collect(),
        ),
    }
}

pub const NUM_BREACHES: u32 = 10;

/// Bodies that are no message of the call: nothing, half a prefix, a compressed one, a length without an end, bytes
/// that protobuf cannot read.
pub fn bad_body(which: u32) -> Vec<u8> {
    match which {
        0 => vec![],
        1 => vec![0, 0],
        2 => vec![1, 0, 0, 0, 1, 7],
        3 => vec![0, 0xff, 0xff, 0xff, 0xff, 1],
        _ => vec![0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
    }
}

pub const NUM_BAD_BODIES: u32 = 5;
