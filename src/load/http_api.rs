//! The two HTTP interfaces that the load tester speaks: what a request is written as, what an event says.
//!
//! Formats: OpenAI's completions as vLLM and `llama-server` extend them, and the native one of `llama-server`
//! (`tools/server/README.md` of llama.cpp).

use super::workload::PlannedRequest;
use crate::types::TokenId;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /v1/completions`.
    OpenAi,
    /// `POST /completion` of `llama-server`.
    Llama,
}

/// What one event says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub text: String,
    /// Where the server sends them.
    pub token_ids: Vec<TokenId>,
    /// The event brings at least one token; how many is told by `token_ids` or `so_far`, or it is one.
    pub has_tokens: bool,
    /// Tokens generated so far, this event's included.
    pub so_far: Option<u32>,
    /// The completion is over.
    pub finished: bool,
}

/// An event that is no part of a completion.
#[derive(Debug, PartialEq, Eq)]
pub enum BadEvent {
    /// Not a JSON object.
    Malformed,
    /// The server tells an error, by this code.
    Error(String),
}

/// Seeds that every server takes, whatever integer it keeps them in.
const SEED_MASK: u64 = 0x7fff_ffff;

impl Dialect {
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/completions",
            Self::Llama => "/completion",
        }
    }

    /// The name of this interface in `vllm bench serve`.
    pub fn backend(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Llama => "llama.cpp",
        }
    }

    /// The body of a request. Parameters of the sampler that are not asked for are switched off, not left to the
    /// server: defaults differ between servers.
    pub fn body(self, model: &str, planned: &PlannedRequest, prefix_cache: bool) -> Value {
        let mut body = json!({
            "prompt": planned.prompt,
            "stream": true,
            "ignore_eos": true,
            "cache_prompt": prefix_cache,
            "temperature": planned.sampling.temperature,
            "seed": planned.seed & SEED_MASK,
        });
        let more = match self {
            Self::OpenAi => json!({
                "model": model,
                "max_tokens": planned.gen_tokens,
                "stream_options": {"include_usage": true},
                "return_token_ids": true,
            }),
            Self::Llama => json!({"n_predict": planned.gen_tokens, "return_tokens": true}),
        };
        let filters = if planned.sampling.temperature > 0.0 { self.filters(planned) } else { json!({}) };
        if let (Value::Object(body), Value::Object(more), Value::Object(filters)) = (&mut body, more, filters) {
            body.extend(more);
            body.extend(filters);
        }
        body
    }

    fn filters(self, planned: &PlannedRequest) -> Value {
        let sampling = &planned.sampling;
        let (top_p, min_p) = (sampling.top_p.unwrap_or(1.0), sampling.min_p.unwrap_or(0.0));
        let penalty = sampling.repetition_penalty.unwrap_or(1.0);
        match self {
            Self::OpenAi => {
                let top_k = sampling.top_k.map_or(-1, i64::from);
                json!({"top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": penalty})
            }
            Self::Llama => {
                // The window of the penalty is the whole sequence, as ours.
                let window = planned.prompt.len() as u64 + u64::from(planned.gen_tokens);
                let top_k = sampling.top_k.unwrap_or(0);
                json!({
                    "top_k": top_k,
                    "top_p": top_p,
                    "min_p": min_p,
                    "repeat_penalty": penalty,
                    "repeat_last_n": window,
                })
            }
        }
    }

    /// Reads the data of an event. Fields of the wrong type count as absent.
    pub fn event(self, data: &[u8]) -> Result<Event, BadEvent> {
        if self == Self::OpenAi && data == b"[DONE]" {
            return Ok(Event { finished: true, ..Event::default() });
        }
        let event: Value = serde_json::from_slice(data).map_err(|_| BadEvent::Malformed)?;
        if !event.is_object() {
            return Err(BadEvent::Malformed);
        }
        if let Some(error) = error_code(&event) {
            return Err(BadEvent::Error(error));
        }
        Ok(match self {
            Self::OpenAi => openai_event(&event),
            Self::Llama => llama_event(&event),
        })
    }
}

/// The event that closes a completion may bring the last token or nothing; any other with a choice brings one, if only
/// a piece of a character that is not to be shown yet.
fn openai_event(event: &Value) -> Event {
    let so_far = number(&event["usage"]["completion_tokens"]);
    let choice = &event["choices"][0];
    let text = choice["text"].as_str().unwrap_or_default().to_owned();
    let token_ids = ids(&choice["token_ids"]);
    let finished = !choice["finish_reason"].is_null();
    let has_tokens = choice.is_object() && (!finished || !text.is_empty() || !token_ids.is_empty());
    Event { text, token_ids, has_tokens, so_far, finished }
}

fn llama_event(event: &Value) -> Event {
    let so_far = number(&event["tokens_predicted"]);
    let text = event["content"].as_str().unwrap_or_default().to_owned();
    let token_ids = ids(&event["tokens"]);
    let finished = event["stop"].as_bool().unwrap_or(false);
    let has_tokens = event["content"].is_string() && (!finished || !text.is_empty() || !token_ids.is_empty());
    Event { text, token_ids, has_tokens, so_far, finished }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

fn ids(value: &Value) -> Vec<TokenId> {
    value.as_array().into_iter().flatten().filter_map(number).collect()
}

/// The code of an error, or its type, or nothing but that it is one.
fn error_code(event: &Value) -> Option<String> {
    let error = event.get("error").filter(|error| !error.is_null())?;
    let code = [&error["code"], &error["type"]].into_iter().find_map(|value| match value {
        Value::Number(code) => Some(code.to_string()),
        Value::String(code) => Some(code.chars().take(40).collect()),
        _ => None,
    });
    Some(code.unwrap_or_else(|| "UNKNOWN".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::workload::{MIX, Sampling};

    fn planned(sampling: Sampling) -> PlannedRequest {
        PlannedRequest {
            prompt: vec![5, 6, 7],
            gen_tokens: 9,
            sampling,
            seed: 0x1234_5678_9abc_def0,
            cancel_after: None,
            deadline_ms: None,
        }
    }

    #[test]
    fn both_bodies_carry_the_same_request() {
        let openai = Dialect::OpenAi.body("m", &planned(MIX[3]), false);
        let llama = Dialect::Llama.body("m", &planned(MIX[3]), false);
        for (key, value) in [
            ("prompt", json!([5, 6, 7])),
            ("stream", json!(true)),
            ("ignore_eos", json!(true)),
            ("cache_prompt", json!(false)),
            ("seed", json!(0x1abc_def0)),
            ("top_p", json!(1.0)),
        ] {
            assert_eq!((&openai[key], &llama[key]), (&value, &value), "{key}");
        }
        assert_eq!((&openai["top_k"], &llama["top_k"], &llama["repeat_last_n"]), (&json!(-1), &json!(0), &json!(12)));
        assert_eq!((&openai["max_tokens"], &llama["n_predict"]), (&json!(9), &json!(9)));
        assert_eq!((&openai["model"], &llama["model"]), (&json!("m"), &Value::Null));
        assert_eq!(openai["stream_options"]["include_usage"], true);
        assert_eq!(openai["repetition_penalty"], llama["repeat_penalty"]);
        assert!((llama["repeat_penalty"].as_f64().expect("a number") - 1.1).abs() < 1e-6);
        assert_eq!(Dialect::Llama.body("m", &planned(MIX[0]), true)["cache_prompt"], true);
        assert_eq!(Dialect::OpenAi.body("m", &planned(MIX[0]), true)["top_k"], Value::Null);
    }

    #[test]
    fn events_of_openai() {
        let read = |text: &str| Dialect::OpenAi.event(text.as_bytes());
        let token = read(r#"{"choices":[{"index":0,"text":"a","finish_reason":null}],"usage":null}"#).expect("good");
        assert_eq!(token, Event { text: "a".into(), has_tokens: true, ..Event::default() });
        // A token whose text is held back.
        assert!(read(r#"{"choices":[{"text":"","finish_reason":null}]}"#).expect("good").has_tokens);
        let closing = read(r#"{"choices":[{"text":"","finish_reason":"length"}]}"#).expect("good");
        assert_eq!(closing, Event { finished: true, ..Event::default() });
        let last = read(r#"{"choices":[{"text":"z","finish_reason":"length","token_ids":[3,4]}]}"#).expect("good");
        assert!(last.has_tokens && last.finished && last.token_ids == [3, 4]);
        let usage = read(r#"{"choices":[],"usage":{"completion_tokens":7}}"#).expect("good");
        assert_eq!(usage, Event { so_far: Some(7), ..Event::default() });
        assert_eq!(read("[DONE]").expect("good"), Event { finished: true, ..Event::default() });
    }

    #[test]
    fn events_of_llama() {
        let read = |text: &str| Dialect::Llama.event(text.as_bytes());
        let token = read(r#"{"content":"a","tokens":[8],"stop":false,"tokens_predicted":3}"#).expect("good");
        let expected =
            Event { text: "a".into(), token_ids: vec![8], has_tokens: true, so_far: Some(3), finished: false };
        assert_eq!(token, expected);
        let last = read(r#"{"content":"","tokens":[],"stop":true,"tokens_predicted":9}"#).expect("good");
        assert_eq!(last, Event { so_far: Some(9), finished: true, ..Event::default() });
    }

    #[test]
    fn what_is_no_event_is_told() {
        for dialect in [Dialect::OpenAi, Dialect::Llama] {
            for text in ["", "{", "7", "[]", "null", "{\"choices\":[}", "\u{1}", "\"\\ud800\""] {
                assert_eq!(dialect.event(text.as_bytes()), Err(BadEvent::Malformed), "{text}");
            }
            assert_eq!(dialect.event(b"{\"content\": \"\xff\"}"), Err(BadEvent::Malformed));
            let error = |text: &str| dialect.event(text.as_bytes());
            assert_eq!(error(r#"{"error":{"code":500,"message":"x"}}"#), Err(BadEvent::Error("500".into())));
            assert_eq!(error(r#"{"error":{"code":null,"type":"server"}}"#), Err(BadEvent::Error("server".into())));
            assert_eq!(error(r#"{"error":"x"}"#), Err(BadEvent::Error("UNKNOWN".into())));
            assert_eq!(error(r#"{"choices":7,"content":[],"usage":{"completion_tokens":-1}}"#), Ok(Event::default()));
        }
    }
}
