//! What all RPCs share.

use super::info::{ModelInfo, ServerInfo};
use super::limits::ServerLimits;
use super::status;
use crate::engine::handle::EngineHandle;
use crate::metrics::Metrics;
use crate::text::Tokenizer;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tonic::Status;

/// Where the server is in its life. Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No model yet.
    Loading,
    Serving,
    /// No new requests.
    Draining,
    /// Streams without an end of their own end now.
    Stopped,
}

/// A model that is served.
pub struct Loaded {
    pub engine: EngineHandle,
    pub tokenizer: Arc<Tokenizer>,
    pub info: ModelInfo,
    pub fingerprint: String,
}

/// One a server.
pub struct ServerState {
    pub limits: ServerLimits,
    pub info: ServerInfo,
    pub metrics: Arc<Metrics>,
    pub(super) phase: watch::Sender<Phase>,
    /// No step completes though there is work.
    pub(super) stalled: watch::Sender<bool>,
    /// RPCs of Inference that are not answered to the end.
    pub(super) open_rpcs: watch::Sender<usize>,
    /// Bytes that request messages may still hold while they come in.
    pub(super) receiving: Arc<Semaphore>,
    /// Bytes that responses may still hold while they go out.
    pub(super) answering: Arc<Semaphore>,
    /// Threads that encode long texts.
    pub(super) encoders: Arc<Semaphore>,
    /// Texts that wait for or hold one of them.
    pub(super) encodes: Arc<Semaphore>,
    model: OnceLock<Loaded>,
}

impl ServerState {
    /// A server without a model: it answers UNAVAILABLE until [`ServerState::set_model`].
    pub fn new(info: ServerInfo, limits: ServerLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.set_build_info(&info.isa, info.threads);
        Arc::new(Self {
            limits,
            info,
            metrics,
            phase: watch::Sender::new(Phase::Loading),
            stalled: watch::Sender::new(false),
            open_rpcs: watch::Sender::new(0),
            receiving: Arc::new(Semaphore::new(limits.max_receiving_bytes)),
            answering: Arc::new(Semaphore::new(limits.max_answer_bytes)),
            encoders: Arc::new(Semaphore::new(limits.max_encoders)),
            encodes: Arc::new(Semaphore::new(limits.max_encoders + limits.max_waiting_encodes)),
            model: OnceLock::new(),
        })
    }

    /// Serves `engine` from now on. A second call changes nothing.
    pub fn set_model(&self, engine: EngineHandle, tokenizer: Arc<Tokenizer>, info: ModelInfo) {
        self.metrics.set_model_info(&info.name, &info.architecture, &info.file_type);
        let fingerprint = self.info.fingerprint(&info);
        if self.model.set(Loaded { engine, tokenizer, info, fingerprint }).is_ok() {
            self.advance(Phase::Serving);
            // Told to drain while it was being loaded: the drain found no engine to tell.
            if let Some(engine) = self.engine().filter(|_| self.phase() >= Phase::Draining) {
                engine.drain();
            }
        }
    }

    /// The model, or UNAVAILABLE.
    pub(super) fn loaded(&self) -> Result<&Loaded, Status> {
        self.model.get().ok_or_else(|| match self.phase() {
            Phase::Loading | Phase::Serving => status::loading(),
            Phase::Draining | Phase::Stopped => status::draining(),
        })
    }

    pub(super) fn engine(&self) -> Option<&EngineHandle> {
        self.model.get().map(|loaded| &loaded.engine)
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether requests are taken and answered: a model is loaded, its engine lives and goes on, and the server does
    /// not drain.
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Serving
            && !*self.stalled.borrow()
            && self.engine().is_some_and(|engine| !engine.is_closed())
    }

    /// RPCs of Inference that are not answered to the end.
    pub fn num_open_rpcs(&self) -> usize {
        *self.open_rpcs.borrow()
    }

    /// Held by responses on their way out.
    pub fn num_answer_bytes(&self) -> usize {
        self.limits.max_answer_bytes.saturating_sub(self.answering.available_permits())
    }

    /// Notes whether the engine has stalled. True where that is new.
    pub(super) fn set_stalled(&self, now: bool) -> bool {
        self.metrics.engine_stalled.set(f64::from(u8::from(now)));
        self.stalled.send_if_modified(|stalled| std::mem::replace(stalled, now) != now)
    }

    /// Brings the gauges of the engine and of the edge up to now.
    pub(super) fn refresh_gauges(&self) {
        if let Some(engine) = self.engine() {
            engine.refresh_gauges();
        }
        let receiving = self.limits.max_receiving_bytes.saturating_sub(self.receiving.available_permits());
        self.metrics.receiving_bytes.set(receiving as f64);
        self.metrics.answer_bytes.set(self.num_answer_bytes() as f64);
        self.metrics.open_rpcs.set(self.num_open_rpcs() as f64);
        self.metrics.io_tasks.set(Handle::current().metrics().num_alive_tasks() as f64);
    }

    pub(super) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = (*phase).max(to);
            forward
        });
    }
}
