//! Model files of many kinds: in several parts, in other formats, with settings stored otherwise or of
//! other models. Each loads as it should, or is refused with what is wrong and what would work.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::{Device, Tensor};
use common::made::Made;
use common::{all_logits, load_on, model_path};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tandem_inference::store::{Installed, Store, StoreError};
use tandem_inference::{DeviceChoice, Error, Facts, LoadOptions, Model};
use tandem_speculation::TokenId;

type Metadata = Vec<(String, Value)>;
type Tensors = Vec<(String, QTensor)>;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tandem-files-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn read(path: &Path) -> (Metadata, Tensors) {
    let mut file = fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let tensor =
        |name: &String| (name.clone(), content.tensor(&mut file, name, &Device::Cpu).unwrap());
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort();
    let tensors = names.into_iter().map(tensor).collect();
    (content.metadata.into_iter().collect(), tensors)
}

fn write(path: &Path, metadata: &[(String, Value)], tensors: &[(String, QTensor)]) {
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// What a part says of itself.
fn split_keys(number: usize, count: usize, tensors: usize) -> Metadata {
    vec![
        ("split.no".into(), Value::U16(number as u16)),
        ("split.count".into(), Value::U16(count as u16)),
        ("split.tensors.count".into(), Value::I32(tensors as i32)),
    ]
}

fn part(folder: &Path, name: &str, number: usize, count: usize) -> PathBuf {
    folder.join(format!("{name}-{number:05}-of-{count:05}.gguf"))
}

/// Splits a model as llama.cpp does: the first part has the metadata.
fn split(from: &Path, folder: &Path, name: &str, count: usize) -> Vec<PathBuf> {
    let (metadata, mut tensors) = read(from);
    let all = tensors.len();
    let each = all.div_ceil(count);
    let mut paths = Vec::new();
    for number in 0..count {
        let rest = tensors.split_off(each.min(tensors.len()));
        let mut keys = split_keys(number, count, all);
        if number == 0 {
            keys.extend(metadata.clone());
        }
        let path = part(folder, name, number + 1, count);
        write(&path, &keys, &tensors);
        paths.push(path);
        tensors = rest;
    }
    paths
}

fn load(path: &Path) -> Result<Model, Error> {
    Model::load(path, &LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() })
}

fn refused(path: &Path) -> String {
    let text = load(path).err().unwrap().to_string();
    assert_eq!(Facts::read_whole(path).unwrap_err().to_string(), text);
    text
}

fn logits(model: &Model) -> Vec<f32> {
    let ids: Vec<TokenId> = [5, 60, 7, 80].map(TokenId).to_vec();
    all_logits(model, &ids).row(3).to_vec()
}

fn import(store: &Store, path: &Path) -> Result<Installed, StoreError> {
    store.import(path, &AtomicBool::new(false), &mut |_| {})
}

#[test]
fn a_real_model_in_parts_is_the_same_model() {
    let whole = model_path("SmolLM2-135M-Instruct.Q4_1");
    let folder = folder("smol");
    let parts = split(&whole, &folder, "smol", 3);
    let reference = logits(&load_on(&whole, DeviceChoice::Cpu));
    for path in &parts {
        let model = load(path).unwrap();
        assert_eq!(model.info().name, "smol");
        assert_eq!(logits(&model), reference, "{}", path.display());
    }
    let (facts, one) = (Facts::read_whole(&parts[1]).unwrap(), Facts::read(&whole).unwrap());
    assert_eq!((facts.parameters, facts.tokenizer), (one.parameters, one.tokenizer));
    let sizes: u64 = parts.iter().map(|p| fs::metadata(p).unwrap().len()).sum();
    assert_eq!(facts.file_bytes, sizes);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn parts_that_are_missing_or_of_other_models_are_named() {
    let folder = folder("parts");
    let whole = Made::new("qwen3").write("parts-whole");
    let parts = split(&whole, &folder, "m", 3);
    assert!(load(&parts[2]).is_ok());

    let second = fs::read(&parts[1]).unwrap();
    fs::remove_file(&parts[1]).unwrap();
    let text = refused(&parts[0]);
    assert!(text.contains("m-00002-of-00003.gguf is missing"), "{text}");
    // What is known of a file is forgotten when another part comes or goes.
    fs::write(&parts[1], &second).unwrap();
    assert!(Facts::read(&parts[0]).is_ok());

    // A part in another's place, and one of another model.
    fs::copy(&parts[2], &parts[1]).unwrap();
    assert!(refused(&parts[0]).contains("not part 2 of 3"), "{}", refused(&parts[0]));
    let other = split(&whole, &folder, "n", 2);
    fs::copy(&other[1], &parts[1]).unwrap();
    assert!(refused(&parts[0]).contains("not part 2 of 3"), "{}", refused(&parts[0]));
    // A tensor that is in two parts, and tensors that are in none.
    let (_, mut tensors) = read(&whole);
    let all = tensors.len();
    tensors.truncate(1);
    write(&parts[1], &split_keys(1, 3, all), &tensors);
    assert!(refused(&parts[0]).contains("in an earlier part too"), "{}", refused(&parts[0]));
    write(&parts[1], &split_keys(1, 3, all), &[]);
    assert!(refused(&parts[0]).contains("download them again"), "{}", refused(&parts[0]));
    // Another architecture in a later part.
    let mut keys = split_keys(1, 3, all);
    keys.push(("general.architecture".into(), Value::String("llama".into())));
    write(&parts[1], &keys, &[]);
    assert!(refused(&parts[0]).contains("general.architecture"), "{}", refused(&parts[0]));
    // Cut off.
    fs::write(&parts[1], &second[..second.len() - 1000]).unwrap();
    assert!(refused(&parts[0]).contains("00002-of-00003"), "{}", refused(&parts[0]));
    // A part and a whole model under other names.
    fs::write(&parts[1], &second).unwrap();
    let renamed = folder.join("renamed.gguf");
    fs::copy(&parts[0], &renamed).unwrap();
    assert!(refused(&renamed).contains("-00001-of-00003.gguf"), "{}", refused(&renamed));
    let named = part(&folder, "whole", 1, 2);
    fs::copy(&whole, &named).unwrap();
    assert!(refused(&named).contains("whole model"), "{}", refused(&named));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_model_in_parts_is_imported_listed_and_deleted_as_one() {
    let folder = folder("import-parts");
    let parts = split(&Made::new("qwen3").write("import-whole"), &folder, "big", 3);
    let store = Store::at(folder.join("store"));
    let model = import(&store, &parts[1]).unwrap();
    let sizes: u64 = parts.iter().map(|p| fs::metadata(p).unwrap().len()).sum();
    assert_eq!((model.name.as_str(), model.bytes), ("big", sizes));
    let listed = store.installed();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].bytes), ("big", sizes));
    let path = store.resolve("big").unwrap();
    assert_eq!(path, model.path);
    import(&store, &model.path).unwrap();
    // A model of this name is here, be it in one file.
    let alone = folder.join("big.gguf");
    fs::copy(Made::new("qwen3").write("import-alone"), &alone).unwrap();
    assert!(import(&store, &alone).unwrap_err().to_string().contains("here already"));

    let loaded = load(&path).unwrap();
    assert!(matches!(store.delete("big"), Err(StoreError::InUse(_))));
    drop(loaded);
    // What is left of a model whose first part is gone can still be deleted.
    fs::remove_file(&path).unwrap();
    assert_eq!(store.installed()[0].name, "big");
    store.delete("big").unwrap();
    assert_eq!(fs::read_dir(store.folder()).unwrap().count(), 0);
    assert!(parts.iter().all(|part| part.exists()));
    fs::remove_dir_all(folder).unwrap();
}

#[cfg(unix)]
#[test]
fn links_are_followed_when_a_model_is_imported() {
    // A cache of the hub: names are relative links to blobs.
    let cache = folder("links");
    let (blobs, snapshot) = (cache.join("blobs"), cache.join("snapshots/1"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::copy(Made::new("qwen3").write("linked"), blobs.join("abc")).unwrap();
    let link = snapshot.join("linked.gguf");
    std::os::unix::fs::symlink("../../blobs/abc", &link).unwrap();
    let store = Store::at(cache.join("store"));
    let model = import(&store, &link).unwrap();
    assert_eq!(model.name, "linked");
    fs::remove_file(&link).unwrap();
    assert!(load(&store.resolve("linked").unwrap()).is_ok());
    // All parts of one in several.
    let parts = split(&Made::new("qwen3").write("linked-parts"), &blobs, "split", 2);
    for part in &parts {
        let name = part.file_name().unwrap();
        let target = Path::new("../../blobs").join(name);
        std::os::unix::fs::symlink(target, snapshot.join(name)).unwrap();
    }
    import(&store, &snapshot.join(parts[1].file_name().unwrap())).unwrap();
    fs::remove_dir_all(&snapshot).unwrap();
    assert!(load(&store.resolve("split").unwrap()).is_ok());
    fs::remove_dir_all(cache).unwrap();
}

/// The made file with the number of one tensor's format changed.
fn with_format(whole: &Path, to: &Path, number: u32) {
    let mut bytes = fs::read(whole).unwrap();
    let name = b"blk.2.ffn_down.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    let format = at + 4 + 2 * 8;
    bytes[format..format + 4].copy_from_slice(&number.to_le_bytes());
    fs::write(to, bytes).unwrap();
}

#[test]
fn a_format_that_is_not_computed_is_named_with_those_that_are() {
    let folder = folder("formats");
    let whole = Made::new("qwen3").write("formats-whole");
    let path = folder.join("odd.gguf");
    let odd = [
        (4, "Q4_2"),
        (5, "Q4_3"),
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (31, "Q4_0_4_4"),
        (36, "IQ4_NL_4_4"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
        (41, "Q1_0"),
        (4000, "number 4000"),
    ];
    for (number, name) in odd {
        with_format(&whole, &path, number);
        let text = refused(&path);
        assert!(text.contains(&format!("the format {name}")), "{number}: {text}");
        assert!(text.contains("Q4_K") && text.contains("Q8_0"), "{text}");
        assert!(!text.contains("ownload"), "{text}");
    }
    fs::remove_dir_all(folder).unwrap();
}

fn made(name: &str, architecture: &'static str, extra: Metadata) -> Result<Model, Error> {
    // The last value of a key is the one that is written.
    let base = Made::new(architecture).write(&format!("{name}-base"));
    let (mut metadata, tensors) = read(&base);
    metadata.retain(|(key, _)| extra.iter().all(|(k, _)| k != key));
    metadata.extend(extra);
    let path = base.with_file_name(format!("{name}.gguf"));
    write(&path, &metadata, &tensors);
    load(&path)
}

fn key(key: &str, value: Value) -> Metadata {
    vec![(key.to_owned(), value)]
}

#[test]
fn settings_are_read_in_whichever_type_they_are_stored() {
    let reference = logits(&made("plain", "qwen3", Vec::new()).unwrap());
    let same = [
        ("rope.freq_base", Value::U32(10_000)),
        ("rope.freq_base", Value::F64(10_000.0)),
        ("rope.freq_base", Value::I64(10_000)),
        ("context_length", Value::U64(1024)),
        ("context_length", Value::F32(1024.0)),
        ("block_count", Value::I8(3)),
        ("attention.head_count", Value::U16(6)),
        ("attention.head_count_kv", Value::Array(vec![Value::I32(2); 3])),
        ("attention.layer_norm_rms_epsilon", Value::F64(1e-6)),
        // Settings that change nothing.
        ("rope.scale_linear", Value::F32(1.0)),
        ("rope.scaling.factor", Value::U8(1)),
        ("rope.scaling.type", Value::String("none".into())),
        ("attention.sliding_window", Value::U32(1024)),
        ("attention.causal", Value::Bool(true)),
        ("attention.scale", Value::F32(0.125)),
        ("attn_logit_softcapping", Value::F32(0.0)),
        ("expert_count", Value::U32(0)),
        ("logit_scale", Value::F32(1.0)),
        ("vocab_size", Value::U32(273)),
    ];
    for (name, value) in same {
        let shown = format!("{name} = {value:?}");
        let model = made("stored", "qwen3", key(&format!("qwen3.{name}"), value));
        assert_eq!(logits(&model.expect(&shown)), reference, "{shown}");
    }
    let other = made("base", "qwen3", key("qwen3.rope.freq_base", Value::U32(500_000))).unwrap();
    assert_ne!(logits(&other), reference);
}

#[test]
fn settings_that_are_not_computed_with_are_refused_by_name() {
    let text = |t: &str| Value::String(t.into());
    let wrong = [
        // That cannot be read.
        ("rope.freq_base", text("10000")),
        ("rope.freq_base", Value::Bool(true)),
        ("rope.freq_base", Value::U64((1 << 40) + 1)),
        ("rope.freq_base", Value::F32(f32::NAN)),
        ("context_length", Value::F32(1024.5)),
        (
            "attention.head_count_kv",
            Value::Array(vec![Value::I32(2), Value::I32(6), Value::I32(2)]),
        ),
        ("attention.key_length", text("64")),
        ("rope.dimension_count", text("64")),
        ("rope.scaling.type", Value::U8(1)),
        // That would change what the model writes.
        ("rope.scaling.type", text("yarn")),
        ("rope.scale_linear", Value::F32(4.0)),
        ("rope.scaling.factor", Value::F32(8.0)),
        ("rope.scaling.attn_factor", Value::F32(1.5)),
        ("rope.scaling.yarn_log_multiplier", Value::F32(0.1)),
        ("rope.dimension_sections", Value::Array(vec![Value::I32(16); 4])),
        ("rope.dimension_count", Value::U32(32)),
        ("attention.value_length", Value::U32(32)),
        ("attention.sliding_window", Value::U32(512)),
        ("attention.scale", Value::F32(0.5)),
        ("attention.clamp_kqv", Value::F32(8.0)),
        ("attention.max_alibi_bias", Value::F32(8.0)),
        ("attention.causal", Value::Bool(false)),
        ("attn_logit_softcapping", Value::F32(50.0)),
        ("final_logit_softcapping", Value::F32(30.0)),
        ("logit_scale", Value::F32(0.0625)),
        ("residual_scale", Value::F32(0.22)),
        ("embedding_scale", Value::F32(12.0)),
        ("expert_count", Value::U32(8)),
        ("use_parallel_residual", Value::Bool(true)),
        ("something_new", Value::U32(1)),
    ];
    for (name, value) in wrong {
        let name = format!("qwen3.{name}");
        let shown = format!("{name} = {value:?}");
        let refused = made("refused", "qwen3", key(&name, value)).err().expect(&shown).to_string();
        assert!(refused.contains(&name), "{shown}: {refused}");
    }
    let part = made("adapter", "qwen3", key("general.type", text("adapter"))).err().unwrap();
    assert!(part.to_string().contains("general.type"), "{part}");
}

#[test]
fn a_tensor_that_the_architecture_does_not_have_is_refused_by_name() {
    for name in ["blk.0.ffn_gate_inp.weight", "blk.3.attn_q.weight", "blk.1.attn_sinks.weight"] {
        let base = Made::new("qwen3").write("more-base");
        let (metadata, mut tensors) = read(&base);
        let zeros = Tensor::zeros(64, candle_core::DType::F32, &Device::Cpu).unwrap();
        let zeros = QTensor::quantize(&zeros, candle_core::quantized::GgmlDType::F32).unwrap();
        tensors.push((name.to_owned(), zeros));
        let path = base.with_file_name("more.gguf");
        write(&path, &metadata, &tensors);
        let text = Facts::read(&path).unwrap_err().to_string();
        assert!(text.contains(name), "{text}");
        assert!(load(&path).err().unwrap().to_string().contains(name));
    }
}

#[test]
fn what_is_no_model_is_explained_without_a_programs_words() {
    let folder = folder("none");
    let path = folder.join("none.gguf");
    let cases: [(&[u8], &str); 5] = [
        (b"", "no GGUF"),
        (b"hello, this is a text and not a model at all", "no GGUF"),
        (b"GGUF\x03\0\0\0", "ends within its header"),
        (b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "big-endian"),
        (b"GGUF\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "version 9"),
    ];
    for (bytes, said) in cases {
        fs::write(&path, bytes).unwrap();
        let text = refused(&path);
        assert!(text.contains(said), "{text}");
        for words in ["panicked", "stack backtrace", "0x", "magic", " at src", "/rustc"] {
            assert!(!text.contains(words), "{text}");
        }
    }
    assert!(refused(&folder).contains("not a file"), "{}", refused(&folder));
    fs::remove_dir_all(folder).unwrap();
}
