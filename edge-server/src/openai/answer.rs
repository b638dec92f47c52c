//! Answers in OpenAI's forms: one object, or a stream of chunks.

use super::error::ApiError;
use super::generation::{Generation, Piece};
use super::text::{Finish, Text};
use crate::state::{hex, now_ms, random};
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

/// A comment is sent after this silence, so that nothing on the way thinks that the stream is dead.
const ALIVE: Duration = Duration::from_secs(10);

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: Cached,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Cached {
    cached_tokens: u32,
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [Choice; 1],
    usage: Usage,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [ChunkChoice],
    /// Left out where it was not asked for, else in every chunk and filled in the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// An answer that is being written.
pub(super) struct Answer {
    id: String,
    created: u64,
    model: String,
    generation: Generation,
    text: Text,
    prompt: u32,
    cached: u32,
    /// What came before the response began.
    first: Option<Piece>,
}

impl Answer {
    /// Waits for the first sign that the edge takes the order, so that a refusal still gets its status.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn begin(
        model: String,
        mut generation: Generation,
        text: Text,
        prompt: u32,
    ) -> Result<Self, ApiError> {
        let first = Some(generation.next().await?);
        let id = format!("chatcmpl-{}", hex(&random::<12>()));
        let created = now_ms() / 1000;
        Ok(Self { id, created, model, generation, text, prompt, cached: 0, first })
    }

    /// New text, often empty, and whether it was the last.
    async fn next(&mut self) -> Result<(String, Option<Finish>), ApiError> {
        let piece = match self.first.take() {
            Some(piece) => piece,
            None => self.generation.next().await?,
        };
        match piece {
            Piece::Prompt { cached } => {
                self.cached = cached;
                Ok((String::new(), None))
            }
            Piece::Tokens(ids) => self.text.push(&ids),
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt,
            completion_tokens: self.text.tokens,
            total_tokens: self.prompt + self.text.tokens,
            prompt_tokens_details: Cached { cached_tokens: self.cached },
        }
    }

    /// The whole answer as one object.
    ///
    /// # Errors
    /// If the edge gives up.
    pub(super) async fn whole(mut self) -> Result<Response, ApiError> {
        let mut content = String::new();
        let finish = loop {
            let (text, finish) = self.next().await?;
            content.push_str(&text);
            if let Some(finish) = finish {
                break finish;
            }
        };
        let message = Message { role: "assistant", content, refusal: None };
        let (logprobs, finish_reason) = (None, finish.as_str());
        let completion = Completion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: [Choice { index: 0, message, logprobs, finish_reason }],
            usage: self.usage(),
        };
        Ok(json(&completion))
    }

    /// The answer as server-sent events, while it is written.
    pub(super) fn stream(self, usage: bool) -> Response {
        let mut chunks = Chunks { answer: Some(self), usage, queue: VecDeque::new() };
        chunks.begin();
        let events = futures_util::stream::unfold(chunks, |mut chunks| async move {
            let data = chunks.next().await?;
            Some((Ok::<_, Infallible>(Event::default().data(data)), chunks))
        });
        let alive = KeepAlive::new().interval(ALIVE);
        let unbuffered = [(header::CACHE_CONTROL, "no-cache"), (X_ACCEL_BUFFERING, "no")];
        (unbuffered, Sse::new(events).keep_alive(alive)).into_response()
    }
}

/// Tells proxies to pass every event on at once.
const X_ACCEL_BUFFERING: header::HeaderName = header::HeaderName::from_static("x-accel-buffering");

/// The events of a stream. Dropped with the response when the client goes away, and the generation with
/// it.
struct Chunks {
    /// `None` when all is said.
    answer: Option<Answer>,
    usage: bool,
    queue: VecDeque<String>,
}

impl Chunks {
    fn begin(&mut self) {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        self.say(delta, None);
    }

    fn say(&mut self, delta: Delta, finish: Option<Finish>) {
        let finish_reason = finish.map(Finish::as_str);
        self.chunk(&[ChunkChoice { index: 0, delta, logprobs: None, finish_reason }], None);
    }

    fn chunk(&mut self, choices: &[ChunkChoice], usage: Option<Usage>) {
        let Some(answer) = &self.answer else { return };
        let chunk = Chunk {
            id: &answer.id,
            object: "chat.completion.chunk",
            created: answer.created,
            model: &answer.model,
            choices,
            usage: self.usage.then_some(usage),
        };
        self.queue.push_back(serde_json::to_string(&chunk).unwrap_or_default());
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.queue.pop_front() {
                return Some(data);
            }
            match self.answer.as_mut()?.next().await {
                Ok((text, finish)) => {
                    if !text.is_empty() {
                        self.say(Delta { content: Some(text), ..Delta::default() }, None);
                    }
                    if finish.is_some() {
                        self.say(Delta::default(), finish);
                        let usage = self.answer.as_ref().map(Answer::usage);
                        if self.usage {
                            self.chunk(&[], usage);
                        }
                        self.queue.push_back("[DONE]".into());
                        self.answer = None;
                    }
                }
                Err(error) => {
                    // Without the mark of a good end, so that nobody takes a part for the whole.
                    self.queue.push_back(error.json());
                    self.answer = None;
                }
            }
        }
    }
}

/// A response of this JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
