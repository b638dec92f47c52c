//! What a client may ask for: read, bounded and checked before anything is computed.

use super::error::ApiError;
use super::generation::Order;
use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
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
    pub tokenizer: &'a Tokenizer,
    /// Tokens of a context at most.
    pub context: usize,
}

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<Strings<MAX_STOPS>>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<i64>,
    n: Option<i64>,
    // Not OpenAI's, but usual among servers of open models.
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    // What would change the answer and is not offered.
    tools: Option<IgnoredAny>,
    functions: Option<IgnoredAny>,
    logprobs: Option<bool>,
    logit_bias: Option<BTreeMap<String, IgnoredAny>>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    response_format: Option<Kind>,
    audio: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<Strings<MAX_PARTS, Part>>,
    tool_calls: Option<IgnoredAny>,
}

/// A piece of a message.
#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// One string, or a list of at most `N` things.
enum Strings<const N: usize, T = String> {
    One(String),
    Many(Vec<T>),
}

impl<'de, const N: usize, T: Deserialize<'de>> Deserialize<'de> for Strings<N, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<const N: usize, T>(PhantomData<T>);
        impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for Either<N, T> {
            type Value = Strings<N, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string or a list of at most {N}")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Strings::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = list.next_element()? {
                    if all.len() == N {
                        return Err(A::Error::invalid_length(N + 1, &self));
                    }
                    all.push(one);
                }
                Ok(Strings::Many(all))
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
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

/// Reads a request's body. Takes time that grows with the text: for a thread that may compute.
///
/// # Errors
/// If it is not JSON, asks for another model or for what is not offered, or is too long.
pub(super) fn read(bytes: &[u8], served: &Served<'_>) -> Result<Request, ApiError> {
    let Asked { messages, sampling, seed, most, stops, stream, usage } =
        parse(bytes, served.model)?;
    // A template may refuse roles in an order that its model does not know.
    let prompt = served.tokenizer.encode_chat(&messages);
    let prompt = prompt.map_err(|e| ApiError::invalid(Some("messages"), e.to_string()))?;
    let room = served.context.saturating_sub(prompt.len());
    if room == 0 {
        return Err(ApiError::context_full(format!(
            "the messages have {} tokens and the context {}; shorten them, or give the edge a larger \
             --context",
            prompt.len(),
            served.context
        )));
    }
    let most = most.unwrap_or(room).min(room) as u32;
    Ok(Request { order: Order { prompt, sampling, seed, most }, stops, stream, usage })
}

fn parse(bytes: &[u8], served: &str) -> Result<Asked, ApiError> {
    let body: Body = serde_json::from_slice(bytes)
        .map_err(|e| ApiError::invalid(None, format!("the body is no request in JSON: {e}")))?;
    match &body.model {
        None => return Err(ApiError::invalid(Some("model"), "say which `model` is meant")),
        Some(wanted) if wanted != served => return Err(ApiError::unknown_model(wanted, served)),
        Some(_) => {}
    }
    not_offered(&body)?;
    let stream = body.stream.unwrap_or(false);
    if body.stream_options.is_some() && !stream {
        let text = "`stream_options` is for requests with `stream`";
        return Err(ApiError::invalid(Some("stream_options"), text));
    }
    Ok(Asked {
        sampling: sampling(&body)?,
        most: most(&body)?,
        // Any 64 bits are a seed; those of a negative number too.
        seed: body.seed.map(i64::cast_unsigned),
        stops: stops(body.stop)?,
        stream,
        usage: body.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        messages: messages(body.messages.unwrap_or_default())?,
    })
}

/// Refuses what would change the answer and is not there: to leave it out would be another answer.
fn not_offered(body: &Body) -> Result<(), ApiError> {
    let refuse = |param: &'static str, given: bool| {
        if !given {
            return Ok(());
        }
        let text = format!("this edge does not offer `{param}`; leave it out");
        Err(ApiError::invalid(Some(param), text))
    };
    if body.n.is_some_and(|n| n != 1) {
        return Err(ApiError::invalid(Some("n"), "this edge gives one answer: `n` must be 1"));
    }
    let other = |number: Option<f32>| number.is_some_and(|v| v != 0.0);
    let format = body.response_format.as_ref();
    refuse("tools", body.tools.is_some())?;
    refuse("functions", body.functions.is_some())?;
    refuse("audio", body.audio.is_some())?;
    refuse("logprobs", body.logprobs == Some(true))?;
    refuse("logit_bias", body.logit_bias.as_ref().is_some_and(|b| !b.is_empty()))?;
    refuse("presence_penalty", other(body.presence_penalty))?;
    refuse("frequency_penalty", other(body.frequency_penalty))?;
    refuse("response_format", format.is_some_and(|f| f.kind != "text"))
}

/// What is not said is as in Tandem's own app, which takes what the models' makers recommend.
fn sampling(body: &Body) -> Result<Sampling, ApiError> {
    let usual = Sampling::default();
    let top_k = match body.top_k {
        None => usual.top_k,
        // Servers differ in how they say "all".
        Some(-1) => 0,
        Some(k) => u32::try_from(k).map_err(|_| {
            ApiError::invalid(Some("top_k"), "`top_k` must be a whole number, 0 for all tokens")
        })?,
    };
    let sampling = Sampling {
        temperature: body.temperature.unwrap_or(usual.temperature),
        top_k,
        top_p: body.top_p.unwrap_or(usual.top_p),
        min_p: body.min_p.unwrap_or(usual.min_p),
        repetition_penalty: body.repetition_penalty.unwrap_or(usual.repetition_penalty),
        ..usual
    };
    sampling.validate().map_err(|e| ApiError::invalid(None, e.to_string()))?;
    Ok(sampling)
}

/// Tokens of the answer at most, if that is said. The newer name counts.
fn most(body: &Body) -> Result<Option<usize>, ApiError> {
    let (param, wanted) = match (body.max_completion_tokens, body.max_tokens) {
        (Some(most), _) => ("max_completion_tokens", most),
        (None, Some(most)) => ("max_tokens", most),
        (None, None) => return Ok(None),
    };
    match usize::try_from(wanted) {
        Ok(most) if most > 0 => Ok(Some(most.min(MAX_CONTEXT))),
        _ => Err(ApiError::invalid(Some(param), format!("`{param}` must be at least 1"))),
    }
}

fn stops(stop: Option<Strings<MAX_STOPS>>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => Vec::new(),
        Some(Strings::One(stop)) => vec![stop],
        Some(Strings::Many(stops)) => stops,
    };
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP) {
        let text = format!("each string in `stop` must have 1 to {MAX_STOP} bytes");
        return Err(ApiError::invalid(Some("stop"), text));
    }
    Ok(stops)
}

fn messages(messages: Vec<Message>) -> Result<Vec<ChatMessage>, ApiError> {
    let refuse = |text: String| Err(ApiError::invalid(Some("messages"), text));
    if messages.is_empty() || messages.len() > MAX_MESSAGES {
        return refuse(format!("`messages` must hold 1 to {MAX_MESSAGES} messages"));
    }
    let mut all = Vec::with_capacity(messages.len());
    for (i, message) in messages.into_iter().enumerate() {
        let role = match message.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            _ => {
                return refuse(format!(
                    "messages[{i}]: its `role` must be system, developer, user or assistant"
                ));
            }
        };
        if message.tool_calls.is_some() {
            return refuse(format!("messages[{i}]: this edge does not offer tools"));
        }
        let content = match message.content {
            Some(Strings::One(text)) => text,
            Some(Strings::Many(parts)) => {
                let mut content = String::new();
                for part in parts {
                    match part.text {
                        Some(text) if part.kind == "text" => content.push_str(&text),
                        _ => return refuse(format!("messages[{i}]: only parts of text are read")),
                    }
                }
                content
            }
            None => return refuse(format!("messages[{i}] has no `content`")),
        };
        all.push(ChatMessage { role, content });
    }
    Ok(all)
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
        parse(body.to_string().as_bytes(), "m")
    }

    #[test]
    fn what_is_not_said_is_as_in_the_app() {
        let plain = asked(json!({})).expect("a request");
        assert_eq!(plain.sampling, Sampling::default());
        assert_eq!((plain.most, plain.stream, plain.usage), (None, false, false));
        assert!(plain.stops.is_empty());
        // Null says nothing.
        let null = json!({ "temperature": null, "stop": null, "max_tokens": null, "n": null,
            "stream": null, "stream_options": null, "tools": null, "logit_bias": null });
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
            (json!({ "model": null }), "model", "model"),
            (json!({ "messages": null }), "messages", "messages"),
            (json!({ "messages": [] }), "messages", "messages"),
            (json!({ "messages": many(MAX_MESSAGES + 1, user) }), "messages", "1024"),
            (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages", "role"),
            (json!({ "messages": [{ "role": "user" }] }), "messages", "content"),
            (of(json!([{ "type": "image_url", "image_url": { "url": "x" } }])), "messages", "text"),
            (of(many(MAX_PARTS + 1, part)), "", "at most 64"),
            (json!({ "n": 2 }), "n", "one answer"),
            (json!({ "tools": [] }), "tools", "tools"),
            (json!({ "logprobs": true }), "logprobs", "logprobs"),
            (json!({ "logit_bias": { "5": 1 } }), "logit_bias", "logit_bias"),
            (json!({ "frequency_penalty": 0.5 }), "frequency_penalty", "frequency_penalty"),
            (json!({ "response_format": { "type": "json_object" } }), "response_format", "offer"),
            (json!({ "stop": "" }), "stop", "bytes"),
            (json!({ "stop": ["x".repeat(MAX_STOP + 1)] }), "stop", "bytes"),
            (json!({ "stop": many(MAX_STOPS + 1, json!("x")) }), "", "at most 16"),
            (json!({ "max_tokens": 0 }), "max_tokens", "at least 1"),
            (json!({ "max_completion_tokens": -3 }), "max_completion_tokens", "at least 1"),
            (json!({ "temperature": 11 }), "", "temperature"),
            (json!({ "temperature": "hot" }), "", "JSON"),
            (json!({ "top_p": 0 }), "", "top-p"),
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
        for bytes in [&b""[..], b"{", b"null", b"[]", b"\xff\xfe", deep.as_bytes()] {
            assert_eq!(parse(bytes, "m").expect_err("no request").status, StatusCode::BAD_REQUEST);
        }
    }
}
