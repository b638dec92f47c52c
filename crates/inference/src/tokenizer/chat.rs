//! A conversation, written by the model's own template and encoded.

use super::Tokenizer;
use super::vocabulary::Vocabulary;
use crate::Error;
use crate::template::typed::{Control, Rendered, Typed};
use crate::template::{Circumstances, Template};
use minijinja::Value;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::time::SystemTime;
use tandem_speculation::TokenId;

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What they say.
    pub content: String,
}

/// All that a template may be told of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// Objects with `role`, `content` and what else the template looks for, such as `tool_calls`.
    pub messages: &'a [Json],
    /// Descriptions of tools, as the template wants them; empty: there are none.
    pub tools: &'a [Json],
    /// The time for templates that write the date; `None`: now, where this computer is; else in UTC.
    pub instant: Option<SystemTime>,
}

/// Roles that templates know; others are text that somebody typed.
const ROLES: &[&str] = &["system", "user", "assistant", "tool", "developer", "function", "ipython"];

/// Lists in lists at most, in what a template is told.
const MAX_DEPTH: usize = 16;

/// How a model writes conversations.
pub(super) struct Chat {
    template: Template,
    control: Control,
    /// Names and texts of the tokens that templates name.
    tokens: Vec<(&'static str, String)>,
    /// Whether the template takes a system message; else its text goes before the first question.
    system: bool,
}

impl Chat {
    /// # Errors
    /// If the template cannot be used, with a sentence about it.
    pub(super) fn new(source: &str, vocabulary: &Vocabulary) -> Result<Self, String> {
        let template = Template::new(source)
            .map_err(|e| format!("its chat template cannot be used: {e}; choose another file"))?;
        let all = vocabulary.tokens.iter().zip(&vocabulary.kinds);
        let control = all.filter(|(_, kind)| kind.is_control()).map(|(text, _)| text.clone());
        let tokens = vec![
            ("bos_token", vocabulary.text(vocabulary.bos)),
            ("eos_token", vocabulary.text(vocabulary.eos)),
        ];
        Ok(Self { template, control: Control::new(control), tokens, system: true })
    }

    fn render(&self, told: &Conversation<'_>) -> Result<Rendered, String> {
        let mut texts = Vec::new();
        for part in told.messages.iter().chain(told.tools) {
            collect(part, MAX_DEPTH, &mut texts)?;
        }
        let bytes = texts.iter().map(|t| t.len()).sum();
        let typed = Typed::new(&self.control, self.template.named(), texts.into_iter());
        let typed = typed.ok_or("it has every character there is; send a shorter one")?;
        let value = |part: &Json| mark(part, &typed, is_model(part));
        let mut context = vec![
            ("messages", told.messages.iter().map(value).collect::<Value>()),
            ("add_generation_prompt", Value::from(true)),
            // Qwen3 would think aloud, in the answer.
            ("enable_thinking", Value::from(false)),
            ("documents", Value::from(())),
        ];
        let tools = told.tools.iter().map(value).collect::<Value>();
        context.push(("tools", if told.tools.is_empty() { Value::from(()) } else { tools }));
        context.extend(self.tokens.iter().map(|(name, text)| (*name, Value::from(text.as_str()))));
        let circumstances = Circumstances {
            messages: told.messages.len() + told.tools.len(),
            bytes,
            mark: typed.mark(),
            instant: told.instant,
        };
        let rendered = self.template.render(circumstances, context.into_iter().collect());
        let rendered = rendered.map_err(|e| format!("the model's chat template failed: {e}"))?;
        Ok(Rendered::new(&rendered, typed.mark()))
    }
}

/// All texts of a value.
fn collect<'a>(value: &'a Json, depth: usize, texts: &mut Vec<&'a str>) -> Result<(), String> {
    let deeper = || depth.checked_sub(1).ok_or("it is nested too deeply; send a flatter one");
    match value {
        Json::String(text) => texts.push(text),
        Json::Array(parts) => {
            for part in parts {
                collect(part, deeper()?, texts)?;
            }
        }
        Json::Object(parts) => {
            for (key, part) in parts {
                texts.push(key);
                collect(part, deeper()?, texts)?;
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
    Ok(())
}

/// Whether the model said this message.
fn is_model(message: &Json) -> bool {
    message.get("role").and_then(Json::as_str) == Some(Role::Assistant.name())
}

/// The value with marks in all its texts.
fn mark(value: &Json, typed: &Typed<'_>, model: bool) -> Value {
    match value {
        Json::String(text) => Value::from(typed.put(text, model)),
        Json::Array(parts) => parts.iter().map(|p| mark(p, typed, model)).collect(),
        Json::Object(parts) => {
            let known = |part: &Json| part.as_str().is_some_and(|role| ROLES.contains(&role));
            let part = |(key, part): (&String, &Json)| match key.as_str() {
                "role" if known(part) => (Value::from("role"), Value::from_serialize(part)),
                // Templates ask for keys by name.
                key => (Value::from(typed.put(key, model)), mark(part, typed, model)),
            };
            parts.iter().map(part).collect()
        }
        other => Value::from_serialize(other),
    }
}

/// The messages as a template gets them, with the system's text before the first question if the
/// template takes no system message.
fn messages(all: &[ChatMessage], system: bool) -> Vec<Json> {
    let json =
        |role: Role, content: &str| serde_json::json!({ "role": role.name(), "content": content });
    let first = all.iter().position(|m| m.role != Role::System).unwrap_or(all.len());
    if system || first == 0 {
        return all.iter().map(|m| json(m.role, &m.content)).collect();
    }
    let (told, rest) = all.split_at(first);
    let told = told.iter().map(|m| m.content.as_str()).filter(|text| !text.is_empty());
    let mut before = told.collect::<Vec<_>>().join("\n\n");
    let mut out = Vec::with_capacity(rest.len() + 1);
    for message in rest {
        if message.role == Role::User && !before.is_empty() {
            before.push_str("\n\n");
            before.push_str(&message.content);
            out.push(json(Role::User, &std::mem::take(&mut before)));
        } else {
            out.push(json(message.role, &message.content));
        }
    }
    if !before.is_empty() {
        out.push(json(Role::User, &before));
    }
    out
}

impl Tokenizer {
    /// The ids of a conversation, rendered by the model's own template and ready for the answer.
    ///
    /// The template sees the texts as they are. What people typed can never become a control token,
    /// however they spell it and whatever the template does with it: control tokens are recognised only
    /// where the template wrote all of their spelling. Only the tags of thoughts in what the assistant
    /// said earlier are tags.
    ///
    /// Where a template takes no system message, its text goes before the first question.
    ///
    /// # Errors
    /// If the template fails or the text cannot be encoded.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>, Error> {
        let messages = self::messages(messages, self.chat()?.system);
        self.encode_conversation(&Conversation { messages: &messages, tools: &[], instant: None })
    }

    /// The same, for a context of `most` tokens: of a text that is far too long only as much is encoded
    /// as shows it. The inner error is how many tokens there are at least.
    ///
    /// # Errors
    /// As [`Self::encode_chat`].
    pub fn encode_chat_within(
        &self,
        messages: &[ChatMessage],
        most: usize,
    ) -> Result<Result<Vec<TokenId>, usize>, Error> {
        /// Bytes for each token of a context below which a text is simply encoded.
        const PROBE: usize = 4;
        /// Tokens that a word may have more where it is cut through.
        const PROBE_CUT: usize = 64;
        let messages = self::messages(messages, self.chat()?.system);
        let told = Conversation { messages: &messages, tools: &[], instant: None };
        let rendered = self.chat()?.render(&told);
        let rendered = rendered.map_err(|e| Error::Tokenizer(format!("this conversation: {e}")))?;
        let text = rendered.text.as_str();
        let mut probe = PROBE.saturating_mul(most);
        while probe < text.len() {
            let cut = (0..=probe).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let ids = self.encode_where(&text[..cut], &|at| rendered.written_by_template(at));
            // What the rule of words cannot cut is too long all the same if no tokens are long enough.
            let least = match ids {
                Ok(ids) => ids.len().saturating_sub(PROBE_CUT),
                Err(e) => match text.len() / self.longest_piece() {
                    least if least > most => least,
                    _ => return Err(e),
                },
            };
            if least > most {
                return Ok(Err(least));
            }
            probe = probe.saturating_mul(4);
        }
        match self.ids(&rendered) {
            Ok(ids) => Ok(Ok(ids)),
            Err(e) => match text.len() / self.longest_piece() {
                least if least > most => Ok(Err(least)),
                _ => Err(e),
            },
        }
    }

    /// Bytes of the longest token.
    fn longest_piece(&self) -> usize {
        self.pieces.longest().max(1)
    }

    /// The same for a conversation with more than texts.
    ///
    /// # Errors
    /// As [`Self::encode_chat`].
    pub fn encode_conversation(&self, told: &Conversation<'_>) -> Result<Vec<TokenId>, Error> {
        let rendered = self.chat()?.render(told);
        let rendered = rendered.map_err(|e| Error::Tokenizer(format!("this conversation: {e}")))?;
        self.ids(&rendered)
    }

    fn ids(&self, rendered: &Rendered) -> Result<Vec<TokenId>, Error> {
        let mut ids = self.encode_where(&rendered.text, &|at| rendered.written_by_template(at))?;
        if self.add_bos && ids.first() != self.bos.as_ref() {
            ids.splice(0..0, self.bos);
        }
        Ok(ids)
    }

    fn chat(&self) -> Result<&Chat, Error> {
        self.chat.as_ref().ok_or_else(|| {
            Error::Tokenizer("this model has no chat template; use an instruct model".into())
        })
    }

    /// Tries the template with conversations that everybody has, and finds out whether it takes a
    /// system message.
    ///
    /// # Errors
    /// If the first chat would fail, with a sentence about it.
    pub(super) fn try_chat(&mut self) -> Result<(), String> {
        let Some(chat) = &mut self.chat else { return Ok(()) };
        let say = |role, content: &str| ChatMessage { role, content: content.into() };
        let question = say(Role::User, "Hello.");
        let thought = say(Role::Assistant, "<think>\nA greeting.\n</think>\n\nHi.");
        let told = [say(Role::System, "Be brief."), question.clone()];
        let turns = [question.clone(), thought, question.clone()];
        let render = |chat: &Chat, all: &[ChatMessage]| {
            let messages = messages(all, chat.system);
            let told = Conversation { messages: &messages, tools: &[], instant: None };
            chat.render(&told)
                .map_err(|e| format!("it cannot be chatted with: {e}; choose another file"))
        };
        render(chat, std::slice::from_ref(&question))?;
        if render(chat, &told).is_err() {
            chat.system = false;
            render(chat, &told)?;
        }
        render(chat, &turns)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_text_goes_before_the_first_question_where_it_has_no_place() {
        let say = |role, content: &str| ChatMessage { role, content: content.into() };
        let talk = [
            say(Role::System, "A"),
            say(Role::System, ""),
            say(Role::User, "B"),
            say(Role::User, "C"),
        ];
        let texts = |all: &[ChatMessage], system| -> Vec<String> {
            let all = messages(all, system);
            all.iter().map(|m| format!("{} {}", m["role"], m["content"])).collect()
        };
        assert_eq!(texts(&talk, false), [r#""user" "A\n\nB""#, r#""user" "C""#]);
        assert_eq!(texts(&talk, true).len(), 4);
        assert_eq!(texts(&talk[..1], false), [r#""user" "A""#]);
        assert_eq!(texts(&talk[1..3], false), [r#""user" "B""#]);
    }
}
