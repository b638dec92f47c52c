//! What a client may ask for: read, bounded and checked before anything is computed.
//!
//! A field that would change the answer and is not offered is refused by its name: to leave it out in
//! silence would be another answer (`refused.rs`).

use super::error::ApiError;
use super::fields::Fields;
use super::generation::Order;
use super::refused;
use serde_json::Value;
use tandem_inference::{ChatMessage, Role, Tokenizer};
use tandem_protocol::MAX_CONTEXT;
use tandem_speculation::Sampling;

/// Bytes of a request at most: a long context's text, even with its characters escaped.
pub(super) const MAX_BODY: usize = 2 << 20;
/// Messages of a conversation at most.
const MAX_MESSAGES: usize = 1024;
/// Parts of one message at most.
const MAX_PARTS: usize = 64;
/// Stop strings, and bytes of each, at most.
const MAX_STOPS: usize = 16;
const MAX_STOP: usize = 256;

/// A request that can be served.
#[derive(Debug)]
pub(super) struct Request {
    pub order: Order,
    pub stops: Vec<String>,
    /// Wants the answer as it is written.
    pub stream: bool,
    /// Wants the counts at the end of a stream.
    pub usage: bool,
}

/// What the edge serves with.
pub(super) struct Served<'a> {
    pub model: &'a str,
    /// Other names that it is asked for by.
    pub aliases: &'a [String],
    pub tokenizer: &'a Tokenizer,
    /// Tokens of a context at most.
    pub context: usize,
}

/// What was asked for, before its text is ids.
#[derive(Debug)]
struct Asked {
    messages: Vec<ChatMessage>,
    sampling: Sampling,
    seed: Option<u64>,
    /// Tokens of the answer at most, if that was said.
    most: Option<usize>,
    stops: Vec<String>,
    stream: bool,
    usage: bool,
}

/// Reads a request's body. Takes time that grows with the text, up to the context: for a thread that
/// may compute.
///
/// # Errors
/// If it is not JSON, asks for another model or for what is not offered, or is too long.
pub(super) fn read(bytes: &[u8], served: &Served<'_>) -> Result<Request, ApiError> {
    let Asked { messages, sampling, seed, most, stops, stream, usage } =
        parse(bytes, served.model, served.aliases)?;
    let full = |tokens: usize, at_least: bool| {
        let least = if at_least { "at least " } else { "" };
        let text = format!(
            "This model's maximum context length is {} tokens. However, your messages resulted in \
             {least}{tokens} tokens. Please reduce the length of the messages.",
            served.context
        );
        ApiError::context_full(text)
    };
    // A template may refuse roles in an order that its model does not know.
    let prompt = served.tokenizer.encode_chat_within(&messages, served.context);
    let prompt = prompt.map_err(|e| ApiError::invalid(Some("messages"), e.to_string()))?;
    let prompt = prompt.map_err(|least| full(least, true))?;
    let room = served.context.saturating_sub(prompt.len());
    if room == 0 {
        return Err(full(prompt.len(), false));
    }
    let most = most.unwrap_or(room).min(room) as u32;
    Ok(Request { order: Order { prompt, sampling, seed, most }, stops, stream, usage })
}

fn parse(bytes: &[u8], model: &str, aliases: &[String]) -> Result<Asked, ApiError> {
    let mut body = Fields::of_body(bytes)?;
    if let Some(wanted) = body.text("model")?
        && !is_called(&wanted, model, aliases)
    {
        return Err(ApiError::unknown_model(&wanted, model));
    }
    let messages = messages(&mut body)?;
    let stream = body.flag("stream")?.unwrap_or(false);
    let usage = usage(&mut body, stream)?;
    let asked = Asked {
        sampling: sampling(&mut body)?,
        most: most(&mut body)?,
        // Any 64 bits are a seed, also those of a negative number or the lower ones of a larger.
        seed: body.whole("seed")?.map(|seed| seed as u64),
        stops: stops(&mut body)?,
        stream,
        usage,
        messages,
    };
    refused::check(body)?;
    Ok(asked)
}

/// Whether the model is meant: by its name as clients of different servers write it, or another
/// that the edge was given.
pub(super) fn is_called(wanted: &str, model: &str, aliases: &[String]) -> bool {
    let bare = wanted.strip_prefix("openai/").unwrap_or(wanted);
    let bare = bare.strip_suffix(":latest").unwrap_or(bare);
    let bare = bare.strip_suffix(".gguf").unwrap_or(bare);
    let mut names = std::iter::once(model).chain(aliases.iter().map(String::as_str));
    names.any(|name| name == wanted || name == bare)
}

fn usage(body: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = body.take("stream_options") else { return Ok(false) };
    let param = "stream_options";
    let mut options = Fields::of(options, param, param.into())?;
    if !stream {
        let text = "`stream_options` is for requests with `stream`";
        return Err(ApiError::invalid(Some(param), text));
    }
    Ok(options.flag("include_usage")?.unwrap_or(false))
}

/// What is not said is as in Tandem's own app, which takes what the models' makers recommend. Who says
/// how to draw is not given half of that: what is left unsaid beside it does nothing.
fn sampling(body: &mut Fields) -> Result<Sampling, ApiError> {
    let said = |v: Option<f64>| v.map(|v| v as f32);
    let temperature = said(body.number("temperature")?);
    let top_p = said(body.number("top_p")?);
    let min_p = said(body.number("min_p")?);
    let top_k = body.whole("top_k")?;
    let penalty = said(body.number("repetition_penalty")?);
    let penalty = penalty.or(said(body.number("repeat_penalty")?));
    let says = temperature.is_some() || top_p.is_some() || min_p.is_some() || top_k.is_some();
    let usual = Sampling::default();
    let unsaid = if says {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..usual }
    } else {
        usual
    };
    let top_k = match top_k {
        None => unsaid.top_k,
        // Servers differ in how they say "all".
        Some(-1) => 0,
        Some(k) => u32::try_from(k).map_err(|_| {
            ApiError::invalid(Some("top_k"), "`top_k` must be a whole number, 0 for all tokens")
        })?,
    };
    let mut sampling = Sampling {
        temperature: temperature.unwrap_or(unsaid.temperature),
        top_k,
        top_p: top_p.unwrap_or(unsaid.top_p),
        min_p: min_p.unwrap_or(unsaid.min_p),
        repetition_penalty: penalty.unwrap_or(unsaid.repetition_penalty),
        ..unsaid
    };
    if sampling.top_p == 0.0 {
        // The likeliest token alone is left.
        (sampling.temperature, sampling.top_p) = (0.0, 1.0);
    }
    sampling.validate().map_err(|e| ApiError::invalid(None, e.to_string()))?;
    Ok(sampling)
}

/// Tokens of the answer at most, if that is said. The newer name counts; −1 is no limit.
fn most(body: &mut Fields) -> Result<Option<usize>, ApiError> {
    let mut found = None;
    for param in ["max_completion_tokens", "max_tokens", "n_predict"] {
        let Some(wanted) = body.whole(param)? else { continue };
        let limit = match usize::try_from(wanted) {
            Ok(0) => None,
            Ok(most) => Some(Some(most.min(MAX_CONTEXT))),
            Err(_) if wanted == -1 => Some(None),
            Err(_) if wanted > 0 => Some(Some(MAX_CONTEXT)),
            Err(_) => None,
        };
        let text = format!("`{param}` must be at least 1, or -1 for no limit");
        let limit = limit.ok_or_else(|| ApiError::invalid(Some(param), text))?;
        found = found.or(Some(limit));
    }
    Ok(found.flatten())
}

fn stops(body: &mut Fields) -> Result<Vec<String>, ApiError> {
    let stops = match body.take("stop") {
        None => Vec::new(),
        Some(Value::Array(stops)) => stops,
        Some(one) => vec![one],
    };
    let refuse = |text: String| Err(ApiError::invalid(Some("stop"), text));
    if stops.len() > MAX_STOPS {
        return refuse(format!("`stop` has {} strings; it may have {MAX_STOPS}", stops.len()));
    }
    let mut all = Vec::new();
    for stop in stops {
        match stop {
            Value::String(text) if text.len() > MAX_STOP => {
                return refuse(format!("each string in `stop` may have {MAX_STOP} bytes"));
            }
            // Nothing ends before nothing.
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => all.push(text),
            Value::Null => {}
            _ => return refuse("`stop` must be a string or a list of strings".into()),
        }
    }
    Ok(all)
}

fn messages(body: &mut Fields) -> Result<Vec<ChatMessage>, ApiError> {
    let messages = body.list("messages", MAX_MESSAGES)?.unwrap_or_default();
    if messages.is_empty() {
        let text = format!("`messages` must hold 1 to {MAX_MESSAGES} messages");
        return Err(ApiError::invalid(Some("messages"), text));
    }
    messages.into_iter().enumerate().map(|(i, value)| message(i, value)).collect()
}

fn message(i: usize, value: Value) -> Result<ChatMessage, ApiError> {
    let refuse = |text: String| Err(ApiError::invalid(Some("messages"), text));
    let place = format!("messages[{i}]");
    let mut fields = Fields::of(value, "messages", place.clone())?;
    let role = match fields.text("role")?.as_deref() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => {
            return refuse(format!(
                "{place}: its `role` must be system, developer, user or assistant"
            ));
        }
    };
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => joined(&place, parts)?,
        Some(other) => return Err(fields.wrong("content", "a string or a list of parts", &other)),
        // So a turn is told that had only calls, or a refusal.
        None if role == Role::Assistant => String::new(),
        None => return refuse(format!("{place} has no `content`")),
    };
    refused::check_message(&place, fields)?;
    Ok(ChatMessage { role, content })
}

/// The texts of a message's parts.
fn joined(place: &str, parts: Vec<Value>) -> Result<String, ApiError> {
    let refuse = |text: String| Err(ApiError::invalid(Some("messages"), text));
    if parts.len() > MAX_PARTS {
        return refuse(format!("{place} has {} parts; it may have {MAX_PARTS}", parts.len()));
    }
    let mut content = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        let at = format!("{place}.content[{i}]");
        if let Value::String(text) = part {
            content.push_str(&text);
            continue;
        }
        let mut part = Fields::of(part, "messages", at.clone())?;
        let kind = part.text("type")?.unwrap_or_else(|| "text".into());
        if !matches!(kind.as_str(), "text" | "input_text" | "output_text") {
            let kind: String = kind.chars().take(40).collect();
            return refuse(format!("{at}: this edge reads parts of text only, not `{kind}`"));
        }
        match part.text("text")? {
            Some(text) => content.push_str(&text),
            None => return refuse(format!("{at} has no `text`")),
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use serde_json::{Value, json};

    fn asked(changes: Value) -> Result<Asked, ApiError> {
        let mut body = json!({
            "model": "m",
            "messages": [{ "role": "user", "content": "Hello" }],
        });
        for (key, value) in changes.as_object().expect("an object") {
            body[key] = value.clone();
        }
        parsed(body.to_string().as_bytes())
    }

    fn parsed(bytes: &[u8]) -> Result<Asked, ApiError> {
        parse(bytes, "m", &["gpt-4o".to_owned()])
    }

    #[test]
    fn what_is_not_said_is_as_in_the_app() {
        let plain = asked(json!({})).expect("a request");
        assert_eq!(plain.sampling, Sampling::default());
        assert_eq!((plain.most, plain.stream, plain.usage), (None, false, false));
        assert!(plain.stops.is_empty());
        // Null says nothing.
        let null = json!({ "temperature": null, "stop": null, "max_tokens": null, "n": null,
            "stream": null, "stream_options": null, "tools": null, "logit_bias": null,
            "model": null, "a field of tomorrow": null });
        assert_eq!(asked(null).expect("a request").sampling, Sampling::default());
        assert_eq!(plain.seed, None);
    }

    #[test]
    fn what_is_said_counts() {
        let all = asked(json!({ "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1,
            "repetition_penalty": 1.1, "seed": -1, "max_tokens": 5, "max_completion_tokens": 7,
            "stop": ["a", "b"], "stream": true, "stream_options": { "include_usage": true },
            "n": 1, "presence_penalty": 0, "logit_bias": {}, "response_format": { "type": "text" },
            "user": "someone", "messages": [
                { "role": "developer", "content": [
                    { "type": "text", "text": "Be " }, { "type": "text", "text": "brief." }] },
                { "role": "user", "content": "Hi", "name": "x" },
                { "role": "assistant", "content": "Hi." },
                { "role": "user", "content": "" }] }))
        .expect("a request");
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, .. } = all.sampling;
        assert_eq!((temperature, top_k, top_p, min_p, repetition_penalty), (0.0, 0, 0.5, 0.1, 1.1));
        assert_eq!((all.seed, all.most), (Some(u64::MAX), Some(7)));
        assert_eq!(all.stops, ["a", "b"]);
        assert!(all.stream && all.usage);
        let said = |role, content: &str| ChatMessage { role, content: content.into() };
        let wanted = [
            said(Role::System, "Be brief."),
            said(Role::User, "Hi"),
            said(Role::Assistant, "Hi."),
            said(Role::User, ""),
        ];
        assert_eq!(all.messages, wanted);
        assert_eq!(asked(json!({ "stop": "one" })).expect("a request").stops, ["one"]);
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let many = |n: usize, one: Value| Value::Array(vec![one; n]);
        let user = json!({ "role": "user", "content": "x" });
        let part = json!({ "type": "text", "text": "x" });
        let of = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
        let cases = [
            (json!({ "messages": null }), "messages", "messages"),
            (json!({ "messages": [] }), "messages", "messages"),
            (json!({ "messages": many(MAX_MESSAGES + 1, user) }), "messages", "1024"),
            (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages", "role"),
            (json!({ "messages": [{ "role": "user" }] }), "messages", "content"),
            (of(json!([{ "type": "image_url", "image_url": { "url": "x" } }])), "messages", "text"),
            (of(many(MAX_PARTS + 1, part)), "messages", "64"),
            (of(json!(3)), "messages", "a number"),
            (of(json!([["text", "hi"]])), "messages", "must be an object"),
            (json!({ "messages": [["user", "hi", null]] }), "messages", "must be an object"),
            (json!({ "messages": { "role": "user" } }), "messages", "a list"),
            (json!({ "stream": true, "stream_options": [true] }), "stream_options", "an object"),
            (json!({ "messages": [{ "role": "user", "content": null }] }), "messages", "content"),
            (
                json!({ "messages": [{ "role": "user", "content": "x", "images": ["x"] }] }),
                "messages",
                "images",
            ),
            (
                json!({ "messages": [{ "role": "assistant", "tool_calls": [{}] }] }),
                "messages",
                "tool_calls",
            ),
            (json!({ "n": 2 }), "n", "one answer"),
            (json!({ "tools": [{}] }), "tools", "tools"),
            (json!({ "tool_choice": "required" }), "tool_choice", "offer"),
            (json!({ "response_format": { "type": "json_schema" } }), "response_format", "offer"),
            (json!({ "grammar": "root ::= x" }), "grammar", "offer"),
            (json!({ "json_schema": { "type": "object" } }), "json_schema", "offer"),
            (json!({ "guided_json": { "type": "object" } }), "guided_json", "offer"),
            (json!({ "ignore_eos": true }), "ignore_eos", "offer"),
            (json!({ "min_tokens": 3 }), "min_tokens", "offer"),
            (json!({ "continue_final_message": true }), "continue_final_message", "offer"),
            (json!({ "add_generation_prompt": false }), "add_generation_prompt", "offer"),
            (json!({ "skip_special_tokens": false }), "skip_special_tokens", "offer"),
            (
                json!({ "chat_template_kwargs": { "enable_thinking": false } }),
                "chat_template_kwargs",
                "offer",
            ),
            (json!({ "reasoning_effort": "low" }), "reasoning_effort", "offer"),
            (json!({ "modalities": ["text", "audio"] }), "modalities", "offer"),
            (
                json!({ "web_search_options": { "search_context_size": "low" } }),
                "web_search_options",
                "offer",
            ),
            (json!({ "top_logprobs": 2 }), "top_logprobs", "offer"),
            (json!({ "xtc_probability": 0.5 }), "xtc_probability", "offer"),
            (json!({ "typical_p": 0.9 }), "typical_p", "offer"),
            (json!({ "stop_token_ids": [5] }), "stop_token_ids", "offer"),
            (json!({ "options": { "num_ctx": 5 } }), "options", "offer"),
            (json!({ "a field of tomorrow": 1 }), "a field of tomorrow", "offer"),
            (json!({ "logprobs": true }), "logprobs", "logprobs"),
            (json!({ "logit_bias": { "5": 1 } }), "logit_bias", "logit_bias"),
            (json!({ "frequency_penalty": 0.5 }), "frequency_penalty", "frequency_penalty"),
            (json!({ "response_format": { "type": "json_object" } }), "response_format", "offer"),
            (json!({ "stop": 5 }), "stop", "string"),
            (json!({ "stop": ["x".repeat(MAX_STOP + 1)] }), "stop", "bytes"),
            (json!({ "stop": many(MAX_STOPS + 1, json!("x")) }), "stop", "16"),
            (json!({ "max_tokens": 0 }), "max_tokens", "at least 1"),
            (json!({ "max_completion_tokens": -3 }), "max_completion_tokens", "at least 1"),
            (json!({ "temperature": 11 }), "", "temperature"),
            (json!({ "temperature": "hot" }), "temperature", "a number"),
            (json!({ "top_p": -0.1 }), "", "top-p"),
            (json!({ "max_tokens": 2.5 }), "max_tokens", "whole"),
            (json!({ "stream": 1 }), "stream", "true or false"),
            (json!({ "model": 5 }), "model", "a string"),
            (json!({ "top_k": -2 }), "top_k", "top_k"),
            (json!({ "stream_options": { "include_usage": true } }), "stream_options", "stream"),
        ];
        for (changes, param, word) in cases {
            let error = asked(changes.clone()).expect_err(&changes.to_string());
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{changes}");
            let form: Value = serde_json::from_str(&error.json()).expect("JSON");
            let form = &form["error"];
            assert_eq!(form["param"].as_str().unwrap_or_default(), param, "{form}");
            assert!(form["message"].as_str().is_some_and(|m| m.contains(word)), "{form}");
            assert_eq!(form["type"], "invalid_request_error");
        }
        let unknown = asked(json!({ "model": "gpt-4" })).expect_err("another model");
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
        let form: Value = serde_json::from_str(&unknown.json()).expect("JSON");
        assert_eq!(form["error"]["code"], "model_not_found");
    }

    #[test]
    fn what_is_no_json_is_refused_without_much_ado() {
        let deep = "[".repeat(200_000);
        let list = br#"["m",[["user","hi",null]],false,null]"#;
        for bytes in [&b""[..], b"{", b"null", b"[]", b"\xff\xfe", deep.as_bytes(), list] {
            assert_eq!(parsed(bytes).expect_err("no request").status, StatusCode::BAD_REQUEST);
        }
    }
    #[test]
    fn what_asks_for_nothing_is_taken() {
        let calm = json!({ "tools": [], "tool_choice": "none", "functions": [], "logprobs": false,
            "top_logprobs": 0, "n": 1.0, "best_of": 1, "presence_penalty": 0.0, "modalities": ["text"],
            "min_tokens": 0, "ignore_eos": false, "add_generation_prompt": true, "mirostat": 0,
            "typical_p": 1.0, "skip_special_tokens": true, "grammar": "", "chat_template_kwargs": {},
            "user": "me", "metadata": { "a": "b" }, "store": true, "service_tier": "auto",
            "parallel_tool_calls": true, "prompt_cache_key": "k", "keep_alive": 5, "cache_prompt": true,
            "messages": [{ "role": "user", "content": "x", "name": "me", "id": 7, "tool_calls": [] }] });
        assert!(asked(calm.clone()).is_ok(), "{:?}", asked(calm).err());
    }

    #[test]
    fn numbers_and_texts_come_as_clients_write_them() {
        let of = |changes: Value| asked(changes).expect("a request");
        assert_eq!(of(json!({ "max_tokens": -1 })).most, None);
        assert_eq!(of(json!({ "max_tokens": 3.0 })).most, Some(3));
        assert_eq!(of(json!({ "max_tokens": 1e30 })).most, Some(MAX_CONTEXT));
        assert_eq!(of(json!({ "n_predict": 4 })).most, Some(4));
        assert_eq!(of(json!({ "seed": 1.0 })).seed, Some(1));
        assert_eq!(of(json!({ "seed": u64::MAX })).seed, Some(u64::MAX));
        assert_eq!(of(json!({ "seed": -2 })).seed, Some(u64::MAX - 1));
        let greedy = of(json!({ "top_p": 0 })).sampling;
        assert_eq!(greedy.temperature, 0.0);
        assert!(of(json!({ "stop": "" })).stops.is_empty());
        assert_eq!(of(json!({ "stop": ["", "a"] })).stops, ["a"]);
        assert_eq!(of(json!({ "repeat_penalty": 1.2 })).sampling.repetition_penalty, 1.2);
        let said = of(json!({ "messages": [
            { "role": "user", "content": "x" },
            { "role": "assistant", "content": null, "refusal": "No." },
            { "role": "user", "content": ["a", { "type": "input_text", "text": "b" }] }] }));
        let said: Vec<&str> = said.messages.iter().map(|m| m.content.as_str()).collect();
        assert_eq!(said, ["x", "", "ab"]);
        let marked = b"\xef\xbb\xbf{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
        assert!(parsed(marked).is_ok());
    }

    #[test]
    fn who_says_how_to_draw_gets_nothing_beside_it() {
        let of = |changes: Value| asked(changes).expect("a request").sampling;
        let plain = of(json!({ "temperature": 1, "top_p": 1 }));
        assert_eq!((plain.temperature, plain.top_k, plain.top_p, plain.min_p), (1.0, 0, 1.0, 0.0));
        let one = of(json!({ "top_p": 0.5 }));
        assert_eq!((one.temperature, one.top_k, one.top_p), (1.0, 0, 0.5));
        let usual = Sampling::default();
        let penalty = of(json!({ "repetition_penalty": 1.1 }));
        assert_eq!((penalty.temperature, penalty.top_k), (usual.temperature, usual.top_k));
    }

    #[test]
    fn a_model_is_called_by_several_names() {
        for name in ["m", "m.gguf", "m:latest", "openai/m", "openai/m:latest", "gpt-4o"] {
            assert!(asked(json!({ "model": name })).is_ok(), "{name}");
        }
        for name in ["gpt-4", "M2", "", "m/m", "other.gguf"] {
            let unknown = asked(json!({ "model": name })).expect_err(name);
            assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{name}");
            assert!(unknown.json().contains("serves `m`"), "{}", unknown.json());
        }
    }
}
