//! Vocabularies beside llama.cpp: `tokenizers.json` has the ids that it gives for texts of many kinds,
//! under each rule of cutting words that it knows, with the vocabulary of SmolLM2 and numbers of two and
//! three digits added, so that a rule shows in the ids.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use candle_core::quantized::gguf_file::{self, Content, Value};
use common::model_path;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use tandem_inference::{Error, Facts, Model, Tokenizer};
use tandem_speculation::TokenId;

#[derive(Deserialize)]
struct Known {
    texts: Vec<String>,
    /// With control tokens recognised, under the rule `qwen2`.
    special: Vec<Vec<u32>>,
    /// With the same words as a vocabulary of SentencePiece, and without a space before each text.
    sentence_piece: Vec<Vec<u32>>,
    sentence_piece_plain: Vec<Vec<u32>>,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    names: Vec<String>,
    ids: Vec<Vec<u32>>,
}

type Metadata = Vec<(String, Value)>;

fn known() -> Known {
    serde_json::from_str(include_str!("tokenizers.json")).unwrap()
}

/// What the file of a real model says before its tensors.
fn metadata(model: &str) -> Metadata {
    let mut file = std::fs::File::open(model_path(model)).unwrap();
    Content::read(&mut file).unwrap().metadata.into_iter().collect()
}

/// SmolLM2's, with more numbers.
static SMOL: LazyLock<Metadata> = LazyLock::new(|| {
    let mut metadata = metadata("SmolLM2-135M-Instruct.Q4_1");
    let mut more = Vec::new();
    let mut merges = Vec::new();
    for i in 0..100 {
        let text = format!("{i:02}");
        merges.push(format!("{} {}", &text[..1], &text[1..]));
        more.push(text);
    }
    for i in 0..1000 {
        let text = format!("{i:03}");
        merges.push(format!("{} {}", &text[..2], &text[2..]));
        more.push(text);
    }
    let tokens = list(&mut metadata, "tokens").clone();
    let have: HashSet<&String> = tokens.iter().map(|t| t.to_string().unwrap()).collect();
    more.retain(|text| !have.contains(text));
    list(&mut metadata, "token_type").extend(more.iter().map(|_| Value::I32(1)));
    list(&mut metadata, "tokens").extend(more.into_iter().map(Value::String));
    list(&mut metadata, "merges").extend(merges.into_iter().map(Value::String));
    metadata
});

fn list<'a>(metadata: &'a mut Metadata, key: &str) -> &'a mut Vec<Value> {
    let value = metadata.iter_mut().find(|(k, _)| *k == format!("tokenizer.ggml.{key}"));
    match value {
        Some((_, Value::Array(values))) => values,
        _ => panic!("no list {key}"),
    }
}

/// Writes a file with these keys and no tensors.
fn write(name: &str, metadata: &[(String, Value)]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tandem-words-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}.gguf"));
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &[]).unwrap();
    path
}

fn with(base: &Metadata, key: &str, value: Option<Value>) -> Metadata {
    let mut metadata = base.clone();
    metadata.retain(|(k, _)| k != key);
    metadata.extend(value.map(|value| (key.to_owned(), value)));
    metadata
}

fn text(text: &str) -> Option<Value> {
    Some(Value::String(text.into()))
}

fn open(path: &Path) -> Result<Arc<Tokenizer>, Error> {
    Model::outline(path).map(|(_, tokenizer)| tokenizer)
}

fn opened(name: &str, metadata: &Metadata) -> Result<Arc<Tokenizer>, Error> {
    let path = write(name, metadata);
    let tokenizer = open(&path);
    std::fs::remove_file(path).unwrap();
    tokenizer
}

fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<u32> {
    tokenizer.encode(text, special).unwrap().into_iter().map(|id| id.0).collect()
}

fn ids(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let ids: Vec<TokenId> = ids.iter().map(|id| TokenId(*id)).collect();
    tokenizer.decode(&ids).unwrap()
}

const PRE: &str = "tokenizer.ggml.pre";
const HELLO: u32 = 19556;

#[test]
fn every_rule_that_is_known_gives_the_ids_of_llama_cpp() {
    let known = known();
    let mut wrong = Vec::new();
    for rule in &known.rules {
        for name in &rule.names {
            let tokenizer = opened(name, &with(&SMOL, PRE, text(name))).unwrap();
            for (text, wanted) in known.texts.iter().zip(&rule.ids) {
                let ours = encode(&tokenizer, text, false);
                if ours != *wanted {
                    wrong.push(format!("{name}: {text:?}\n  {ours:?}\n  {wanted:?}"));
                }
                assert_eq!(ids(&tokenizer, &ours), *text, "{name}");
            }
            if name == "qwen2" {
                for (text, wanted) in known.texts.iter().zip(&known.special) {
                    assert_eq!(encode(&tokenizer, text, true), *wanted, "{text:?}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_rule_that_is_not_known_is_refused_by_name() {
    for (name, value) in [("made-up", text("made-up")), ("gemma4", text("gemma4"))] {
        let refused = opened("unknown-rule", &with(&SMOL, PRE, value)).err().unwrap().to_string();
        assert!(refused.contains(&format!("`{name}`")) && refused.contains(PRE), "{refused}");
    }
    let refused = opened("no-rule", &with(&SMOL, PRE, None)).err().unwrap().to_string();
    assert!(refused.contains(PRE) && refused.contains("missing"), "{refused}");
    // At import too: there is a model around it here, so that nothing else is wrong with it.
    let made = common::made::Made { pre_tokenizer: "made-up", ..common::made::Made::new("qwen2") };
    let refused = Facts::read_whole(&made.write("import-rule")).unwrap_err().to_string();
    assert!(refused.contains("`made-up`"), "{refused}");
}

#[test]
fn a_vocabulary_of_another_kind_is_refused_by_name() {
    const MODEL: &str = "tokenizer.ggml.model";
    for kind in ["t5", "bert", "rwkv"] {
        let refused = opened("kind", &with(&SMOL, MODEL, text(kind))).err().unwrap().to_string();
        assert!(refused.contains(&format!("`{kind}`")) && refused.contains(MODEL), "{refused}");
    }
    let refused = opened("no-kind", &with(&SMOL, MODEL, None)).err().unwrap().to_string();
    assert!(refused.contains(MODEL), "{refused}");
}

/// The vocabulary with `Hello` of another kind.
fn hello(kind: i32) -> Arc<Tokenizer> {
    let mut metadata = SMOL.clone();
    list(&mut metadata, "token_type")[HELLO as usize] = Value::I32(kind);
    opened(&format!("hello-{kind}"), &metadata).unwrap()
}

#[test]
fn tokens_that_are_text_are_shown_and_those_that_steer_are_hidden() {
    for (kind, shown) in [(1, true), (2, false), (3, false), (4, true), (5, false)] {
        let tokenizer = hello(kind);
        let decoded = ids(&tokenizer, &[HELLO, HELLO + 1]);
        assert_eq!(decoded.starts_with("Hello"), shown, "kind {kind}: {decoded:?}");
        let mut stream = tokenizer.detokenizer();
        let streamed = stream.push(TokenId(HELLO)).unwrap();
        assert_eq!(streamed, if shown { "Hello" } else { "" }, "kind {kind}");
        assert!(!tokenizer.is_end(TokenId(HELLO)));
        // Recognised whole where it may be; what a person typed is never a token that steers.
        let typed = encode(&tokenizer, "xHello", false);
        let written = encode(&tokenizer, "xHello", true);
        assert_eq!(typed.contains(&HELLO), shown, "kind {kind}: {typed:?}");
        assert_eq!(written.contains(&HELLO), kind != 5, "kind {kind}: {written:?}");
        let alone = encode(&tokenizer, "Hello", false);
        assert_eq!(alone == [HELLO], shown, "kind {kind}: {alone:?}");
        assert_eq!(ids(&tokenizer, &alone), "Hello", "kind {kind}");
    }
}

#[test]
fn text_begins_with_its_token_where_the_file_or_its_rule_says_so() {
    let say = [tandem_inference::ChatMessage {
        role: tandem_inference::Role::User,
        content: "Hi".into(),
    }];
    let begins = |pre: &str, add: Option<Value>| {
        let metadata = with(&SMOL, PRE, text(pre));
        let metadata = with(&metadata, "tokenizer.ggml.add_bos_token", add);
        let metadata = with(&metadata, "tokenizer.ggml.bos_token_id", Some(Value::I64(0)));
        opened("begins", &metadata).unwrap().encode_chat(&say).unwrap()[0] == TokenId(0)
    };
    assert!(!begins("smollm", None) && begins("llama-bpe", None) && begins("tekken", None));
    for no in [Value::Bool(false), Value::U8(0), Value::I32(0)] {
        assert!(!begins("llama-bpe", Some(no)));
    }
    for yes in [Value::Bool(true), Value::U8(1), Value::I64(1)] {
        assert!(begins("smollm", Some(yes)));
    }
    for wrong in [Value::U8(2), Value::String("yes".into())] {
        let refused = opened("begins", &with(&SMOL, "tokenizer.ggml.add_bos_token", Some(wrong)));
        let refused = refused.err().unwrap().to_string();
        assert!(refused.contains("add_bos_token"), "{refused}");
    }
}

#[test]
fn ids_of_special_tokens_are_read_or_refused() {
    const EOS: &str = "tokenizer.ggml.eos_token_id";
    let end = |value: Value| opened("ends", &with(&SMOL, EOS, Some(value)));
    for value in [Value::U8(17), Value::I64(17), Value::F32(17.0)] {
        assert!(end(value).unwrap().is_end(TokenId(17)));
    }
    for value in [Value::U32(1 << 20), Value::I32(-7), Value::String("17".into()), Value::F32(1.5)]
    {
        let refused = end(value).err().unwrap().to_string();
        assert!(refused.contains(EOS), "{refused}");
    }
}

/// A file with a vocabulary of SentencePiece: its own tokens, then words with their kind and score.
fn sentence_piece(words: &[(String, i32, f32)], space_first: Option<bool>) -> Arc<Tokenizer> {
    let own = [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(t, kind)| (t.to_owned(), kind, 0.0));
    let mut tokens = own.to_vec();
    tokens.extend((0..=255u8).map(|b| (format!("<0x{b:02X}>"), 6, 0.0)));
    tokens.extend_from_slice(words);
    let mut metadata = SMOL.clone();
    metadata.retain(|(k, _)| !k.starts_with("tokenizer.ggml"));
    let mut put = |key: &str, value| metadata.push((format!("tokenizer.ggml.{key}"), value));
    put("model", Value::String("llama".into()));
    let all =
        |each: fn(&(String, i32, f32)) -> Value| Value::Array(tokens.iter().map(each).collect());
    put("tokens", all(|t| Value::String(t.0.clone())));
    put("token_type", all(|t| Value::I32(t.1)));
    put("scores", all(|t| Value::F32(t.2)));
    if let Some(on) = space_first {
        put("add_space_prefix", Value::Bool(on));
    }
    opened("sentence-piece", &metadata).unwrap()
}

/// The words of SmolLM2 as SentencePiece writes them, those that are whole characters.
fn words_of_smol() -> Vec<(String, i32, f32)> {
    let mut metadata = metadata("SmolLM2-135M-Instruct.Q4_1");
    let kinds = list(&mut metadata, "token_type").clone();
    let tokenizer = opened("smol", &metadata).unwrap();
    let mut words: Vec<(String, i32, f32)> = Vec::new();
    let mut seen = HashSet::new();
    for (id, kind) in kinds.iter().enumerate() {
        // Bytes that are no character show as replacement characters, which no word has.
        let text = ids(&tokenizer, &[id as u32]).replace(' ', "\u{2581}");
        let whole = matches!(kind, Value::I32(1)) && !text.contains('\u{fffd}');
        if whole && seen.insert(text.clone()) {
            words.push((text, 1, -((259 + words.len()) as f32)));
        }
    }
    words
}

#[test]
fn sentence_piece_gives_the_ids_of_llama_cpp() {
    let (known, words) = (known(), words_of_smol());
    for (space, wanted) in [(true, &known.sentence_piece), (false, &known.sentence_piece_plain)] {
        let tokenizer = sentence_piece(&words, Some(space));
        for (text, wanted) in known.texts.iter().zip(wanted) {
            let ours = encode(&tokenizer, text, false);
            assert_eq!(ours, *wanted, "{text:?}");
            let spaced = if space { format!(" {text}") } else { text.clone() };
            assert_eq!(ids(&tokenizer, &ours), spaced);
        }
    }
}

#[test]
fn sentence_piece_joins_the_best_score_first_and_falls_back_to_bytes() {
    // Scores that make `abc` of `a` and `bc`.
    let words = ["\u{2581}", "a", "b", "c", "ab", "bc", "abc", "\u{2581}a", "<tool>", "</s"];
    let kinds = [1, 1, 1, 1, 1, 1, 1, 1, 4, 1];
    let scores = [-9.0, -9.0, -9.0, -9.0, -3.0, -2.0, -4.0, -1.0, 0.0, -5.0];
    let words = words.into_iter().zip(kinds).zip(scores).map(|((w, k), s)| (w.to_owned(), k, s));
    let words: Vec<_> = words.collect();
    let tokenizer = sentence_piece(&words, Some(false));
    let id = |word: usize| 259 + word as u32;
    // `bc` is better than `ab`, and then `a` and `bc` are `abc`.
    assert_eq!(encode(&tokenizer, "abc", false), [id(6)]);
    assert_eq!(encode(&tokenizer, "ab", false), [id(4)]);
    assert_eq!(encode(&tokenizer, " abc", false), [id(7), id(5)]);
    assert_eq!(encode(&tokenizer, "é\n", false), [3 + 0xc3, 3 + 0xa9, 3 + 0x0a]);
    assert_eq!(encode(&tokenizer, "a<tool>b", false), [id(1), id(8), id(2)]);
    assert_eq!(encode(&tokenizer, "a</s>", true), [id(1), 2]);
    assert!(!encode(&tokenizer, "a</s>", false).contains(&2));
    for text in ["abc é\n  <0x0A> <tool> </s> 🤷", " a", ""] {
        assert_eq!(ids(&tokenizer, &encode(&tokenizer, text, false)), text);
    }
    // A space stands first unless the file says otherwise, and behind a token that stands alone.
    let spaced = sentence_piece(&words, None);
    assert_eq!(encode(&spaced, "abc", false), [id(7), id(5)]);
    assert_eq!(encode(&spaced, "b</s>b", true), [id(0), id(2), 2, id(0), id(2)]);
    assert!(spaced.is_end(TokenId(2)));
}
