//! The active branch of conversations as Markdown, for people and back.
//!
//! A comment that Markdown does not show stands before each part; a line of a message that looks
//! like one gets a backslash, which is taken off again.

use super::transfer::{ImportError, Saved, SavedConversation, SavedMessage};
use crate::now_ms;

const MARK: &str = "<!-- tandem:";

fn escaped(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let looks = line.trim_start_matches('\\').starts_with(MARK);
        if looks { format!("\\{line}") } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn unescaped(line: &str) -> &str {
    let looks = line.starts_with('\\') && line.trim_start_matches('\\').starts_with(MARK);
    if looks { &line[1..] } else { line }
}

impl Saved {
    /// As Markdown: titles, system prompts, and the messages of the active branches.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        for c in &self.conversations {
            let title = c.title.replace(['\n', '\r'], " ");
            out += &format!("{MARK}conversation -->\n# {title}\n\n");
            if let Some(prompt) = &c.system_prompt {
                out += &format!("{MARK}system -->\n{}\n\n", escaped(prompt));
            }
            let mut next = c.active_root;
            while let Some(m) = next.and_then(|i| c.messages.get(i)) {
                let name = if m.role == "user" { "You" } else { "Tandem" };
                out += &format!("{MARK}{} -->\n## {name}\n\n{}\n\n", m.role, escaped(&m.content));
                next = m.active_child;
            }
        }
        out
    }

    /// Reads what [`Self::to_markdown`] wrote, perhaps changed in an editor.
    ///
    /// # Errors
    /// If there is no conversation in it.
    pub fn from_markdown(bytes: &[u8]) -> Result<Self, ImportError> {
        let text = str::from_utf8(bytes)
            .map_err(|_| ImportError::Unreadable("it is not text in UTF-8".into()))?;
        let text = text.replace("\r\n", "\n");
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
        for line in text.split('\n') {
            let mark =
                line.strip_prefix(MARK).and_then(|rest| rest.trim_end().strip_suffix(" -->"));
            match (mark, parts.last_mut()) {
                (Some(mark), _) => parts.push((mark, Vec::new())),
                (None, Some((_, lines))) => lines.push(unescaped(line)),
                (None, None) => {}
            }
        }
        let now = now_ms();
        let mut conversations: Vec<SavedConversation> = Vec::new();
        for (mark, lines) in parts {
            if mark == "conversation" {
                let title = lines.iter().find_map(|l| l.strip_prefix("# ")).unwrap_or("–");
                conversations.push(SavedConversation {
                    title: title.to_owned(),
                    auto_title: false,
                    pinned: false,
                    system_prompt: None,
                    sampling: None,
                    created_at: now,
                    updated_at: now,
                    active_root: None,
                    pairs: Vec::new(),
                    messages: Vec::new(),
                    undated: true,
                });
                continue;
            }
            let number = conversations.len();
            let Some(c) = conversations.last_mut() else { return Err(ImportError::Foreign) };
            match mark {
                "system" => c.system_prompt = Some(body(&lines)),
                "user" | "assistant" => {
                    // The heading is for people.
                    let from = lines.iter().position(|l| l.starts_with("## ")).map_or(0, |i| i + 2);
                    let content = body(lines.get(from..).unwrap_or_default());
                    let at = c.messages.len();
                    match c.messages.last_mut() {
                        Some(before) => before.active_child = Some(at),
                        None => c.active_root = Some(0),
                    }
                    c.messages.push(SavedMessage {
                        parent: at.checked_sub(1),
                        active_child: None,
                        role: mark.to_owned(),
                        content,
                        status: "done".into(),
                        error: None,
                        finish: None,
                        tokens: 0,
                        ttft_ms: None,
                        tokens_per_s: None,
                        created_at: now,
                        rounds: Vec::new(),
                    });
                }
                other => {
                    let other: String = other.chars().take(20).collect();
                    return Err(ImportError::Damaged(number, format!("it has a part `{other}`")));
                }
            }
        }
        if conversations.is_empty() {
            Err(ImportError::Foreign)
        } else {
            let saved = Self::of(conversations);
            saved.check()?;
            Ok(saved)
        }
    }
}

/// The lines without the empty one that ends a part.
fn body(lines: &[&str]) -> String {
    let text = lines.join("\n");
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}
