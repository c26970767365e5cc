//! HTTP/2 frame by frame (RFC 9113), for clients that no library would be.

use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;
const CANCEL: u32 = 8;

/// A connection with one stream, number 1.
pub struct RawClient(TcpStream);

impl RawClient {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Self(TcpStream::connect(address).await.expect("connected"));
        client.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        client.frame(SETTINGS, 0, 0, &[]).await;
        client
    }

    /// Begins an RPC.
    pub async fn call(&mut self, path: &str) {
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        // Literals without indexing (RFC 7541, 6.2.2), none of 127 bytes or more.
        let literal = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        let block = headers.map(|(name, value)| [vec![0], literal(name), literal(value)].concat()).concat();
        self.frame(HEADERS, END_HEADERS, 1, &block).await;
    }

    /// The beginning of a message of `len` bytes.
    pub async fn begin_message(&mut self, len: u32, bytes: &[u8]) {
        self.frame(DATA, 0, 1, &[&[0], &len.to_be_bytes()[..], bytes].concat()).await;
    }

    /// Gives the stream up.
    pub async fn reset(&mut self) {
        self.frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await;
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = (payload.len() as u32).to_be_bytes();
        let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&[&head, payload].concat()).await.expect("sent");
    }
}
