//! From the message to a checked request. Ranges are vLLM's where it has them; what is not built yet is named.

use super::limits::{
    MAX_CACHE_SALT, MAX_LOGIT_BIAS, MAX_N, MAX_REQUEST_ID, MAX_STOP_TOKEN_IDS, MAX_TENANT, MAX_TOP_LOGPROBS,
    MAX_VIOLATIONS_A_LIST, PRIORITIES, is_tenant,
};
use super::proto::{self, GenerateRequest, generate_request::Prompt};
use super::status;
use super::violations::Violations;
use super::writer::ResponsePlan;
use crate::sampling::params::{SamplingParams, SequenceParams, StopParams};
use crate::text::StopStrings;
use crate::types::TokenId;
use tonic::Status;

/// A request that holds to every rule but those that need its prompt's tokens.
pub(super) struct Checked {
    pub request_id: String,
    pub prompt: CheckedPrompt,
    pub params: SequenceParams,
    /// Sequences to return, and to compute.
    pub n: u32,
    pub best_of: u32,
    pub kv: proto::KvOptions,
    pub tenant: String,
    pub priority: i32,
    pub echo: bool,
    pub plan: ResponsePlan,
}

/// A prompt before it is encoded.
#[derive(Debug)]
pub(super) enum CheckedPrompt {
    Text { text: String, add_special: bool, parse_special: bool },
    Ids(Vec<TokenId>),
}

/// Checks everything at once. INVALID_ARGUMENT goes before UNIMPLEMENTED.
pub(super) fn check(request: GenerateRequest, vocab_size: usize) -> Result<Checked, Status> {
    let mut violations = Violations::default();
    let unbuilt = unbuilt_fields(&request, &mut violations);
    let request_id = request_id(request.request_id, &mut violations);
    let n = request.n.unwrap_or(1);
    if !(1..=MAX_N).contains(&n) {
        violations.push("n", format!("{n} is not 1 to {MAX_N}"));
    }
    let best_of = request.best_of.unwrap_or(n);
    if best_of < n {
        violations.push("best_of", "is less than n");
    } else if best_of > MAX_N && n <= MAX_N {
        violations.push("best_of", format!("{best_of} is more than {MAX_N}"));
    }
    let kv = request.kv.unwrap_or_default();
    if kv.cache_salt.len() > MAX_CACHE_SALT {
        violations.push("kv.cache_salt", format!("is longer than {MAX_CACHE_SALT} bytes"));
    }
    let add_special = request.add_special.unwrap_or(true);
    let parse_special = request.parse_special.unwrap_or(false);
    let prompt = prompt(request.prompt, add_special, parse_special, vocab_size, &mut violations);
    let sampling = sampling(&request.sampling.unwrap_or_default(), vocab_size, &mut violations);
    let stopping = request.stopping.unwrap_or_default();
    let stop = stop_params(&stopping, vocab_size, &mut violations);
    let stops = StopStrings::new(stopping.stop, stopping.include_stop);
    if let Err(error) = &stops {
        violations.push("stopping.stop", error.to_string());
    }
    let response = request.response.unwrap_or_default();
    if response.top_logprobs.is_some_and(|k| k > MAX_TOP_LOGPROBS) {
        violations.push("response.top_logprobs", format!("is more than {MAX_TOP_LOGPROBS}"));
    }
    let (tenant, priority) = (request.tenant, request.priority.unwrap_or(0));
    check_turn(&tenant, priority, &mut violations);
    violations.check()?;
    if !unbuilt.is_empty() {
        return Err(status::unimplemented(&unbuilt));
    }
    let (Some(prompt), Ok(stops)) = (prompt, stops) else { return Err(status::invalid_field("prompt", "is missing")) };
    let plan = ResponsePlan {
        tokens: response.token_ids || response.top_logprobs.is_some(),
        logprobs: response.top_logprobs.is_some(),
        include_stop: stopping.include_stop,
        min_tokens: stop.min_tokens,
        stops,
    };
    // The choice among more sequences than are returned needs the log-probabilities of their tokens.
    let logprobs = response.top_logprobs.or((best_of > n).then_some(0));
    let params = SequenceParams { sampling, stopping: stop, logprobs };
    Ok(Checked { request_id, prompt, params, n, best_of, kv, tenant, priority, echo: response.echo, plan })
}

fn request_id(id: String, violations: &mut Violations) -> String {
    if id.is_empty() {
        return uuid::Uuid::new_v4().to_string();
    }
    if id.len() > MAX_REQUEST_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
        violations.push("request_id", format!("is not up to {MAX_REQUEST_ID} visible ASCII characters"));
    }
    id
}

/// When a request gets its turn.
fn check_turn(tenant: &str, priority: i32, violations: &mut Violations) {
    if !is_tenant(tenant) {
        let begin: String = tenant.chars().take(MAX_TENANT).collect();
        violations.push("tenant", format!("{begin:?} is not up to {MAX_TENANT} visible ASCII characters"));
    }
    if !PRIORITIES.contains(&priority) {
        let (least, most) = (PRIORITIES.start(), PRIORITIES.end());
        violations.push("priority", format!("{priority} is not {least} to {most}"));
    }
}

fn prompt(
    prompt: Option<Prompt>,
    add_special: bool,
    parse_special: bool,
    vocab_size: usize,
    violations: &mut Violations,
) -> Option<CheckedPrompt> {
    match prompt {
        Some(Prompt::Text(text)) => Some(CheckedPrompt::Text { text, add_special, parse_special }),
        Some(Prompt::TokenIds(ids)) => {
            if ids.ids.is_empty() {
                violations.push("token_ids", "the prompt has no tokens");
            }
            violations.token_ids("token_ids.ids", &ids.ids, vocab_size);
            Some(CheckedPrompt::Ids(ids.ids))
        }
        None => {
            violations.push("prompt", "is missing: set text or token_ids");
            None
        }
    }
}

fn sampling(message: &proto::SamplingParams, vocab_size: usize, violations: &mut Violations) -> SamplingParams {
    let v = violations;
    let default = SamplingParams::default();
    let unit = |x: f32| (0.0..=1.0).contains(&x);
    let penalty = |x: f32| (-2.0..=2.0).contains(&x);
    let m = message;
    SamplingParams {
        temperature: v
            .number("sampling.temperature", m.temperature, default.temperature, "0 to 2", |x| (0.0..=2.0).contains(&x)),
        top_k: m.top_k.unwrap_or(default.top_k),
        top_p: v.number("sampling.top_p", m.top_p, default.top_p, "above 0 and up to 1", |x| x > 0.0 && x <= 1.0),
        min_p: v.number("sampling.min_p", m.min_p, default.min_p, "0 to 1", unit),
        repetition_penalty: v.number(
            "sampling.repetition_penalty",
            m.repetition_penalty,
            default.repetition_penalty,
            "above 0 and finite",
            |x| x > 0.0 && x.is_finite(),
        ),
        repetition_window: m.repetition_window.unwrap_or(default.repetition_window),
        presence_penalty: v.number("sampling.presence_penalty", m.presence_penalty, 0.0, "-2 to 2", penalty),
        frequency_penalty: v.number("sampling.frequency_penalty", m.frequency_penalty, 0.0, "-2 to 2", penalty),
        logit_bias: logit_bias(m, vocab_size, v),
        seed: m.seed.unwrap_or_else(draw_seed),
    }
}

/// The entries by ascending id: the order of a map must not reach the sampler.
fn logit_bias(message: &proto::SamplingParams, vocab_size: usize, violations: &mut Violations) -> Vec<(TokenId, f32)> {
    const FIELD: &str = "sampling.logit_bias";
    let mut entries: Vec<(TokenId, f32)> = message.logit_bias.iter().map(|(&id, &bias)| (id, bias)).collect();
    entries.sort_by_key(|&(id, _)| id);
    if entries.len() > MAX_LOGIT_BIAS {
        violations.push(FIELD, format!("has {} entries, the most are {MAX_LOGIT_BIAS}", entries.len()));
    }
    let outside = entries.iter().filter(|(id, _)| *id as usize >= vocab_size);
    for (id, _) in outside.take(MAX_VIOLATIONS_A_LIST) {
        violations.push(format!("{FIELD}[{id}]"), format!("is outside the vocabulary of {vocab_size} tokens"));
    }
    let bad = entries.iter().filter(|(_, bias)| !(bias.is_finite() || *bias == f32::NEG_INFINITY));
    for (id, bias) in bad.take(MAX_VIOLATIONS_A_LIST) {
        violations.push(format!("{FIELD}[{id}]"), format!("{bias} is neither finite nor -infinity"));
    }
    entries
}

/// 64 random bits: the fixed bits of either half fall on random ones of the other.
fn draw_seed() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low
}

fn stop_params(message: &proto::StoppingOptions, vocab_size: usize, violations: &mut Violations) -> StopParams {
    let default = StopParams::default();
    let max_tokens = message.max_tokens.unwrap_or(default.max_tokens);
    let min_tokens = message.min_tokens.unwrap_or(default.min_tokens);
    if max_tokens == 0 {
        violations.push("stopping.max_tokens", "0 is not at least 1");
    }
    if min_tokens > max_tokens {
        violations.push("stopping.min_tokens", format!("{min_tokens} is more than max_tokens, {max_tokens}"));
    }
    if message.stop_token_ids.len() > MAX_STOP_TOKEN_IDS {
        let count = message.stop_token_ids.len();
        violations.push("stopping.stop_token_ids", format!("has {count} entries, the most are {MAX_STOP_TOKEN_IDS}"));
    }
    violations.token_ids("stopping.stop_token_ids", &message.stop_token_ids, vocab_size);
    StopParams {
        max_tokens,
        min_tokens,
        ignore_eos: message.ignore_eos,
        stop_token_ids: message.stop_token_ids.clone(),
    }
}

/// Fields that are set to something this build cannot honour. Their numbers are checked all the same.
fn unbuilt_fields(request: &GenerateRequest, violations: &mut Violations) -> Vec<&'static str> {
    let sampling = request.sampling.clone().unwrap_or_default();
    let mut unbuilt = Vec::new();
    let mut want = |name, set: bool| {
        if set {
            unbuilt.push(name);
        }
    };
    let v = violations;
    let not_negative = |x: f32| x >= 0.0 && x.is_finite();
    let typical_p =
        v.number("sampling.typical_p", sampling.typical_p, 1.0, "above 0 and up to 1", |x| x > 0.0 && x <= 1.0);
    want("sampling.typical_p", typical_p != 1.0);
    let top_n_sigma =
        v.number("sampling.top_n_sigma", sampling.top_n_sigma, 0.0, "at least 0 and finite", not_negative);
    want("sampling.top_n_sigma", top_n_sigma != 0.0);
    let multiplier =
        v.number("sampling.dry_multiplier", sampling.dry_multiplier, 0.0, "at least 0 and finite", not_negative);
    want("sampling.dry_multiplier", multiplier != 0.0);
    v.number("sampling.dry_base", sampling.dry_base, 1.75, "at least 0 and finite", not_negative);
    want("sampling.dry_base", sampling.dry_base.is_some());
    want("sampling.dry_allowed_length", sampling.dry_allowed_length.is_some());
    want("sampling.dry_penalty_last_n", sampling.dry_penalty_last_n.is_some());
    want("sampling.dry_sequence_breakers", !sampling.dry_sequence_breakers.is_empty());
    want("response.prompt_logprobs", request.response.is_some_and(|r| r.prompt_logprobs.is_some()));
    unbuilt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_46_what_a_request_leaves_out_has_its_default() {
        covers!("API-46");
        let request = GenerateRequest { prompt: Some(Prompt::Text("x".into())), ..GenerateRequest::default() };
        let Ok(Checked { n, prompt, params, priority, .. }) = check(request, 10) else { panic!("a good request") };
        let CheckedPrompt::Text { add_special, parse_special, .. } = prompt else { panic!("a text") };
        let (sampling, stopping) = (&params.sampling, &params.stopping);
        for row in crate::spec::table("API-46").rows() {
            let found = match row.text("field") {
                "n" => n.to_string(),
                "priority" => priority.to_string(),
                "add_special" => add_special.to_string(),
                "parse_special" => parse_special.to_string(),
                "sampling.temperature" => sampling.temperature.to_string(),
                "sampling.top_k" => sampling.top_k.to_string(),
                "sampling.top_p" => sampling.top_p.to_string(),
                "sampling.min_p" => sampling.min_p.to_string(),
                "sampling.repetition_penalty" => sampling.repetition_penalty.to_string(),
                "sampling.repetition_window" => sampling.repetition_window.to_string(),
                "sampling.presence_penalty" => sampling.presence_penalty.to_string(),
                "sampling.frequency_penalty" => sampling.frequency_penalty.to_string(),
                "stopping.max_tokens" => stopping.max_tokens.to_string(),
                "stopping.min_tokens" => stopping.min_tokens.to_string(),
                "stopping.ignore_eos" => stopping.ignore_eos.to_string(),
                other => panic!("no field {other}"),
            };
            assert_eq!(found, row.text("default"), "{}", row.text("field"));
        }
    }
}
