//! Reading a GGUF file: metadata, hyperparameters, tensors. Nothing in the file is trusted.

use crate::Error;
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tandem_kernels::{Kind, KvFormat, Matrix};

/// Model families that are built in.
const SUPPORTED: &str = "qwen2, qwen3, llama";

/// What each frequency of the rotation is divided by; only in files that need it.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// An opened file.
pub(crate) struct Gguf {
    pub content: Content,
    path: PathBuf,
    file: RefCell<File>,
    pub file_bytes: u64,
}

/// What a family's forward pass needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub architecture: String,
    pub layers: usize,
    pub width: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    pub max_context: usize,
    pub rope_base: f32,
    /// Rotated pairs are neighbours (`llama`) or half a head apart (`qwen2`, `qwen3`).
    pub rope_neighbours: bool,
    /// Queries and keys are normed head by head before they are rotated (`qwen3`).
    pub head_norms: bool,
    pub epsilon: f32,
}

/// Bytes of a header at most; those of known models have 20 MiB. A value of one byte in a file takes
/// 32 in memory, so this is what bounds what a header can take.
const MAX_HEADER: u64 = 48 << 20;

/// A file of which the header's reader sees the beginning only, and which knows where it is.
struct Header<'a> {
    inner: BufReader<&'a File>,
    at: u64,
    end: u64,
}

impl<'a> Header<'a> {
    fn of(file: &'a File, len: u64) -> Self {
        let inner = BufReader::with_capacity(1 << 20, file);
        Self { inner, at: 0, end: len.min(MAX_HEADER) }
    }
}

impl Read for Header<'_> {
    fn read(&mut self, part: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = part.len().min(left);
        let n = self.inner.read(&mut part[..most])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Header<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = match to {
            SeekFrom::End(n) => {
                self.inner.seek(SeekFrom::Start(self.end.saturating_add_signed(n)))?
            }
            to => self.inner.seek(to)?,
        };
        Ok(self.at)
    }

    /// Asked before each text of a header.
    fn stream_position(&mut self) -> std::io::Result<u64> {
        Ok(self.at)
    }
}

/// The kernels' name of a format; `None` when they have none for it.
fn kernel_of(dtype: GgmlDType) -> Option<Kind> {
    Some(match dtype {
        GgmlDType::Q4_0 => Kind::Q4_0,
        GgmlDType::Q4_1 => Kind::Q4_1,
        GgmlDType::Q5_0 => Kind::Q5_0,
        GgmlDType::Q5_1 => Kind::Q5_1,
        GgmlDType::Q8_0 => Kind::Q8_0,
        GgmlDType::Q4K => Kind::Q4K,
        GgmlDType::Q5K => Kind::Q5K,
        GgmlDType::Q6K => Kind::Q6K,
        _ => return None,
    })
}

/// Fills `part` from the place `at`, whoever else reads the file.
fn read_at(file: &File, part: &mut [u8], at: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, part, at);
    #[cfg(windows)]
    {
        let (mut part, mut at) = (part, at);
        while !part.is_empty() {
            let n = std::os::windows::fs::FileExt::seek_read(file, part, at)?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            (part, at) = (&mut part[n..], at + n as u64);
        }
        Ok(())
    }
}

/// Llama 3 files call their way of splitting text `llama-bpe`; the tokenizer library knows it as
/// `llama3`. It takes a word that is in the vocabulary whole, whatever the merges say.
fn name_pre_tokenizer(content: &mut Content) {
    const KEY: &str = "tokenizer.ggml.pre";
    if let Some(Value::String(pre)) = content.metadata.get(KEY)
        && ["llama-bpe", "llama-v3", "llama3"].contains(&pre.as_str())
    {
        content.metadata.insert(KEY.into(), Value::String("llama3".into()));
        content.metadata.insert("tokenizer.ggml.ignore_merges".into(), Value::Bool(true));
    }
}

impl Shape {
    /// Values of one token's keys in one layer.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Bytes of KV cache that one token takes.
    pub(crate) fn cache_bytes_per_token(&self, format: KvFormat) -> usize {
        self.layers * self.kv_heads * 2 * format.bytes(self.head_width)
    }
}

impl Gguf {
    /// The file's name without its ending: what its model is called everywhere.
    pub(crate) fn name(&self) -> String {
        self.path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned())
    }

    /// The open file, with a lock on it for as long as it is held: others see that it is in use.
    pub(crate) fn into_lock(self) -> File {
        let file = self.file.into_inner();
        // Where a file system has no locks nobody sees it.
        let _ = file.try_lock_shared();
        file
    }

    /// Reads the header.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        if !meta.is_file() {
            return Err(Error::Format {
                path: path.to_owned(),
                reason: "it is not a file; give the path of a .gguf file".into(),
            });
        }
        let mut reader = Header::of(&file, meta.len());
        // The reader checks lengths against the file, but a crafted alignment can still make it
        // divide by zero: that must not take the process down.
        let parsed = catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)));
        let reason = match parsed {
            Ok(Ok(mut content)) => {
                name_pre_tokenizer(&mut content);
                return Ok(Self {
                    content,
                    path: path.to_owned(),
                    file_bytes: meta.len(),
                    file: RefCell::new(file),
                });
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => "its header makes no sense".to_owned(),
        };
        Err(Error::Format {
            path: path.to_owned(),
            reason: format!("{reason}. Download the model again, or choose a .gguf file"),
        })
    }

    /// A format error about this file.
    pub(crate) fn bad(&self, reason: impl Into<String>) -> Error {
        Error::Format { path: self.path.clone(), reason: reason.into() }
    }

    /// A whole number from the metadata.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        match self.content.metadata.get(key)? {
            Value::U8(v) => Some(u64::from(*v)),
            Value::U16(v) => Some(u64::from(*v)),
            Value::U32(v) => Some(u64::from(*v)),
            Value::U64(v) => Some(*v),
            Value::I8(v) => u64::try_from(*v).ok(),
            Value::I16(v) => u64::try_from(*v).ok(),
            Value::I32(v) => u64::try_from(*v).ok(),
            Value::I64(v) => u64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// A text from the metadata.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.content.metadata.get(key)?.to_string().ok().map(String::as_str)
    }

    /// The hyperparameters, each within sane bounds.
    pub(crate) fn shape(&self) -> Result<Shape, Error> {
        let architecture = self.text("general.architecture").unwrap_or("unknown").to_owned();
        let (rope_neighbours, head_norms) = match architecture.as_str() {
            "qwen2" => (false, false),
            "qwen3" => (false, true),
            "llama" => (true, false),
            _ => {
                return Err(Error::Architecture {
                    path: self.path.clone(),
                    architecture,
                    supported: SUPPORTED,
                });
            }
        };
        let number = |key: &str, low: usize, high: usize| -> Result<usize, Error> {
            let key = format!("{architecture}.{key}");
            let value = self.number(&key).ok_or_else(|| self.bad(format!("{key} is missing")))?;
            match usize::try_from(value) {
                Ok(v) if (low..=high).contains(&v) => Ok(v),
                _ => Err(self.bad(format!("{key} is {value}; expected {low} to {high}"))),
            }
        };
        let real = |key: &str, default: Option<f32>, low: f32, high: f32| -> Result<f32, Error> {
            let key = format!("{architecture}.{key}");
            let value = self.content.metadata.get(&key).and_then(|v| v.to_f32().ok()).or(default);
            let value = value.ok_or_else(|| self.bad(format!("{key} is missing")))?;
            if (low..=high).contains(&value) {
                Ok(value)
            } else {
                Err(self.bad(format!("{key} is {value}; expected {low} to {high}")))
            }
        };
        let scaling = self.text(&format!("{architecture}.rope.scaling.type")).unwrap_or("none");
        // Llama 3.1 and later carry their scaling as a tensor of factors, whatever they call it.
        if scaling != "none" && !(scaling == "llama3" && self.has(ROPE_FACTORS)) {
            return Err(self.bad(format!("its RoPE scaling `{scaling}` is not supported")));
        }
        let width = number("embedding_length", 32, 1 << 15)?;
        let heads = number("attention.head_count", 1, 1024)?;
        let kv_heads = number("attention.head_count_kv", 1, heads).or_else(|e| {
            let key = format!("{architecture}.attention.head_count_kv");
            if self.content.metadata.contains_key(&key) { Err(e) } else { Ok(heads) }
        })?;
        let key_length = format!("{architecture}.attention.key_length");
        let head_width = if self.content.metadata.contains_key(&key_length) {
            number("attention.key_length", 8, 1024)?
        } else {
            width / heads
        };
        let shape = Shape {
            layers: number("block_count", 1, 512)?,
            feed_forward: number("feed_forward_length", 32, 1 << 18)?,
            max_context: number("context_length", 1, 1 << 24)?.min(1 << 17),
            rope_base: real("rope.freq_base", Some(10_000.0), 1.0, 1e12)?,
            epsilon: real("attention.layer_norm_rms_epsilon", None, 0.0, 1.0)?,
            architecture,
            width,
            heads,
            kv_heads,
            head_width,
            rope_neighbours,
            head_norms,
        };
        let rotated = self.number(&format!("{}.rope.dimension_count", shape.architecture));
        if rotated.is_some_and(|n| n != head_width as u64) {
            return Err(self.bad("it rotates only a part of each head, which is not supported"));
        }
        let fits = |n: usize| n.is_multiple_of(32);
        if !heads.is_multiple_of(kv_heads)
            || !head_width.is_multiple_of(8)
            || head_width == 0
            || !fits(width)
            || !fits(shape.feed_forward)
            || !fits(heads * head_width)
        {
            return Err(self.bad(format!("its sizes do not fit together: {shape:?}")));
        }
        Ok(shape)
    }

    /// The angle by which each pair of a head turns from one position to the next.
    pub(crate) fn frequencies(&self, shape: &Shape) -> Result<Vec<f32>, Error> {
        let half = shape.head_width / 2;
        let base = |i| 1.0 / shape.rope_base.powf(i as f32 / half as f32);
        let mut frequencies: Vec<f32> = (0..half).map(base).collect();
        if self.has(ROPE_FACTORS) {
            for (frequency, factor) in frequencies.iter_mut().zip(self.vector(ROPE_FACTORS, half)?)
            {
                *frequency /= factor;
            }
        }
        if frequencies.iter().any(|f| !f.is_finite()) {
            return Err(self.bad(format!("{ROPE_FACTORS} holds values that make no sense")));
        }
        Ok(frequencies)
    }

    /// Checks that what a family needs is there and that the file holds all of it. Returns the
    /// number of weights and the format that most of them are in.
    pub(crate) fn check_tensors(&self, shape: &Shape) -> Result<(u64, String), Error> {
        const PARTS: [&str; 9] = [
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ];
        for name in ["token_embd.weight", "output_norm.weight"] {
            self.info(name)?;
        }
        for i in 0..shape.layers {
            for part in PARTS {
                self.info(&format!("blk.{i}.{part}.weight"))?;
            }
        }
        let mut formats: HashMap<GgmlDType, u64> = HashMap::new();
        for (name, info) in &self.content.tensor_infos {
            let sizes = || self.bad(format!("{name} has impossible sizes"));
            let count = info.shape.dims().iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
            let count = count.ok_or_else(sizes)?;
            let blocks = count.div_ceil(info.ggml_dtype.block_size() as u64);
            let bytes = blocks.checked_mul(info.ggml_dtype.type_size() as u64).ok_or_else(sizes)?;
            let start = self.content.tensor_data_offset.checked_add(info.offset);
            let end = start.and_then(|s| s.checked_add(bytes)).ok_or_else(sizes)?;
            if end > self.file_bytes {
                return Err(self.damaged(name, "the file ends before it does"));
            }
            *formats.entry(info.ggml_dtype).or_default() += count;
        }
        let most = formats.iter().max_by_key(|(_, count)| **count);
        let format = most.map_or_else(String::new, |(format, _)| format!("{format:?}"));
        Ok((formats.values().sum(), format))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, Error> {
        let missing = || self.bad(format!("the tensor {name} is missing"));
        self.content.tensor_infos.get(name).ok_or_else(missing)
    }

    /// A vector of 32-bit floats of exactly `len` values.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let info = self.info(name)?;
        if info.shape.dims() != [len] {
            return Err(self.bad(format!("{name} has shape {:?}, not [{len}]", info.shape)));
        }
        let tensor = self.quantised(name, &Device::Cpu)?;
        let values = tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>()?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(self.bad(format!("{name} holds values that are no numbers")));
        }
        Ok(values)
    }

    /// A candle tensor.
    fn quantised(&self, name: &str, device: &Device) -> Result<QTensor, Error> {
        self.info(name)?;
        let mut file = self.file.borrow_mut();
        // Sizes that overflow when multiplied must not panic either.
        catch_unwind(AssertUnwindSafe(|| self.content.tensor(&mut *file, name, device)))
            .unwrap_or_else(|_| Err(candle_core::Error::msg("impossible sizes")))
            .map_err(|e| self.damaged(name, &e.to_string()))
    }

    fn damaged(&self, name: &str, reason: &str) -> Error {
        self.bad(format!("the tensor {name} cannot be read ({reason}); download the model again"))
    }

    /// What is known of a matrix of `rows` (at least, when `padded`) by `cols`.
    fn matrix_info(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        padded: bool,
    ) -> Result<&TensorInfo, Error> {
        let info = self.info(name)?;
        let dims = info.shape.dims();
        let fits = match dims {
            [r, c] => *c == cols && if padded { *r >= rows } else { *r == rows },
            _ => false,
        };
        if !fits {
            return Err(self.bad(format!("{name} has shape {dims:?}, not [{rows}, {cols}]")));
        }
        Ok(info)
    }

    /// Such a matrix as a tensor on a device, in the file's own format.
    pub(crate) fn device_matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        padded: bool,
        device: &Device,
    ) -> Result<QTensor, Error> {
        self.matrix_info(name, rows, cols, padded)?;
        self.quantised(name, device)
    }

    /// Such a matrix for the CPU kernels, its bytes as they are in the file. Formats without a
    /// kernel are requantised to 8 bits.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        padded: bool,
    ) -> Result<Matrix, Error> {
        let info = self.matrix_info(name, rows, cols, padded)?;
        let rows = info.shape.dims()[0];
        let sizes = || self.bad(format!("{name} has impossible sizes"));
        let Some(kind) = kernel_of(info.ggml_dtype) else {
            tracing::info!("{name} is {:?}: converting to 8 bits", info.ggml_dtype);
            let values = self.quantised(name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
            let tensor = QTensor::quantize(&values, GgmlDType::Q8_0)?;
            let quantised = tensor.data()?;
            let fill = |data: &mut [u8]| {
                data.copy_from_slice(&quantised);
                Ok(())
            };
            return Matrix::new(Kind::Q8_0, rows, cols, fill).map_err(Error::Memory);
        };
        if !cols.is_multiple_of(kind.block()) {
            return Err(sizes());
        }
        let row_bytes = cols / kind.block() * kind.bytes();
        let bytes = rows.checked_mul(row_bytes).ok_or_else(sizes)?;
        let start = self.content.tensor_data_offset.checked_add(info.offset).ok_or_else(sizes)?;
        let end = start.checked_add(bytes as u64).ok_or_else(sizes)?;
        if end > self.file_bytes {
            return Err(self.damaged(name, "the file ends before it does"));
        }
        let file: &File = &self.file.borrow();
        Matrix::new(kind, rows, cols, |data| {
            // By several threads: most of the time goes into fresh memory and copies.
            const PART: usize = 1 << 20;
            data.par_chunks_mut(PART)
                .enumerate()
                .try_for_each(|(i, part)| read_at(file, part, start + (i * PART) as u64))
        })
        .map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => self.damaged(name, "it is cut off"),
            _ => Error::Read { path: self.path.clone(), source },
        })
    }
}
