//! What people typed, between the template and the tokenizer.
//!
//! A template sees the real text, because it may look for things in it, cut it, and strip it. So that no
//! text can become a control token, a *mark*, one character that occurs in no text of the conversation,
//! is put behind each character of the texts at which the spelling of a control token may begin. Marks
//! are taken out of what was rendered, and a control token is recognised only where no mark was inside
//! its spelling ([`Rendered::written_by_template`]): whatever the template does with a text, a spelling
//! that begins inside it has a mark behind its first character. So has one of which a text is the
//! middle or the end, as far as a template's own text could complete it ([`Control::completes`]).
//!
//! There is no mark where a text has a tag that the template itself names, such as `</think>`, unless it
//! spells a control token, or the beginning of one; so `'</think>' in content` finds it. In what the
//! model said earlier, tags of thoughts are tags even if the vocabulary calls them control tokens: an
//! assistant's turn cannot be left with one.

use std::collections::HashSet;
use std::ops::Range;

/// The spellings that only a template may write, those of more than one character.
pub(crate) struct Control {
    texts: Vec<String>,
    firsts: HashSet<char>,
    lasts: HashSet<char>,
    /// All spellings, each between zeros.
    joined: String,
    longest: usize,
}

impl Control {
    pub(crate) fn new(texts: impl Iterator<Item = String>) -> Self {
        let mut texts: Vec<String> = texts.filter(|t| t.chars().nth(1).is_some()).collect();
        texts.sort_unstable();
        let joined = texts.iter().fold("\0".to_owned(), |all, t| all + t + "\0");
        Self {
            firsts: texts.iter().filter_map(|t| t.chars().next()).collect(),
            lasts: texts.iter().filter_map(|t| t.chars().next_back()).collect(),
            longest: texts.iter().map(String::len).max().unwrap_or(0),
            joined,
            texts,
        }
    }

    /// The longest spelling with which `text` begins.
    fn spelled(&self, text: &str) -> Option<&str> {
        // Those with which it begins are, in order, no greater than it.
        let mut cut = self.longest.min(text.len());
        while cut > 0 {
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            if let Ok(at) = self.texts.binary_search_by(|t| t.as_str().cmp(&text[..cut])) {
                return Some(&self.texts[at]);
            }
            cut = cut.saturating_sub(1);
        }
        None
    }

    /// Whether a spelling begins with `text`.
    fn begins(&self, text: &str) -> bool {
        let at = self.texts.partition_point(|t| t.as_str() < text);
        self.texts.get(at).is_some_and(|t| t.starts_with(text))
    }

    /// Whether a spelling that began before `text` could end or go on in it: it begins with the end of
    /// one, or is, without the spaces around it, in the middle of one.
    fn completes(&self, text: &str) -> bool {
        let text = text.trim();
        if text.is_empty() || text.contains('\0') {
            return false;
        }
        if text.len() < self.longest && self.joined.contains(text) {
            return true;
        }
        let head = text.char_indices().take_while(|(at, _)| *at < self.longest);
        let mut ends = head.filter(|(_, c)| self.lasts.contains(c));
        ends.any(|(at, c)| self.joined.contains(&format!("{}\0", &text[..at + c.len_utf8()])))
    }
}

/// Puts marks into the texts of a conversation.
pub(crate) struct Typed<'a> {
    control: &'a Control,
    /// Texts that the template names.
    named: &'a [String],
    mark: char,
}

impl<'a> Typed<'a> {
    /// For texts that are all in `texts`.
    ///
    /// `None` if they have every character that could be a mark.
    pub(crate) fn new<'t>(
        control: &'a Control,
        named: &'a [String],
        texts: impl Iterator<Item = &'t str>,
    ) -> Option<Self> {
        let private = |c: &char| *c >= '\u{F0000}';
        let used: HashSet<char> = texts.flat_map(|t| t.chars().filter(private)).collect();
        let mark = ('\u{F5A1E}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}');
        let mark = mark.into_iter().find(|c| !used.contains(c))?;
        Some(Self { control, named, mark })
    }

    pub(crate) fn mark(&self) -> char {
        self.mark
    }

    /// `text` with marks; `model` if it is what the model said.
    pub(crate) fn put(&self, text: &str, model: bool) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        let start = text.len() - text.trim_start().len();
        let completes = self.control.completes(text);
        for (at, c) in text.char_indices() {
            out.push(c);
            if (completes && at == start)
                || (self.control.firsts.contains(&c) && self.dangerous(&text[at..], c, model))
            {
                out.push(self.mark);
            }
        }
        out
    }

    /// Whether a spelling may begin with `rest`, which begins with `first`.
    fn dangerous(&self, rest: &str, first: char, model: bool) -> bool {
        if let Some(spelled) = self.control.spelled(rest) {
            return !(model && is_thought(spelled));
        }
        // A letter begins too many words to be marked in each.
        if first.is_alphanumeric() || first.is_whitespace() {
            return self.control.begins(rest);
        }
        !self.named.iter().any(|tag| {
            rest.starts_with(tag.as_str())
                && tag.len() > first.len_utf8()
                && !self.control.begins(tag)
        })
    }
}

/// Whether a tag begins or ends a thought.
fn is_thought(tag: &str) -> bool {
    tag.to_ascii_lowercase().contains("think")
}

/// What a template made, without marks.
pub(crate) struct Rendered {
    /// The text.
    pub(crate) text: String,
    /// Where marks were, in bytes, ascending.
    marks: Vec<usize>,
}

impl Rendered {
    pub(crate) fn new(rendered: &str, mark: char) -> Self {
        let (mut text, mut marks) = (String::with_capacity(rendered.len()), Vec::new());
        for (i, piece) in rendered.split(mark).enumerate() {
            if i > 0 {
                marks.push(text.len());
            }
            text.push_str(piece);
        }
        Self { text, marks }
    }

    /// Whether no mark is inside these bytes.
    pub(crate) fn written_by_template(&self, at: &Range<usize>) -> bool {
        let next = self.marks.partition_point(|m| *m <= at.start);
        self.marks.get(next).is_none_or(|m| *m >= at.end)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn control() -> Control {
        let all = ["<|im_end|>", "<s>", "</s>", "<think>", "</think>", "[INST]", "end of"];
        Control::new(all.into_iter().map(str::to_owned))
    }

    fn marked(text: &str, model: bool) -> String {
        let control = control();
        let named = ["</think>", "<tool>", "<", "<|"].map(str::to_owned);
        let typed = Typed::new(&control, &named, [text].into_iter()).unwrap();
        let marked = typed.put(text, model);
        assert_eq!(Rendered::new(&marked, typed.mark()).text, text);
        marked.replace(typed.mark(), "·")
    }

    #[test]
    fn marks_are_where_control_tokens_may_begin() {
        assert_eq!(marked("a <|im_end|>", false), "a <·|im_end|>");
        assert_eq!(marked("a < b <", false), "a <· b <·");
        assert_eq!(marked("<tool> </tool>", false), "<tool> <·/tool>");
        assert_eq!(marked("a</think>b", false), "a<·/think>b");
        assert_eq!(marked("a</think>b<s>", true), "a</think>b<·s>");
        assert_eq!(marked("<<|im_end|>", true), "<·<·|im_end|>");
        assert_eq!(marked("[IN", false), "[·IN");
        // The last letters too could become one, with what the template writes behind them.
        assert_eq!(marked("an end of it, then", false), "an e·nd of it, the·n");
        assert_eq!(marked("an end of it, they", false), "an e·nd of it, they");
        // The end and the middle of one.
        assert_eq!(marked(" |> and", false), " |·> and");
        assert_eq!(marked("im_end", false), "i·m_e·nd");
        assert_eq!(marked("plain text", false), "plain text");
        assert_eq!(marked("", false), "");
    }

    #[test]
    fn the_mark_is_a_character_that_nobody_typed() {
        let control = control();
        let text: String = ('\u{F5A1E}'..='\u{F5A2E}').collect();
        let typed = Typed::new(&control, &[], [text.as_str()].into_iter()).unwrap();
        assert_eq!(typed.mark(), '\u{F5A2F}');
        let all: String = ('\u{F0000}'..='\u{10FFFF}').collect();
        assert!(Typed::new(&control, &[], [all.as_str()].into_iter()).is_none());
    }

    #[test]
    fn a_spelling_with_a_mark_inside_is_no_token() {
        let rendered = Rendered::new("<s>·<·s><s·>·", '·');
        assert_eq!(rendered.text, "<s><s><s>");
        let told: Vec<bool> =
            [0..3, 3..6, 6..9].iter().map(|at| rendered.written_by_template(at)).collect();
        assert_eq!(told, [true, false, false]);
    }
}
