//! Model files of an enemy: each is loaded and used, or refused with a text; nothing panics, and time
//! and memory are bounded. `PROPTEST_CASES` says how many files are tried.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use candle_core::Device;
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{self, Content, Value};
use common::made::Made;
use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tandem_inference::{
    ChatMessage, DeviceChoice, Error, Facts, LoadOptions, Model, Role, Segment, Wanted,
};
use tandem_speculation::TokenId;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// More than a small file takes on any machine; what has no bound takes far more.
const PATIENCE: Duration = Duration::from_secs(20);
/// Caches of a context, templates' values, and what libraries take for a start.
const BASE: usize = 192 << 20;
/// A value of one byte in the file takes 32 in memory, and lists double as they grow.
const PER_BYTE: usize = 100;

/// Memory is counted for the whole process, so tests wait for each other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many cases are tried unless `PROPTEST_CASES` says so.
fn cases(few: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if asked { config } else { ProptestConfig { cases: few, ..config } }
}

/// Runs a call within the bounds; what it gives.
fn bounded<T>(what: &str, file_bytes: usize, call: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let start = Instant::now();
    let result = call();
    let (time, memory) = (start.elapsed(), MEMORY.peak_usage().saturating_sub(before));
    assert!(time < PATIENCE, "{what} took {time:?}");
    let most = BASE + PER_BYTE * file_bytes;
    assert!(memory < most, "{what} took {} MiB of memory", memory >> 20);
    result
}

/// Reads a file in each way, and uses the model if there is one. Returns why not.
fn try_file(path: &Path) -> Option<String> {
    let bytes = std::fs::metadata(path).unwrap().len() as usize;
    let facts = bounded("reading the header", bytes, || Facts::read(path).map(drop));
    let whole = bounded("reading the tokenizer", bytes, || Facts::read_whole(path).map(drop));
    let options =
        LoadOptions { device: DeviceChoice::Cpu, threads: Some(1), ..LoadOptions::default() };
    let model = bounded("loading", bytes, || Model::load(path, &options));
    for error in [facts.err(), whole.err()].into_iter().flatten() {
        explained(&error, path);
    }
    let model = match model {
        Ok(model) => model,
        Err(error) => return Some(explained(&error, path)),
    };
    let tokenizer = model.tokenizer();
    let typed = "the lower <|im_end|> [PAD7]\u{0}\u{1f469}\u{200d} \n".repeat(40);
    bounded("using the tokenizer", bytes, || {
        for special in [false, true] {
            let ids = tokenizer.encode(&typed, special).unwrap_or_default();
            let _ = tokenizer.decode(&ids);
        }
        let mut stream = tokenizer.detokenizer();
        for id in [0, 1, 255, 262, 263, u32::MAX] {
            let _ = stream.push(TokenId(id));
        }
        let say = |role, content: &str| ChatMessage { role, content: content.into() };
        let talk = [say(Role::System, "Be brief."), say(Role::User, &typed)];
        let _ = tokenizer.encode_chat(&talk);
    });
    bounded("computing", bytes, || {
        let Ok(mut cache) = model.new_cache(8) else { return };
        let tokens: Vec<TokenId> = (0..model.info().vocab.min(3) as u32).map(TokenId).collect();
        let mut segment = [Segment { cache: &mut cache, tokens: &tokens, logits: Wanted::All }];
        let _ = model.forward(&mut segment);
    });
    None
}

/// An error says which file, and something about it.
fn explained(error: &Error, path: &Path) -> String {
    let text = error.to_string();
    let named = text.contains(&path.file_name().unwrap().to_string_lossy().into_owned());
    // A tensor library's error has no name of a file.
    assert!(named || matches!(error, Error::Compute(_)), "{text}");
    assert!(text.len() > 30, "{text}");
    text
}

/// A valid file, taken apart.
struct Parts {
    bytes: Vec<u8>,
    header: usize,
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, QTensor)>,
}

static GOOD: LazyLock<Parts> = LazyLock::new(|| {
    let path = Made::new("llama").write("good");
    let mut file = std::fs::File::open(&path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut tensors: Vec<_> = content
        .tensor_infos
        .keys()
        .map(|name| (name.clone(), content.tensor(&mut file, name, &Device::Cpu).unwrap()))
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let header = content.tensor_data_offset as usize;
    let mut metadata: Vec<_> = content.metadata.into_iter().collect();
    metadata.sort_by(|a, b| a.0.cmp(&b.0));
    Parts { bytes: std::fs::read(path).unwrap(), header, metadata, tensors }
});

fn place(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tandem-made-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{name}.gguf"))
}

/// Writes the good file with other metadata.
fn write(name: &str, metadata: &[(String, Value)]) -> PathBuf {
    let path = place(name);
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<_> = GOOD.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    path
}

/// The good file with one entry of another value.
fn with(name: &str, key: &str, value: Value) -> PathBuf {
    let mut metadata = GOOD.metadata.clone();
    metadata.retain(|(k, _)| k != key);
    metadata.push((key.to_owned(), value));
    write(name, &metadata)
}

fn text(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

fn texts<T: Into<String>>(all: impl IntoIterator<Item = T>) -> Value {
    Value::Array(all.into_iter().map(text).collect())
}

fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        Just(0u64),
        Just(1),
        Just(u64::MAX),
        Just(1 << 31),
        Just(1 << 40),
        0..70_000u64,
    ];
    let short = "[a-z Ġ<|>\\[\\]]{0,12}";
    prop_oneof![
        number.clone().prop_map(Value::U64),
        number.clone().prop_map(|n| Value::U32(n as u32)),
        number.clone().prop_map(|n| Value::I32(n as i32)),
        number.prop_map(|n| Value::U8(n as u8)),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        short.prop_map(Value::String),
        Just(text("x".repeat(100_000))),
        vec(short.prop_map(Value::String), 0..300).prop_map(Value::Array),
        vec(any::<i32>().prop_map(Value::I32), 0..300).prop_map(Value::Array),
        vec((0..7i32).prop_map(Value::I32), 250..280).prop_map(Value::Array),
    ]
}

proptest! {
    #![proptest_config(cases(40))]

    /// Other values, wrong types, missing entries, elements of lists changed or moved.
    #[test]
    fn other_metadata(
        changes in vec((any::<prop::sample::Index>(), value(), 0..4u8), 1..4),
        element: prop::sample::Index,
        other: prop::sample::Index,
    ) {
        let _alone = alone();
        let mut metadata = GOOD.metadata.clone();
        for (which, value, how) in changes {
            let at = which.index(metadata.len());
            match (&mut metadata[at].1, how) {
                (_, 0) => drop(metadata.remove(at)),
                (Value::Array(list), 1 | 2) if !list.is_empty() => {
                    let (a, b) = (element.index(list.len()), other.index(list.len()));
                    if how == 1 { list.swap(a, b) } else { list[a] = list[b].clone() }
                }
                (old, _) => *old = value,
            }
        }
        try_file(&write("metadata", &metadata));
    }

    /// Bytes of the header that are others, most of them numbers that claim too much, and files that
    /// end too soon.
    #[test]
    fn other_bytes(
        changes in vec((any::<prop::sample::Index>(), prop_oneof![
            Just(vec![0xff; 8]), Just(vec![0xff; 4]), Just(vec![0; 8]), Just(vec![0xff, 0xff, 0xff, 0x7f]),
            Just(vec![0, 0, 0, 0, 1, 0, 0, 0]), vec(any::<u8>(), 1..9),
        ]), 1..4),
        cut in prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let _alone = alone();
        let mut bytes = GOOD.bytes.clone();
        for (at, new) in changes {
            let at = at.index(GOOD.header);
            bytes[at..at + new.len()].copy_from_slice(&new);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let path = place("bytes");
        std::fs::write(&path, bytes).unwrap();
        try_file(&path);
    }

    /// Templates put together from what templates are made of.
    #[test]
    fn other_templates(pieces in vec(prop::sample::select(PIECES.to_vec()), 1..40)) {
        let _alone = alone();
        try_file(&with("templates", "tokenizer.chat_template", text(pieces.concat())));
    }
}

const PIECES: [&str; 40] = [
    "{% for m in messages %}",
    "{% for i in range(100000) %}",
    "{% for x in a %}",
    "{% endfor %}",
    "{% if a %}",
    "{% else %}",
    "{% endif %}",
    "{% set a = a ~ b %}",
    "{% set b = a + a %}",
    "{% set a = [a, b, a] %}",
    "{% set b = {'x': a, 'y': b} %}",
    "{% set ns = namespace(a=a) %}",
    "{% set ns.a = ns %}",
    "{% set ns.a = ns.a ~ ns.a %}",
    "{% set ns.a = [ns.a, ns.a] %}",
    "{% set a = 'abcdefgh' %}",
    "{% set b = messages %}",
    "{% set a = a|list %}",
    "{% set a = b|join(a) %}",
    "{% set b = a|replace('a', a) %}",
    "{% set a = b.replace('', a) %}",
    "{% set a = a.split('') %}",
    "{% set a %}",
    "{% endset %}",
    "{{ a }}",
    "{{ b }}",
    "{{ ns }}",
    "{{ a == b }}",
    "{{ ns == ns }}",
    "{{ a in b }}",
    "{{ b|tojson(indent=4) }}",
    "{{ b|sort }}",
    "{{ m.role }}",
    "{{ m['content'] }}",
    "{% macro f(x) %}",
    "{% endmacro %}",
    "{{ f(a) }}",
    "{{ a|length }}",
    "some text",
    "{{ a[1:] }}{{ a[0] }}",
];

/// One thing wrong at a time, and what is said of it.
#[test]
fn each_fault_is_explained() {
    let _alone = alone();
    assert_eq!(try_file(&write("same", &GOOD.metadata)), None, "the good file");
    let nested = |depth: usize| (0..depth).fold(texts(["x"]), |v, _| Value::Array(vec![v]));
    let word = "tokenizer.ggml.tokens";
    let cases = [
        (with("nested", "general.tags", nested(3000)), "depth"),
        (with("no-words", word, texts(Vec::<String>::new())), "vocabulary of 0"),
        (with("many-words", word, texts((0..600_000).map(|i| format!("w{i}")))), "vocabulary of"),
        (with("number-words", word, Value::Array(vec![Value::U32(7)])), "not a text"),
        (with("long-word", word, texts(["a".repeat(5000)])), "too long"),
        (with("merge-cut", "tokenizer.ggml.merges", texts(["t"])), "merge"),
        (with("merge-of-nothing", "tokenizer.ggml.merges", texts(["quux quuux"])), "tokenizer"),
        (with("heads", "llama.attention.head_count", Value::U32(0)), "expected 1"),
        (with("context", "llama.context_length", Value::U64(1 << 60)), "expected"),
        (with("layers", "llama.block_count", Value::U32(511)), "missing"),
        (with("alignment", "general.alignment", Value::U32(0)), "no sense"),
        (with("template", "tokenizer.chat_template", text("{% for %}")), "chat template"),
        (
            with("long-template", "tokenizer.chat_template", text(" ".repeat(1 << 20))),
            "longer than",
        ),
    ];
    for (path, said) in cases {
        let refused = try_file(&path).unwrap_or_default();
        assert!(refused.contains(said), "{}: {refused}", path.display());
    }
    // Merges that lead to each other: text grows shorter with each, so they end.
    let cyclic = texts(["t h", "h t", "th e", "t he", "h e"]);
    let _ = try_file(&with("cyclic", "tokenizer.ggml.merges", cyclic));
    // Two tensors in one place are two matrices with the same numbers.
    let mut overlap = GOOD.bytes.clone();
    let at = overlap.windows(17).position(|w| w == b"blk.0.attn_q.weig").unwrap();
    let offset = at + 19 + 4 + 16 + 4;
    overlap[offset..offset + 8].fill(0);
    let path = place("overlap");
    std::fs::write(&path, &overlap).unwrap();
    assert_eq!(try_file(&path), None);
    overlap[offset..offset + 8].fill(0xff);
    std::fs::write(&path, &overlap).unwrap();
    let refused = try_file(&path).unwrap();
    assert!(refused.contains("attn_q"), "{refused}");
}

/// A header of which the values take many times their bytes.
#[test]
fn a_header_that_is_too_large_is_refused_before_it_is_read() {
    let _alone = alone();
    let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0x".to_vec();
    bytes.extend([9, 0, 0, 0, 0, 0, 0, 0]); // an array of bytes
    bytes.extend((200u64 << 20).to_le_bytes());
    let path = place("large-header");
    std::fs::write(&path, &bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(201 << 20).unwrap();
    let refused = bounded("a large header", 0, || Facts::read(&path)).unwrap_err();
    assert!(explained(&refused, &path).contains("claims"), "{refused}");
    std::fs::remove_file(path).unwrap();
}

/// As many special tokens as a file may have, and a text that is full of them.
#[test]
fn many_special_tokens_are_found_in_time() {
    let _alone = alone();
    let mut metadata = GOOD.metadata.clone();
    let mut count = 0;
    for (key, value) in &mut metadata {
        let Value::Array(list) = value else { continue };
        if key == "tokenizer.ggml.tokens" {
            list.extend((0..100_000).map(|i| text(format!("<{i}>"))));
            count = list.len();
        }
    }
    let kinds = (0..count).map(|i| Value::I32(if i < 266 { 1 } else { 3 })).collect();
    metadata.retain(|(k, _)| k != "tokenizer.ggml.token_type");
    metadata.push(("tokenizer.ggml.token_type".into(), Value::Array(kinds)));
    let path = write("specials", &metadata);
    bounded("special tokens", 0, || Facts::read_whole(&path)).unwrap();
    // The embedding has no rows for them, so the model itself is refused; its tokenizer is tried with
    // as many as it has rows for.
    let refused = try_file(&path).unwrap();
    assert!(refused.contains("token_embd"), "{refused}");
}

/// What each template does would take minutes, gigabytes, or the whole stack.
#[test]
fn templates_that_do_too_much_end_soon() {
    let _alone = alone();
    let spin = "{% for i in range(100000) %}".repeat(3) + "{{ i }}" + &"{% endfor %}".repeat(3);
    let double = "{% set a = a ~ a %}".repeat(60);
    let loops = |step: &str| {
        "{% set ns = namespace(x='abcdefgh', y=[1], h=none) %}{% for i in range(9000) %}".to_owned()
            + step
            + "{% endfor %}"
    };
    let bombs = [
        spin,
        format!("{{% set a = 'abc' %}}{double}"),
        format!("{{% set a = 'abc' %}}{}", "{% set a = a + a %}".repeat(60)),
        loops("{% set ns.x = ns.x ~ ns.x %}"),
        loops("{% set t %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = t %}"),
        loops("{% set ns.x = ns.x.replace('', ns.x) %}"),
        loops("{% set ns.x = ns.x|replace('a', ns.x) %}"),
        loops("{% set ns.x = [ns.x, ns.x]|join(ns.x) %}"),
        loops("{% set ns.x = ns.x.join([ns.x, ns.x, ns.x]) %}"),
        loops("{% set ns.y = [ns.y, ns.y] %}") + "{{ ns.y }}",
        loops("{% set ns.y = ns.y + ns.y %}") + "{{ ns.y|length }}{{ ns.y|sort }}",
        loops("{% set ns.y = {'a': ns.y, 'b': ns.y} %}") + "{{ ns.y|tojson }}",
        loops("{% set ns.y = [ns.y] %}") + "{{ ns.y == ns.y }}",
        "{{ 'a' * 100000000 }}".into(),
        "{{ 7 ** 100000000 }}".into(),
        "{{ 'abc'.count('') }}".into(),
        "{{ '%1000000000s'|format('x') }}".into(),
        "{{ '{:>1000000000}'.format('x') }}".into(),
        "{{ [[1]]|tojson(indent=1000000000) }}".into(),
        "{{ 'a\nb'|indent(1000000000) }}".into(),
        "{{ range(100000)|list|tojson }}".into(),
        "{% set a = namespace() %}{% set a.a = a %}{{ a }}".into(),
        "{% set a = namespace() %}{% set a.a = a %}{{ a == a }}".into(),
        "{% set a = namespace() %}{% set a.a = a %}{{ a|tojson }}".into(),
        "{% set a = namespace() %}{% set b = [a] %}{% set a.b = b %}{{ b }}".into(),
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}".into(),
        "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('abc') }}".into(),
        "{% include 'chat' %}".into(),
        "{% extends 'chat' %}".into(),
        "{% for a in [[1]] recursive %}{{ loop(a) }}{% endfor %}".into(),
        format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(10_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(10_000)),
        "{% if a %}".repeat(5_000),
        "{% if a %}".to_owned() + &"{% elif a %}".repeat(5_000),
        format!("{{{{ a{} }}}}", ".b".repeat(30_000)),
        format!("{{{{ a{} }}}}", "~a".repeat(30_000)),
        format!("{{{{ a{} }}}}", "|e".repeat(30_000)),
        "{% for i in range(100000) %}".to_owned() + &"text ".repeat(12_000) + "{% endfor %}",
    ];
    for (i, bomb) in bombs.iter().enumerate() {
        let start: String = bomb.chars().take(90).collect();
        let path = with("bomb", "tokenizer.chat_template", text(bomb.as_str()));
        let bytes = std::fs::metadata(&path).unwrap().len() as usize;
        let ended = bounded(&start, bytes, || {
            let model = Model::load(&path, &LoadOptions::default())?;
            let say = ChatMessage { role: Role::User, content: "Hi".into() };
            model.tokenizer().encode_chat(&[say]).map(drop)
        });
        assert!(ended.is_err(), "{i}: {start}");
    }
    // Long chains of values end with the template, without taking the stack.
    let chain = loops("{% set n = namespace(h=none) %}{% set n.h = ns.h %}{% set ns.h = n %}");
    let path = with("chain", "tokenizer.chat_template", text(chain.replace("9000", "900")));
    assert_eq!(try_file(&path), None);
    let path = with("chain", "tokenizer.chat_template", text(chain));
    assert!(
        try_file(&path).unwrap().contains("out of fuel"),
        "it is tried when the file is loaded"
    );
}

/// What real templates do still works: accumulated texts, macros, slices, methods, tests.
#[test]
fn usual_templates_work() {
    let _alone = alone();
    let template = "{%- macro turn(m) -%}<|im_start|>{{ m.role }}\n{{ m['content'].strip() }}<|im_end|>\n\
        {%- endmacro -%}\
        {%- set ns = namespace(system='', n=0, last=false) -%}\
        {%- for m in messages if m.role == 'system' -%}\
        {%- set ns.system = ns.system + m.content ~ '\\n\\n' -%}{%- endfor -%}\
        {%- set rest = messages[1:] if messages[0].role == 'system' else messages -%}\
        {{- ns.system.rstrip() -}}\
        {%- for m in rest -%}{%- set ns.n = ns.n + 1 -%}\
        {%- if loop.index0 % 2 == 0 and m['role'] not in ['user', 'tool'] -%}\
        {{- raise_exception('roles must alternate') -}}{%- endif -%}\
        {{- turn(m) -}}{%- endfor -%}\
        {%- if strftime_now is not defined or tools is not none and tools -%}never{%- endif -%}\
        {%- set d = {'a': [1, 2], 'b': 'x'} -%}\
        {{- d|tojson -}}{{- (messages|selectattr('role', 'equalto', 'user')|list)|length -}}\
        {{- ns.n -}}{{- '.' if messages[-1].role == 'user' else '!' -}}\
        {{- 'a,b'.split(',')|join('+') -}}{%- if add_generation_prompt -%}<|im_start|>{%- endif -%}";
    let path = with("usual", "tokenizer.chat_template", text(template));
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    let say = |role, content: &str| ChatMessage { role, content: content.into() };
    let talk = [
        say(Role::System, "Be brief."),
        say(Role::User, " Hi "),
        say(Role::Assistant, "Hello."),
        say(Role::User, "Bye."),
    ];
    let tokenizer = model.tokenizer();
    let wanted = "Be brief.<|im_start|>user\nHi<|im_end|><|im_start|>assistant\nHello.<|im_end|>\
        <|im_start|>user\nBye.<|im_end|>{\"a\": [1, 2], \"b\": \"x\"}23.a+b<|im_start|>";
    assert_eq!(tokenizer.encode_chat(&talk).unwrap(), tokenizer.encode(wanted, true).unwrap());
    // And of a conversation that goes on for ever.
    let long: Vec<ChatMessage> = (0..3000)
        .map(|i| say(if i % 2 == 0 { Role::User } else { Role::Assistant }, "yes"))
        .collect();
    let ids = bounded("a long conversation", 1 << 20, || tokenizer.encode_chat(&long)).unwrap();
    assert!(ids.len() > 3000 * 10, "{}", ids.len());
}
