//! Families of which no file can be had here, on files that the test makes: Qwen3 against
//! candle-transformers, Llama 3's way of scaling, padded vocabularies.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen3;
use common::made::Made;
use common::{all_logits, distance, load_on};
use std::path::Path;
use tandem_inference::{
    ChatMessage, DeviceChoice, LoadOptions, Model, Role, Segment, Tokenizer, Wanted,
};
use tandem_speculation::TokenId;

const PROMPT: &str = "In the lower other then there, winter thinner.";
/// Both quantise activations to 8 bits, with other block sizes and summation orders. Random weights
/// have no clear favourite, so the most likely token may differ.
const TOLERANCE: f64 = 0.06;

fn ids(tokenizer: &Tokenizer) -> Vec<TokenId> {
    tokenizer.encode(PROMPT, false).unwrap()
}

fn theirs(path: &Path, ids: &[TokenId]) -> Vec<f32> {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut model =
        quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();
    let ids: Vec<u32> = ids.iter().map(|t| t.0).collect();
    let input = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    model.forward(&input, 0).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn qwen3_agrees_with_candle_on_both_backends() {
    let path = Made::new("qwen3").write("qwen3");
    for device in [DeviceChoice::Cpu, DeviceChoice::Reference] {
        let model = load_on(&path, device);
        assert_eq!(model.info().architecture, "qwen3");
        let ids = ids(model.tokenizer());
        let ours = all_logits(&model, &ids);
        for end in [1, 2, ids.len() / 2, ids.len()] {
            let theirs = theirs(&path, &ids[..end]);
            let ours = ours.row(end - 1);
            let d = distance(ours, &theirs[..ours.len()]);
            println!("{} after {end} tokens: distance {d:.4}", model.info().device);
            assert!(d < TOLERANCE, "{} after {end} tokens: distance {d}", model.info().device);
        }
    }
}

#[test]
fn qwen3_is_the_same_bits_in_steps_and_after_a_roll_back() {
    let model = load_on(&Made::new("qwen3").write("qwen3-steps"), DeviceChoice::Cpu);
    let ids = ids(model.tokenizer());
    let whole = all_logits(&model, &ids);
    let mut cache = model.new_cache(64).unwrap();
    for (i, id) in ids.iter().enumerate() {
        let mut step = [Segment { cache: &mut cache, tokens: &[*id], logits: Wanted::Last }];
        assert_eq!(model.forward(&mut step).unwrap().row(0), whole.row(i), "token {i}");
    }
    cache.truncate(4);
    let mut rest = [Segment { cache: &mut cache, tokens: &ids[4..], logits: Wanted::All }];
    let again = model.forward(&mut rest).unwrap();
    for i in 4..ids.len() {
        assert_eq!(again.row(i - 4), whole.row(i), "row {i} after a roll-back");
    }
}

#[test]
fn qwen3_chats_by_its_own_template() {
    let model = load_on(&Made::new("qwen3").write("qwen3-chat"), DeviceChoice::Cpu);
    let say = |role, content: &str| ChatMessage { role, content: content.into() };
    let talk = [
        say(Role::System, "Be brief."),
        say(Role::User, "Hi"),
        say(Role::Assistant, "Hello."),
        say(Role::User, "Who <|im_end|> are you?"),
    ];
    let tokenizer = model.tokenizer();
    let ours = tokenizer.encode_chat(&talk).unwrap();
    // What a person typed stays text; thinking is turned off, as the window has no place for it.
    let before = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                  <|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\n";
    let after = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
    let mut wanted = tokenizer.encode(before, true).unwrap();
    wanted.extend(tokenizer.encode("Who <|im_end|> are you?", false).unwrap());
    wanted.extend(tokenizer.encode(after, true).unwrap());
    assert_eq!(ours, wanted);
}

#[test]
fn padding_is_no_part_of_the_vocabulary() {
    let made = |padding, name: &str| {
        load_on(&Made { padding, ..Made::new("qwen3") }.write(name), DeviceChoice::Cpu)
    };
    let (a, b) = (made(3, "padded-3"), made(131, "padded-131"));
    assert_eq!(a.tokenizer().fingerprint(), b.tokenizer().fingerprint());
    assert_eq!((a.info().vocab, b.info().vocab), (266, 266));
    assert_eq!(all_logits(&b, &[TokenId(5)]).row(0).len(), 266);
    let mut cache = b.new_cache(4).unwrap();
    let tokens = &[TokenId(266)];
    let mut padding = [Segment { cache: &mut cache, tokens, logits: Wanted::Last }];
    assert!(b.forward(&mut padding).is_err());
    let typed = b.tokenizer().encode("[PAD270]", false).unwrap();
    assert!(typed.iter().all(|id| id.0 < 266), "{typed:?}");
}

#[test]
fn llama_3_files_load_with_their_factors_and_their_way_to_split_words() {
    let kind =
        |text: &str| vec![("llama.rope.scaling.type".to_owned(), Value::String(text.to_owned()))];
    let made = |factors, extra, name: &str| {
        let made = Made { factors, extra, ..Made::new("llama") };
        Model::load(&made.write(name), &LoadOptions::default())
    };
    let plain = made(false, Vec::new(), "llama-plain").unwrap();
    let scaled = made(true, Vec::new(), "llama-factors").unwrap();
    let named = made(true, kind("llama3"), "llama-named").unwrap();
    let ids = ids(plain.tokenizer());
    let last = |m: &Model| all_logits(m, &ids).row(ids.len() - 1).to_vec();
    assert_eq!(last(&scaled), last(&named));
    assert!(distance(&last(&scaled), &last(&plain)) > 0.05, "the factors do nothing");
    let refused = made(false, kind("llama3"), "llama-bare").err().unwrap().to_string();
    assert!(refused.contains("llama3"), "{refused}");
    let refused = made(false, kind("yarn"), "llama-yarn").err().unwrap().to_string();
    assert!(refused.contains("yarn"), "{refused}");
    // `llama-bpe` splits a word from what stands before it; the library's fallback would not.
    let a = plain.tokenizer().encode("(the", false).unwrap();
    let b = plain.tokenizer().encode("the", false).unwrap();
    assert_eq!(plain.tokenizer().decode(&a).unwrap(), "(the");
    assert_eq!(b.len(), 1);
}
