//! Our models against candle-transformers' own, on the same files and prompts, and against
//! themselves: incremental, batched and rolled back against one long forward.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2};
use common::{all_logits, argmax, distance, load, model_path};
use tandem_inference::{Segment, Wanted};
use tandem_speculation::TokenId;

const PROMPT: &str = "The three laws of thermodynamics say, in plain words, that";

/// Both quantise activations to 8 bits, with other block sizes and summation orders in places: a
/// few per cent of the spread of the logits. A wrong rotation, mask or norm gives more than 0.3.
const TOLERANCE: f64 = 0.06;

fn compare(name: &str) {
    let model = load(name);
    let ids = model.tokenizer().encode(PROMPT, false).unwrap();
    let ours = all_logits(&model, &ids);
    let mut file = std::fs::File::open(model_path(name)).unwrap();
    let content = Content::read(&mut file).unwrap();
    let architecture = model.info().architecture.clone();
    let row = |end: usize, stock: &mut dyn FnMut(&Tensor) -> Tensor| {
        let ids: Vec<u32> = ids[..end].iter().map(|t| t.0).collect();
        let input = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        stock(&input).flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let mut stock: Box<dyn FnMut(&Tensor) -> Tensor> = if architecture == "qwen2" {
        let mut m =
            quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();
        Box::new(move |x| m.forward(x, 0).unwrap())
    } else {
        let mut m =
            quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();
        Box::new(move |x| m.forward(x, 0).unwrap())
    };
    for end in [1, 2, ids.len() / 2, ids.len()] {
        let theirs = row(end, &mut *stock);
        let ours = ours.row(end - 1);
        let d = distance(ours, &theirs[..ours.len()]);
        println!("{name} after {end} tokens: distance {d:.4}");
        assert!(d < TOLERANCE, "{name} after {end} tokens: distance {d}");
    }
    let theirs = row(ids.len(), &mut *stock);
    assert_eq!(argmax(ours.row(ids.len() - 1)), argmax(&theirs));
}

#[test]
fn llama_agrees_with_candle() {
    compare("SmolLM2-135M-Instruct.Q4_1");
}

#[test]
fn qwen2_small_agrees_with_candle() {
    compare("qwen2.5-coder-0.5b-instruct-q4_k_m");
}

#[test]
fn qwen2_large_agrees_with_candle() {
    compare("qwen2.5-coder-1.5b-instruct-q4_k_m");
}

#[test]
fn incremental_batched_and_rolled_back_forwards_give_the_same_bits() {
    let model = load("SmolLM2-135M-Instruct.Q4_1");
    let ids = model.tokenizer().encode(PROMPT, false).unwrap();
    let other = model.tokenizer().encode("Once upon a time there was a", false).unwrap();
    let whole = all_logits(&model, &ids);
    let whole_other = all_logits(&model, &other);

    // One token at a time.
    let mut cache = model.new_cache(64).unwrap();
    for (i, id) in ids.iter().enumerate() {
        let logits = model
            .forward(&mut [Segment { cache: &mut cache, tokens: &[*id], logits: Wanted::Last }])
            .unwrap();
        assert_eq!(logits.row(0), whole.row(i), "token {i} alone");
    }

    // Wrong tokens, rolled back, then the right ones, together with another sequence.
    cache.truncate(3);
    let wrong = [TokenId(11), TokenId(12), TokenId(13)];
    model
        .forward(&mut [Segment { cache: &mut cache, tokens: &wrong, logits: Wanted::None }])
        .unwrap();
    assert_eq!(cache.len(), 6);
    cache.truncate(3);
    let mut second = model.new_cache(64).unwrap();
    let logits = model
        .forward(&mut [
            Segment { cache: &mut second, tokens: &other, logits: Wanted::Last },
            Segment { cache: &mut cache, tokens: &ids[3..], logits: Wanted::All },
        ])
        .unwrap();
    assert_eq!(logits.rows(), 1 + ids.len() - 3);
    assert_eq!(logits.row(0), whole_other.row(other.len() - 1));
    for i in 3..ids.len() {
        assert_eq!(logits.row(1 + i - 3), whole.row(i), "row {i} after a roll-back");
    }
}

/// Other tokens for places of a draft, beside it: each gets the logits of a text that ends with it, to
/// the bit, and leaves no trace.
#[test]
fn alternatives_see_the_text_before_them_and_nobody_sees_them() {
    let model = load("SmolLM2-135M-Instruct.Q4_1");
    let ids = model.tokenizer().encode(PROMPT, false).unwrap();
    let whole = all_logits(&model, &ids);
    let (known, new) = ids.split_at(3);
    // Before the first new token, twice for one place, and behind the last.
    let places = [(0, 11), (2, 12), (2, 13), (new.len(), 14)].map(|(at, id)| (at, TokenId(id)));
    let mut cache = model.new_cache(ids.len() + 1).unwrap();
    let read = |cache: &mut _, tokens: &[TokenId], logits| {
        model.forward(&mut [Segment { cache, tokens, logits }]).unwrap()
    };
    read(&mut cache, known, Wanted::None);
    let both = read(&mut cache, new, Wanted::From(0, &places));
    assert_eq!(cache.len(), ids.len());
    assert_eq!(both.rows(), new.len() + places.len());
    for (i, (at, id)) in places.into_iter().enumerate() {
        let mut text = ids[..known.len() + at].to_vec();
        text.push(id);
        assert_eq!(both.row(at + i), all_logits(&model, &text).row(text.len() - 1), "{at}");
    }
    for i in 0..new.len() {
        let before = places.iter().filter(|(at, _)| *at <= i).count();
        assert_eq!(both.row(i + before), whole.row(known.len() + i), "token {i}");
    }
    // The same without the logits before the second new token.
    cache.truncate(known.len());
    let less = read(&mut cache, new, Wanted::From(2, &places));
    assert_eq!(less.rows() + 2, both.rows());
    assert_eq!((less.row(0), less.row(1)), (both.row(0), both.row(3)));
    let next = read(&mut cache, &[TokenId(21)], Wanted::Last);
    let text: Vec<TokenId> = ids.iter().copied().chain([TokenId(21)]).collect();
    assert_eq!(next.row(0), all_logits(&model, &text).row(ids.len()), "what is in the cache");
    // Out of order, behind the end, not in the vocabulary, without room.
    let mut cache = model.new_cache(2).unwrap();
    let vocab = model.info().vocab as u32;
    for places in [&[(1, 5), (0, 5)][..], &[(2, 5)], &[(0, vocab)], &[(1, 5), (2, 5)]] {
        let places: Vec<_> = places.iter().map(|&(at, id)| (at, TokenId(id))).collect();
        let (tokens, logits) = (&ids[..1], Wanted::From(0, &places));
        assert!(model.forward(&mut [Segment { cache: &mut cache, tokens, logits }]).is_err());
        let (tokens, logits) = (&ids[..2], Wanted::From(0, &[(2, TokenId(5))]));
        assert!(model.forward(&mut [Segment { cache: &mut cache, tokens, logits }]).is_err());
        assert!(cache.is_empty());
    }
}

#[test]
fn a_long_prompt_is_the_same_in_pieces() {
    let model = load("SmolLM2-135M-Instruct.Q4_1");
    let ids: Vec<TokenId> = (0..600u32).map(|i| TokenId(i * 7 % 5000 + 20)).collect();
    let mut whole = model.new_cache(700).unwrap();
    let a = model
        .forward(&mut [Segment { cache: &mut whole, tokens: &ids, logits: Wanted::Last }])
        .unwrap();
    let mut pieces = model.new_cache(700).unwrap();
    let mut last = None;
    for piece in ids.chunks(37) {
        last = Some(
            model
                .forward(&mut [Segment { cache: &mut pieces, tokens: piece, logits: Wanted::Last }])
                .unwrap(),
        );
    }
    assert_eq!(a.row(0), last.unwrap().row(0));
    assert_eq!(pieces.bytes(), 600 * model.cache_bytes_per_token());
}

#[test]
fn misuse_is_an_error_and_changes_nothing() {
    let model = load("SmolLM2-135M-Instruct.Q4_1");
    let mut cache = model.new_cache(4).unwrap();
    let vocab = model.info().vocab as u32;
    for tokens in [&[][..], &[TokenId(vocab)][..], &[TokenId(1); 5][..]] {
        let mut segments = [Segment { cache: &mut cache, tokens, logits: Wanted::Last }];
        assert!(model.forward(&mut segments).is_err());
        assert_eq!(cache.len(), 0);
    }
    assert!(model.new_cache(0).is_err());
    assert!(model.new_cache(model.info().max_context + 1).is_err());
}
