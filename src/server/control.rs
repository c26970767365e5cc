//! The Control service.

use super::inference::check_model;
use super::limits;
use super::proto::control_server::Control;
use super::proto::{
    AbortRequest, AbortResponse, GetLoadRequest, GetModelInfoRequest, GetServerInfoRequest, Limits, LoadInfo,
    ModelInfo, ServerInfo, StepMs, TokensPerSecond, WatchLoadRequest,
};
use super::state::{Phase, ServerState};
use super::{status, violations::Violations};
use crate::engine::handle::LoadSnapshot;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

const DETERMINISM: &str = "The tokens of a sequence depend on the model, its prompt, parameters, seed and index, \
    and on the instruction-set path; not on what shares its batch, the number of threads, chunking or preemption.";

pub(super) struct ControlService(pub Arc<ServerState>);

#[tonic::async_trait]
impl Control for ControlService {
    type WatchLoadStream = Pin<Box<dyn Stream<Item = Result<LoadInfo, Status>> + Send>>;

    async fn get_server_info(&self, _: Request<GetServerInfoRequest>) -> Result<Response<ServerInfo>, Status> {
        Ok(Response::new(ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            isa: self.0.info.isa.clone(),
            threads: u32::try_from(self.0.info.threads).unwrap_or(u32::MAX),
            limits: Some(limits_in_force(&self.0)),
            determinism_scope: DETERMINISM.to_owned(),
        }))
    }

    async fn get_model_info(&self, request: Request<GetModelInfoRequest>) -> Result<Response<ModelInfo>, Status> {
        let loaded = self.0.loaded()?;
        check_model(loaded, &request.get_ref().model)?;
        let info = loaded.info.clone();
        Ok(Response::new(ModelInfo {
            name: info.name,
            architecture: info.architecture,
            file_type: info.file_type,
            context_length: info.context_length,
            vocab_size: info.vocab_size,
            parameters: info.parameters,
            sha256: info.header_sha256,
        }))
    }

    async fn get_load(&self, _: Request<GetLoadRequest>) -> Result<Response<LoadInfo>, Status> {
        Ok(Response::new(load_info(&self.0.loaded()?.engine.load())))
    }

    async fn watch_load(&self, request: Request<WatchLoadRequest>) -> Result<Response<Self::WatchLoadStream>, Status> {
        let interval_ms = request.get_ref().interval_ms.unwrap_or(1000);
        let mut violations = Violations::default();
        if !(10..=60_000).contains(&interval_ms) {
            violations.push("interval_ms", format!("{interval_ms} is not 10 to 60000"));
        }
        violations.check()?;
        let engine = self.0.loaded()?.engine.clone();
        let mut ticks = tokio::time::interval(Duration::from_millis(u64::from(interval_ms)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watch = (engine, ticks, self.0.phase.subscribe(), false);
        let stream = futures_util::stream::unfold(watch, |(engine, mut ticks, mut phase, ended)| async move {
            if ended {
                return None;
            }
            let stopped = tokio::select! {
                _ = phase.wait_for(|phase| *phase >= Phase::Stopped) => true,
                _ = ticks.tick() => false,
            };
            let item = if stopped { Err(status::draining()) } else { Ok(load_info(&engine.load())) };
            Some((item, (engine, ticks, phase, stopped)))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
        let engine = &self.0.loaded()?.engine;
        if engine.abort(&request.get_ref().request_id) {
            Ok(Response::new(AbortResponse { aborted: true }))
        } else {
            Err(status::request_not_found())
        }
    }
}

/// The limits of the process; those of the engine are 0 until it is there.
fn limits_in_force(state: &ServerState) -> Limits {
    let limits = &state.limits;
    let facts = state.engine().map(|engine| (engine.facts(), engine.queue_limits()));
    Limits {
        max_model_len: facts.map_or(0, |(f, _)| f.max_model_len),
        max_num_seqs: facts.map_or(0, |(f, _)| f.max_num_seqs),
        max_num_batched_tokens: facts.map_or(0, |(f, _)| f.max_num_batched_tokens),
        max_queued: facts.map_or(0, |(_, q)| q.max_queued),
        max_queued_tokens: facts.map_or(0, |(_, q)| q.max_queued_tokens),
        max_message_bytes: limits.max_message_bytes as u64,
        max_concurrent_streams: limits.max_concurrent_streams,
        max_connections: limits.max_connections,
        max_header_list_bytes: limits.max_header_list_bytes,
        max_n: limits::MAX_N,
        max_top_logprobs: limits::MAX_TOP_LOGPROBS,
        max_stop_strings: limits::MAX_STOPS as u32,
        max_stop_bytes: limits::MAX_STOPS_BYTES as u32,
        max_stop_token_ids: limits::MAX_STOP_TOKEN_IDS as u32,
        max_logit_bias_entries: limits::MAX_LOGIT_BIAS as u32,
        max_unread_bytes: limits.max_unread_bytes as u64,
        max_unread_bytes_logprobs: limits.max_unread_bytes_logprobs as u64,
        target_itl_ms: facts.and_then(|(f, _)| f.target_itl).map(|target| target.as_secs_f64() * 1e3),
        max_queued_per_tenant: facts.map_or(0, |(_, q)| q.max_queued_per_tenant),
        max_queued_tokens_per_tenant: facts.map_or(0, |(_, q)| q.max_queued_tokens_per_tenant),
        max_claimed_kv_blocks: facts.map_or(0, |(f, q)| u64::from(f.num_blocks) * u64::from(q.max_claimed_pools)),
    }
}

fn load_info(load: &LoadSnapshot) -> LoadInfo {
    LoadInfo {
        running: load.running,
        waiting: load.waiting,
        waiting_tokens: load.waiting_tokens,
        kv_blocks_used: load.kv_blocks_used,
        kv_blocks_cached: load.kv_blocks_cached,
        kv_blocks_free: load.kv_blocks_free,
        kv_blocks_total: load.kv_blocks_total,
        batch_sequences: load.batch_sequences,
        tokens_per_second: Some(TokensPerSecond { prefill: load.prefill_per_second, decode: load.decode_per_second }),
        step_ms: Some(StepMs { p50: load.step_ms_p50, p99: load.step_ms_p99 }),
        estimated_wait_ms: load.estimated_wait_ms,
        saturation: load.saturation,
        draining: load.draining,
        tenants_waiting: load.tenants_waiting,
        kv_blocks_claimed: load.kv_blocks_claimed,
    }
}
