//! What is loaded: our own server over gRPC, or another over HTTP, driven by the same plan and recorded the same way.

use super::client::Client;
use super::error::LoadError;
use super::http_api::Dialect;
use super::http_client::HttpClient;
use super::limits::Patience;
use super::record::{Outcome, Record};
use super::workload::PlannedRequest;
use crate::top::format::harmless;
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

/// An open target. What it says in words is made harmless here, for whoever shows it.
pub enum Target {
    Grpc(Client),
    Http(Box<HttpClient>),
}

impl Target {
    /// Opens `url`: `http://` is gRPC, over `connections` (at least 1) connections, `http+openai://` and
    /// `http+llama://` are HTTP/1.1, with a connection for each request in flight. A `tenant` other than the empty one
    /// is for gRPC alone.
    pub async fn connect(url: &str, connections: usize, prefix_cache: bool, tenant: &str) -> Result<Self, LoadError> {
        Self::connect_with(url, connections, prefix_cache, tenant, Patience::default()).await
    }

    /// The same, with other limits of time.
    pub async fn connect_with(
        url: &str,
        connections: usize,
        prefix_cache: bool,
        tenant: &str,
        patience: Patience,
    ) -> Result<Self, LoadError> {
        let bad = |reason| LoadError::BadTarget { target: url.to_owned(), reason };
        let http = async |address, dialect| {
            let client = HttpClient::connect(url, address, dialect, prefix_cache, patience).await?;
            Ok(Self::Http(Box::new(client)))
        };
        match url.split_once("://") {
            Some(("http", _)) => {
                let client = Client::connect(url, connections, !prefix_cache, tenant, patience).await?;
                Ok(Self::Grpc(client))
            }
            _ if !tenant.is_empty() => Err(bad("only http:// takes a tenant")),
            Some(("http+openai", address)) => http(address, Dialect::OpenAi).await,
            Some(("http+llama", address)) => http(address, Dialect::Llama).await,
            Some(("https" | "https+openai" | "https+llama", _)) => Err(bad("TLS is not built")),
            _ => Err(LoadError::bad_target(url)),
        }
    }

    /// Asks for the model; fails where it is not there (yet).
    pub async fn info(&self) -> Result<TargetInfo, LoadError> {
        let info = match self {
            Self::Grpc(client) => client.info().await?,
            Self::Http(client) => client.info().clone(),
        };
        Ok(TargetInfo { model: harmless(&info.model), software: harmless(&info.software), ..info })
    }

    /// Sends `planned` and reads to the end. `start` is time 0, `intended` the seconds after it at which this was due.
    pub async fn send(&self, start: Instant, intended: f64, index: usize, planned: &PlannedRequest) -> Record {
        let mut record = match self {
            Self::Grpc(client) => client.send(start, intended, index, planned).await,
            Self::Http(client) => client.send(start, intended, index, planned).await,
        };
        record.message = harmless(&record.message);
        if let Outcome::Failed(label) = &mut record.outcome {
            *label = harmless(label);
        }
        record
    }
}
