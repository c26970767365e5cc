//! What is loaded: our own server over gRPC, or another over HTTP, driven by the same plan and recorded the same way.

use super::client::Client;
use super::error::LoadError;
use super::http_api::Dialect;
use super::http_client::HttpClient;
use super::record::Record;
use super::workload::PlannedRequest;
use std::time::Instant;

/// What a target says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetInfo {
    /// The interface, as `vllm bench serve` names it; `llorch-grpc` is ours.
    pub backend: &'static str,
    pub model: String,
    /// Token ids are below it. None where the target does not tell.
    pub vocab_size: Option<u32>,
    /// Tokens of prompt and completion together. None where the target does not tell.
    pub max_model_len: Option<u32>,
    /// Program, version and settings, for a reader.
    pub software: String,
}

/// An open target.
pub enum Target {
    Grpc(Client),
    Http(Box<HttpClient>),
}

impl Target {
    /// Opens `url`: `http://` is gRPC, over `connections` (at least 1) connections, `http+openai://` and
    /// `http+llama://` are HTTP/1.1, with a connection for each request in flight. A `tenant` other than the empty one
    /// is for gRPC alone.
    pub async fn connect(url: &str, connections: usize, prefix_cache: bool, tenant: &str) -> Result<Self, LoadError> {
        let bad = |reason| LoadError::BadTarget { target: url.to_owned(), reason };
        let http = async |address, dialect| {
            let client = HttpClient::connect(url, address, dialect, prefix_cache).await?;
            Ok(Self::Http(Box::new(client)))
        };
        match url.split_once("://") {
            Some(("http", _)) => Ok(Self::Grpc(Client::connect(url, connections, !prefix_cache, tenant).await?)),
            _ if !tenant.is_empty() => Err(bad("only http:// takes a tenant")),
            Some(("http+openai", address)) => http(address, Dialect::OpenAi).await,
            Some(("http+llama", address)) => http(address, Dialect::Llama).await,
            Some(("https" | "https+openai" | "https+llama", _)) => Err(bad("TLS is not built")),
            _ => Err(LoadError::bad_target(url)),
        }
    }

    /// Asks for the model; fails where it is not there (yet).
    pub async fn info(&self) -> Result<TargetInfo, LoadError> {
        match self {
            Self::Grpc(client) => client.info().await,
            Self::Http(client) => Ok(client.info().clone()),
        }
    }

    /// Sends `planned` and reads to the end. `start` is time 0, `intended` the seconds after it at which this was due.
    pub async fn send(&self, start: Instant, intended: f64, index: usize, planned: &PlannedRequest) -> Record {
        match self {
            Self::Grpc(client) => client.send(start, intended, index, planned).await,
            Self::Http(client) => client.send(start, intended, index, planned).await,
        }
    }
}
