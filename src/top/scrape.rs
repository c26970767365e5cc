//! Fetches the text of `/metrics`.

use super::exposition::Exposition;
use super::window::PREFIX;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// From connecting to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY_BYTES: usize = 8 << 20;

/// Why there is no text. One line; the target is named by whoever prints it.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("HTTP: {0}")]
    Http(hyper::Error),
    #[error("answers HTTP {}", .0.as_u16())]
    Status(StatusCode),
    #[error("answers more than {MAX_BODY_BYTES} bytes, or breaks off: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("answers, but shows no metric that begins with {PREFIX}")]
    NoMetrics,
}

/// Where the metrics are.
#[derive(Clone, Debug)]
pub struct Target {
    url: String,
    uri: Uri,
    host: String,
    port: u16,
}

impl Target {
    /// From `http://HOST[:PORT][/PATH]`; the path is `/metrics` where there is none. The error is a reason.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let form = "must be http://HOST:PORT/metrics";
        let uri: Uri = url.parse().map_err(|_| form)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("TLS is not built"),
            _ => return Err(form),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(form)?;
        // The brackets of an IPv6 address belong to the URL alone.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(80);
        let uri = match uri.path() {
            "" | "/" => Uri::from_static("/metrics"),
            _ => uri.path_and_query().ok_or(form)?.as_str().parse().map_err(|_| form)?,
        };
        Ok(Self { url: url.to_owned(), uri, host, port })
    }

    /// As it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Fetches and reads the metrics, over a connection of its own.
    pub async fn scrape(&self) -> Result<Exposition, ScrapeError> {
        let text = tokio::time::timeout(TIMEOUT, self.get()).await.map_err(|_| ScrapeError::Timeout)??;
        let exposition = Exposition::parse(&text);
        let ours = exposition.series().any(|(series, _)| series.name.starts_with(PREFIX));
        if ours { Ok(exposition) } else { Err(ScrapeError::NoMetrics) }
    }

    async fn get(&self) -> Result<String, ScrapeError> {
        let stream = TcpStream::connect((&self.host[..], self.port)).await.map_err(ScrapeError::Connect)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ScrapeError::Http)?;
        let exchange = async {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = self.uri.clone();
            let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
            if let Ok(host) = format!("{host}:{}", self.port).parse() {
                request.headers_mut().insert(HOST, host);
            }
            let response = sender.send_request(request).await.map_err(ScrapeError::Http)?;
            if response.status() != StatusCode::OK {
                return Err(ScrapeError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await.map_err(ScrapeError::Body)?;
            Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
        };
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection may end first, with the answer already read.
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(ScrapeError::Http(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_urls() {
        let target = |url: &str| {
            let target = Target::parse(url).expect("a target");
            (target.host, target.port, target.uri.to_string())
        };
        assert_eq!(target("http://127.0.0.1:9464/metrics"), ("127.0.0.1".into(), 9464, "/metrics".into()));
        assert_eq!(target("http://box:1/m?x=1"), ("box".into(), 1, "/m?x=1".into()));
        assert_eq!(target("http://box"), ("box".into(), 80, "/metrics".into()));
        assert_eq!(target("http://[::1]:9464/"), ("::1".into(), 9464, "/metrics".into()));
        for url in ["", "box:1", "127.0.0.1:9464", "https://box/metrics", "ftp://box/", "http://", "http:///x", "/m"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
