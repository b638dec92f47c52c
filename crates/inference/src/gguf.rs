//! Reading a GGUF file: metadata, hyperparameters, tensors. Nothing in the file is trusted.

use crate::Error;
use crate::kernels::{Kind, Matrix};
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Model families that are built in.
const SUPPORTED: &str = "qwen2, llama";

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
    /// Rotated pairs are neighbours (`llama`) or half a head apart (`qwen2`).
    pub rope_neighbours: bool,
    pub epsilon: f32,
}

impl Gguf {
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
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        // The reader checks lengths against the file, but a crafted alignment can still make it
        // divide by zero: that must not take the process down.
        let parsed = catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)));
        let reason = match parsed {
            Ok(Ok(content)) => {
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
        let rope_neighbours = match architecture.as_str() {
            "qwen2" => false,
            "llama" => true,
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
        if scaling != "none" {
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
        };
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
        let tensor = self.quantised(name, &candle_core::Device::Cpu)?;
        let values = tensor.dequantize(&candle_core::Device::Cpu)?.to_vec1::<f32>()?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(self.bad(format!("{name} holds values that are no numbers")));
        }
        Ok(values)
    }

    /// A candle tensor, for the GPU path and small vectors.
    pub(crate) fn quantised(
        &self,
        name: &str,
        device: &candle_core::Device,
    ) -> Result<candle_core::quantized::QTensor, Error> {
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

    /// A matrix of `rows` (at least, when `padded`) by `cols`, its bytes as they are in the file.
    /// Formats without a kernel are requantised to 8 bits.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        padded: bool,
    ) -> Result<Matrix, Error> {
        let info = self.info(name)?;
        let dims = info.shape.dims();
        let fits = match dims {
            [r, c] => *c == cols && if padded { *r >= rows } else { *r == rows },
            _ => false,
        };
        if !fits {
            return Err(self.bad(format!("{name} has shape {dims:?}, not [{rows}, {cols}]")));
        }
        let rows = dims[0];
        let sizes = || self.bad(format!("{name} has impossible sizes"));
        let Some(kind) = Kind::of(info.ggml_dtype) else {
            tracing::info!("{name} is {:?}: converting to 8 bits", info.ggml_dtype);
            let tensor = self.quantised(name, &candle_core::Device::Cpu)?;
            let values = tensor.dequantize(&candle_core::Device::Cpu)?.flatten_all()?;
            return Ok(Matrix::quantise(Kind::Q8_0, rows, cols, &values.to_vec1::<f32>()?)?);
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
        let mut file = self.file.borrow_mut();
        // `take` into an empty vector reads without filling the memory with zeros first.
        let mut data = Vec::with_capacity(bytes);
        file.seek(SeekFrom::Start(start))
            .and_then(|_| (&*file).take(bytes as u64).read_to_end(&mut data))
            .map_err(|source| Error::Read { path: self.path.clone(), source })?;
        Matrix::new(kind, rows, cols, data).ok_or_else(|| self.damaged(name, "it is cut off"))
    }
}
