//! Public chat templates beside the program that models are made with: the ids of conversations are
//! those that `transformers` gives. Templates and reference come from Python packages, which `npm test`
//! installs (`scripts/test.mjs`).

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use candle_core::quantized::gguf_file::{self, Content, Value};
use common::model_path;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tandem_inference::{Conversation, Model, Tokenizer};

/// Of the package trl; each is the template of the models that it is named after. `TANDEM_TEMPLATES=all`
/// tries all that there are.
const TEMPLATES: [&str; 13] = [
    "qwen2_5",
    "qwen3",
    "qwen3_instruct_2507",
    "llama3",
    "llama3_2",
    "gemma3",
    "phi3_5",
    "deepseek_r1_distill",
    "glm4moe",
    // With the line ends of another system.
    "glm4moe_training",
    "gptoss",
    "smolvlm",
    "lfm2",
];

/// Where `npm test` installs the packages.
fn packages() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = var("TANDEM_CACHE_DIR").unwrap_or_else(|| {
        let home = var("HOME").or_else(|| var("USERPROFILE")).unwrap();
        let home = if cfg!(target_os = "macos") {
            home.join("Library/Caches")
        } else {
            home.join(".cache")
        };
        home.join("tandem")
    });
    let folder = cache.join("tools").join("templates-5.24.0-0.23.3-3.1.6-1.16.0");
    assert!(folder.exists(), "`npm test` installs the reference into {}", folder.display());
    folder
}

/// Spellings in a template that look like tokens which steer a model.
fn special(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let ends = [("<|", "|>"), ("<\u{ff5c}", "\u{ff5c}>"), ("[", "]"), ("<", ">")];
    for (begin, end) in ends {
        for (at, _) in source.match_indices(begin) {
            let rest = &source[at..];
            let Some(length) = rest.find(end).map(|n| n + end.len()).filter(|n| *n <= 40) else {
                continue;
            };
            let token = &rest[..length];
            let inner = &token[begin.len()..length - end.len()];
            let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '\u{2581}' | '-');
            let steers = match begin {
                "[" => inner.len() > 2 && inner.chars().all(|c| c.is_ascii_uppercase() || c == '_'),
                "<" => inner.ends_with("_of_turn") || matches!(inner, "bos" | "eos"),
                _ => true,
            };
            if !inner.is_empty() && inner.chars().all(plain) && steers {
                found.insert(token.to_owned());
            }
        }
    }
    found
}

/// A tokenizer with the words of SmolLM2, a template, and its tokens.
struct Case {
    name: String,
    tokenizer: Result<Arc<Tokenizer>, String>,
    asked: Json,
}

fn case(base: &[(String, Value)], folder: &Path, name: &str) -> Case {
    let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
    let mut metadata: Vec<(String, Value)> = base.to_vec();
    let texts = |metadata: &[(String, Value)], key: &str| -> Vec<String> {
        let found = metadata.iter().find(|(k, _)| k == key).unwrap();
        let Value::Array(list) = &found.1 else { panic!("{key}") };
        list.iter().map(|v| v.to_string().unwrap().clone()).collect()
    };
    let tokens = texts(&metadata, "tokenizer.ggml.tokens");
    let merges = texts(&metadata, "tokenizer.ggml.merges");
    let mut special = special(&source);
    special.extend(["<|bos|>".to_owned(), "<|eos|>".to_owned()]);
    let mut all = tokens.clone();
    all.extend(special.iter().filter(|t| !tokens.contains(t)).cloned());
    let place = |token: &str| all.iter().position(|t| t == token).unwrap() as u32;
    let (bos, eos) = (place("<|bos|>"), place("<|eos|>"));
    let kinds = all.iter().map(|t| Value::I32(if special.contains(t) { 3 } else { 1 })).collect();
    let changes = [
        ("tokenizer.ggml.tokens", Value::Array(all.iter().cloned().map(Value::String).collect())),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.bos_token_id", Value::U32(bos)),
        ("tokenizer.ggml.eos_token_id", Value::U32(eos)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.chat_template", Value::String(source)),
    ];
    metadata.retain(|(key, _)| !changes.iter().any(|(changed, _)| key == changed));
    metadata.extend(changes.map(|(key, value)| (key.to_owned(), value)));
    let path = std::env::temp_dir().join(format!("tandem-{name}-{}.gguf", std::process::id()));
    let keys: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &keys, &[]).unwrap();
    let tokenizer =
        Model::outline(&path).map(|(_, tokenizer)| tokenizer).map_err(|e| e.to_string());
    std::fs::remove_file(path).unwrap();
    let asked = json!({ "name": name, "tokens": all, "merges": merges, "special": special,
        "bos": "<|bos|>", "eos": "<|eos|>", "talks": talks() });
    Case { name: name.into(), tokenizer, asked }
}

/// Conversations of every kind.
fn talks() -> Vec<Json> {
    let say = |role: &str, content: &str| json!({ "role": role, "content": content });
    let system = || say("system", "You are brief. ");
    let thought = "<think>\nShe greets me.\n</think>\n\nHello! ";
    // Names in the order in which both sides write them.
    let tool = json!({ "function": { "description": "Tells the \"weather\" <now>.", "name": "weather",
        "parameters": { "properties": { "city": { "description": "Where – é", "type": "string" } },
            "required": ["city"], "type": "object" } }, "type": "function" });
    let call = json!({ "role": "assistant", "content": "", "tool_calls": [{ "id": "abcdefghi",
        "type": "function", "function": { "arguments": { "city": "Z\u{fc}rich" }, "name": "weather" } }] });
    let result = json!({ "role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": "12 \u{b0}C" });
    let talk = |messages: Vec<Json>| json!({ "messages": messages, "tools": [] });
    vec![
        talk(vec![say("user", "Say hello.")]),
        talk(vec![say("user", "  Spaces \n\n")]),
        talk(vec![say(
            "user",
            "\u{5929}\u{6c17} \u{1f355} 'a' \"b\" <c> & {{ d }} {% e %} \\n 1234",
        )]),
        talk(vec![system(), say("user", "Hi")]),
        talk(vec![say("system", ""), say("user", "Hi")]),
        talk(vec![say("user", "")]),
        talk(vec![say("user", "Hi"), say("assistant", "Hello!"), say("user", "Bye")]),
        talk(vec![
            system(),
            say("user", "Hi"),
            say("assistant", thought),
            say("user", "And?"),
            say("assistant", "</think>"),
            say("user", "Bye"),
        ]),
        talk(vec![
            say("user", "What is </think> and <think>?"),
            say("assistant", thought),
            say("user", "x"),
        ]),
        json!({ "messages": [say("user", "Weather?")], "tools": [tool] }),
        json!({ "messages": [system(), say("user", "Weather?"), call, result], "tools": [tool] }),
    ]
}

/// What transformers says to all cases.
fn reference(packages: &Path, folder: &Path, cases: &[Case]) -> Vec<Vec<Json>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat_templates.py");
    let mut python = Command::new("python3")
        .arg(script)
        .env("PYTHONPATH", packages)
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let templates: Vec<&Json> = cases.iter().map(|case| &case.asked).collect();
    let asked = json!({ "folder": folder, "templates": templates }).to_string();
    let mut input = python.stdin.take().unwrap();
    let writing = std::thread::spawn(move || input.write_all(asked.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success(), "the reference failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn conversations_have_the_ids_of_the_reference() {
    let packages = packages();
    let folder = packages.join("trl/chat_templates");
    let mut file = std::fs::File::open(model_path("SmolLM2-135M-Instruct.Q4_1")).unwrap();
    let base: Vec<_> = Content::read(&mut file).unwrap().metadata.into_iter().collect();
    let all = std::env::var("TANDEM_TEMPLATES").is_ok_and(|which| which == "all");
    let names: Vec<String> = if all {
        let files = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path());
        let files = files.filter(|f| f.extension().is_some_and(|e| e == "jinja"));
        files.map(|f| f.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    } else {
        TEMPLATES.map(str::to_owned).to_vec()
    };
    let cases: Vec<Case> = names.iter().map(|name| case(&base, &folder, name)).collect();
    let wanted = reference(&packages, &folder, &cases);
    // What the reference takes for now.
    let instant = Some(UNIX_EPOCH + Duration::from_secs(1_773_065_106));
    let (mut same, mut wrong) = (0, Vec::new());
    for (case, wanted) in cases.iter().zip(wanted) {
        let tokenizer = match &case.tokenizer {
            Ok(tokenizer) => tokenizer,
            Err(e) => {
                wrong.push(format!("{}: refused: {e}", case.name));
                continue;
            }
        };
        for (i, (talk, wanted)) in talks().iter().zip(wanted).enumerate() {
            let list = |key: &str| talk[key].as_array().unwrap().clone();
            let (messages, tools) = (list("messages"), list("tools"));
            let told = Conversation { messages: &messages, tools: &tools, instant };
            match (tokenizer.encode_conversation(&told), wanted) {
                (Ok(ids), Json::Array(wanted)) => {
                    let wanted: Vec<u32> =
                        wanted.iter().map(|id| id.as_u64().unwrap() as u32).collect();
                    let ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
                    if ids == wanted {
                        same += 1;
                    } else {
                        let text = |ids: &[u32]| {
                            let Json::Array(tokens) = &case.asked["tokens"] else {
                                panic!("tokens")
                            };
                            ids.iter()
                                .map(|id| tokens[*id as usize].as_str().unwrap())
                                .collect::<Vec<_>>()
                                .concat()
                        };
                        wrong.push(format!(
                            "{} {i}:\n  ours   {}\n  theirs {}",
                            case.name,
                            text(&ids),
                            text(&wanted)
                        ));
                    }
                }
                // Both refuse it.
                (Err(_), Json::String(_)) => same += 1,
                (Err(e), _) => wrong.push(format!("{} {i}: {e}", case.name)),
                (Ok(_), refused) => {
                    wrong.push(format!("{} {i}: the reference: {refused}", case.name))
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{same} are the same, {} are not:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(same >= names.len() * talks().len(), "{same}");
}
