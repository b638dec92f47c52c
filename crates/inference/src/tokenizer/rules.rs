//! How a text is cut into words before its pieces are joined. A file names its rule in
//! `tokenizer.ggml.pre`; the names and rules are those of llama.cpp, which writes and reads such files,
//! so that a text has the same ids here and there.

use fancy_regex::Regex;
use std::ops::Range;

/// A way of cutting text into words: each step cuts the parts that the one before it made.
#[derive(Debug)]
pub(super) struct Rule {
    /// The usual one of its names, for fingerprints: files of one rule may use any of them.
    pub name: &'static str,
    steps: &'static [Step],
    /// A word that is in the vocabulary is one token, whatever the merges say.
    pub whole_words: bool,
    /// Texts begin with a token for that, unless the file says otherwise.
    pub begins: bool,
}

#[derive(Debug)]
enum Step {
    /// What matches is a part of its own, and so is what stands between.
    Split(&'static str),
    /// Numbers in threes from their end: `1234567` is 1, 234, 567.
    Threes(Digits),
}

/// Which numbers are cut in threes.
#[derive(Clone, Copy, Debug)]
enum Digits {
    /// Of any script.
    All,
    /// The ten, where the whole part is a number.
    Ascii,
}

macro_rules! contractions {
    () => {
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}
/// A word of letters, with a sign or space before it.
macro_rules! word {
    () => {
        r"[^\r\n\p{L}\p{N}]?\p{L}+"
    };
}
macro_rules! spaces {
    () => {
        r"|\s+(?!\S)|\s+"
    };
}
/// Signs, then white space.
macro_rules! rest {
    () => {
        concat!(r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+", spaces!())
    };
}
macro_rules! rest_with_slash {
    () => {
        concat!(r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+", spaces!())
    };
}
/// Words that begin anew at a capital letter; letters beyond ASCII are taken as either.
macro_rules! capitals {
    ($letters:literal, $end:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?((?=[",
            $letters,
            r"])([^a-z]))*((?=[",
            $letters,
            r"])([^A-Z]))+",
            $end,
            r"|[^\r\n\p{L}\p{N}]?((?=[",
            $letters,
            r"])([^a-z]))+((?=[",
            $letters,
            r"])([^A-Z]))*",
            $end,
        )
    };
}
/// The same by the letters' own case, in all scripts.
macro_rules! cases {
    ($end:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $end,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $end,
        )
    };
}
/// A sign with the word behind it, or a word.
macro_rules! signed_word {
    () => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        )
    };
}

const GPT2: &str =
    concat!(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+", spaces!());
const LLAMA3: &str = concat!(contractions!(), "|", word!(), r"|\p{N}{1,3}", rest!());
const QWEN2: &str = concat!(contractions!(), "|", word!(), r"|\p{N}", rest!());
const QWEN35: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
    spaces!()
);
const JAIS2: &str = concat!(
    contractions!(),
    "|",
    word!(),
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)",
    r"|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
);
const TEKKEN: &str = concat!(capitals!(r"\p{L}", ""), r"|\p{N}", rest_with_slash!());
const GPT4O: &str =
    concat!(capitals!(r"\p{L}", concat!(contractions!(), "?")), r"|\p{N}{1,3}", rest_with_slash!());
const GRANITE_MULTI: &str = concat!(
    capitals!(r"\p{L}\p{M}", concat!(contractions!(), "?")),
    r"|\p{N}{1,3}",
    rest_with_slash!()
);
const TINY_AYA: &str =
    concat!(cases!(concat!(contractions!(), "?")), r"|\p{N}{1,3}", rest_with_slash!());
const YOUTU: &str = concat!(cases!(concat!(contractions!(), "?")), r"|\p{N}", rest_with_slash!());
const YOUTU_EAST: &str = concat!(
    r"[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}",
    r"\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|[",
    r"\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
);
const DEEPSEEK3: &str = concat!(signed_word!(), r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+", spaces!());
const SPARK: &str = concat!(signed_word!(), r"| ?[\p{P}\p{S}]+|[\r\n]", spaces!());
/// Letters of scripts with two cases, as DeepSeek's first tokenizer lists them.
const CASED: &str = concat!(
    r"\s?[",
    r"A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}",
    r"\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}",
    r"\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}",
    r"\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}",
    r"\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}",
    r"\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}",
    r"\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}",
    r"\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}",
    r"\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}",
    r"\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}",
    r"\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}",
    r"\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}",
    r"\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}",
    r"\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}",
    r"\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}",
    r"\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}",
    r"]+",
);
const WIDE_SIGNS: &str =
    r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
const EAST: &str = r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const EAST_WIDE: &str = r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const AFMOE_EAST: &str = concat!(
    r"[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{8c48}-\u{faff}\u{3040}-\u{309f}",
    r"\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}",
    r"\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}",
    r"\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+",
);
const POINTS: &str = r" ?[^(\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";
const BAILING: &str = concat!(
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|",
    word!(),
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
    spaces!()
);
const SEED: &str = concat!(
    contractions!(),
    "|",
    word!(),
    r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
    spaces!()
);
const EXAONE_MOE: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]",
    spaces!()
);

/// `name`, then the steps.
const fn rule(name: &'static str, steps: &'static [Step]) -> Rule {
    Rule { name, steps, whole_words: false, begins: false }
}

impl Rule {
    const fn whole_words(self) -> Self {
        Self { whole_words: true, ..self }
    }

    const fn begins(self) -> Self {
        Self { begins: true, ..self }
    }
}

use Step::{Split, Threes};

/// The rule that a file names; `None` for a name that is not known, or whose rule is none of this kind.
pub(super) fn named(pre: &str) -> Option<Rule> {
    Some(match pre {
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "jina-v1-en"
        | "jina-v2-code" | "roberta-bpe" | "gigachat" | "a.x-4.0" | "mellum" | "modern-bert"
        | "exaone4" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" => {
            rule("gpt-2", &[Split(GPT2)])
        }
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" | "jina-v5-nano" => rule("llama3", &[Split(LLAMA3)]).whole_words().begins(),
        "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => rule("dbrx", &[Split(LLAMA3)]),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
        | "solar-open" | "grok-2" => rule("qwen2", &[Split(QWEN2)]),
        "qwen35" => rule("qwen35", &[Split(QWEN35)]),
        "ufakzeka" => rule("ufakzeka", &[Split(concat!(word!(), r"|\p{N}", rest!()))]),
        "laguna" => rule("laguna", &[Split(r"[^\n]+|[\n]+"), Split(QWEN2)]),
        "minicpm5" => rule(
            "minicpm5",
            &[
                Split(r"\p{N}{1,3}"),
                Split(concat!(contractions!(), "|", word!(), r"|\p{N}+", rest!())),
            ],
        )
        .whole_words(),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => rule("smollm", &[Split(r"\p{N}"), Split(GPT2)]),
        "deepseek-llm" => rule(
            "deepseek-llm",
            &[
                Split(r"[\r\n]"),
                Split(CASED),
                Split(WIDE_SIGNS),
                Split(r"\s+$"),
                Split(EAST_WIDE),
                Split(r"\p{N}+"),
            ],
        ),
        "deepseek-coder" => rule(
            "deepseek-coder",
            &[
                Split(r"[\r\n]"),
                Split(r"\s?\p{L}+"),
                Split(r"\s?\p{P}+"),
                Split(EAST_WIDE),
                Split(r"\p{N}"),
            ],
        ),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
            rule("deepseek-v3", &[Split(r"\p{N}{1,3}"), Split(EAST), Split(DEEPSEEK3)])
        }
        "spark2_5" => {
            rule("spark2_5", &[Split(r"\p{N}{1,3}"), Split(EAST), Split(SPARK), Split(r"\p{N}")])
        }
        "youtu" => rule("youtu", &[Split(YOUTU_EAST), Split(YOUTU)]).whole_words(),
        "tekken" => rule("tekken", &[Split(TEKKEN)]).whole_words().begins(),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => {
            rule("gpt-4o", &[Split(GPT4O)])
        }
        "granite-embed-multi-97m" => {
            rule("granite-embed-multi-97m", &[Split(GRANITE_MULTI)]).whole_words()
        }
        "tiny_aya" | "cohere2moe" => rule("tiny_aya", &[Threes(Digits::All), Split(TINY_AYA)]),
        "superbpe" => rule("superbpe", &[Split(r"\p{N}+"), Threes(Digits::Ascii)]),
        "afmoe" => rule("afmoe", &[Threes(Digits::All), Split(AFMOE_EAST), Split(DEEPSEEK3)]),
        "falcon" => rule(
            "falcon",
            &[Split(r"[\p{P}\$\+<=>\^~\|`]+"), Split(GPT2), Split("[0-9][0-9][0-9]")],
        ),
        "chameleon" => rule(
            "chameleon",
            &[
                Split("<sentinel:[0-9]+>"),
                Split("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
                Split(r"([\t\n]|    |  )"),
                Split(r"\p{N}"),
                Split(r"[\p{P}!-/:-@\[-`{-~]"),
                Split(GPT2),
            ],
        )
        .begins(),
        "jais-2" => rule("jais-2", &[Split(JAIS2)]),
        "poro-chat" | "bloom" | "gpt3-finnish" => rule("bloom", &[Split(POINTS)]),
        "viking" => rule("viking", &[Split(POINTS), Split(r"\p{N}")]),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => rule("bailingmoe", &[Split(BAILING)]),
        "seed-coder" => rule("seed-coder", &[Split(SEED)]),
        "exaone-moe" => rule("exaone-moe", &[Split(EXAONE_MOE)]),
        "default" => rule(
            "default",
            &[
                Split(r"[\p{P}\$\+<=>\^~\|]+"),
                Split(GPT2),
                Split(r"\p{N}+"),
                Split("[0-9][0-9][0-9]"),
            ],
        ),
        _ => return None,
    })
}

/// A rule that is ready.
pub(super) struct Cutter(Vec<Cut>);

enum Cut {
    Split(Box<Regex>),
    Threes(Digits),
}

impl Cutter {
    /// # Errors
    /// If a step is no expression, which the tests rule out.
    pub(super) fn new(rule: &Rule) -> Result<Self, fancy_regex::Error> {
        let cut = |step: &Step| {
            Ok(match step {
                Split(expression) => Cut::Split(Box::new(Regex::new(expression)?)),
                Threes(digits) => Cut::Threes(*digits),
            })
        };
        rule.steps.iter().map(cut).collect::<Result<_, _>>().map(Self)
    }

    /// The words of a text: ranges of its bytes that follow each other, none of them empty.
    ///
    /// # Errors
    /// If a step takes too long, as with a million spaces.
    pub(super) fn words(&self, text: &str) -> Result<Vec<Range<usize>>, fancy_regex::Error> {
        let mut words = Vec::new();
        if !text.is_empty() {
            words.push(0..text.len());
        }
        for cut in &self.0 {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                let part = &text[word.clone()];
                let mut end = word.start;
                let mut add = |from: usize, to: usize| {
                    let (from, to) = (word.start + from, word.start + to);
                    if from > end {
                        finer.push(end..from);
                    }
                    if to > from {
                        finer.push(from..to);
                    }
                    end = to;
                };
                match cut {
                    Cut::Split(expression) => {
                        for found in expression.find_iter(part) {
                            let found = found?;
                            add(found.start(), found.end());
                        }
                    }
                    Cut::Threes(digits) => threes(part, *digits, &mut add),
                }
                add(part.len(), part.len());
            }
            words = finer;
        }
        Ok(words)
    }
}

/// Calls `add` for each group of three digits, and for the one or two before them.
fn threes(text: &str, digits: Digits, add: &mut dyn FnMut(usize, usize)) {
    let is_digit = |c: char| match digits {
        Digits::All => c.is_numeric(),
        Digits::Ascii => c.is_ascii_digit(),
    };
    let mut rest = 0;
    while let Some(start) = text[rest..].find(is_digit) {
        let start = rest + start;
        let run = &text[start..];
        let run = &run[..run.find(|c| !is_digit(c)).unwrap_or(run.len())];
        rest = start + run.len();
        let follows = text[rest..].chars().next();
        let cut = match digits {
            Digits::All => true,
            Digits::Ascii => start == 0 && follows.is_none(),
        };
        if !cut {
            continue;
        }
        let ends: Vec<usize> = run.char_indices().map(|(i, c)| start + i + c.len_utf8()).collect();
        let (mut from, mut group) = (start, (ends.len() + 2) % 3);
        while let Some(&to) = ends.get(group) {
            add(from, to);
            (from, group) = (to, group + 3);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn words<'a>(pre: &str, text: &'a str) -> Vec<&'a str> {
        let cutter = Cutter::new(&named(pre).unwrap()).unwrap();
        let words = cutter.words(text).unwrap();
        assert_eq!(words.iter().map(|w| &text[w.clone()]).collect::<String>(), text);
        words.into_iter().map(|w| &text[w]).collect()
    }

    #[test]
    fn families_cut_numbers_contractions_and_spaces_in_their_own_ways() {
        let text = "I'M 12345  x";
        assert_eq!(words("gpt-2", text), ["I", "'", "M", " 12345", " ", " x"]);
        assert_eq!(words("smollm", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(words("qwen2", text), ["I", "'M", " ", "1", "2", "3", "4", "5", " ", " x"]);
        assert_eq!(words("llama-bpe", text), ["I", "'M", " ", "123", "45", " ", " x"]);
        assert_eq!(words("tekken", "aBc XMLHttp"), ["a", "Bc", " XMLHttp"]);
        assert_eq!(words("superbpe", "12345 x"), ["12", "345", " x"]);
        assert_eq!(words("afmoe", "1234"), ["1", "234"]);
        assert_eq!(words("deepseek-llm", "天気abc 12"), ["天気", "abc", " ", "12"]);
        assert!(named("made-up").is_none() && named("").is_none());
    }

    #[test]
    fn a_text_that_takes_too_long_is_an_error_and_not_other_words() {
        let cutter = Cutter::new(&named("qwen2").unwrap()).unwrap();
        assert!(cutter.words(&" ".repeat(100_000)).is_ok());
        let long = cutter.words(&" ".repeat(20_000_000));
        assert!(long.is_err() || long.unwrap().len() == 1);
    }
}
