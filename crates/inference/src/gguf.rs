//! Reading a model out of one GGUF file or several: metadata, hyperparameters, tensors. Nothing in a
//! file is trusted.

mod formats;
mod header;
pub(crate) mod parts;
mod shape;

pub(crate) use formats::SUPPORTED;
pub(crate) use shape::Shape;

use crate::Error;
use candle_core::Device;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use header::{Fault, Header, TensorInfo};
use parts::PartName;
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tandem_kernels::{Kind, Matrix};

/// What each frequency of the rotation is divided by; only in files that need it.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Matrices of a block. Each may have a bias beside its weights.
const LINEAR: [&str; 7] =
    ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
const NORMS: [&str; 2] = ["attn_norm", "ffn_norm"];
const HEAD_NORMS: [&str; 2] = ["attn_q_norm", "attn_k_norm"];

/// An opened model.
pub(crate) struct Gguf {
    values: HashMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
    /// Its files, in order.
    parts: Vec<Part>,
    /// Size of all files.
    pub file_bytes: u64,
}

struct Part {
    path: PathBuf,
    file: RefCell<File>,
}

/// A whole number, in whichever numeric type it is stored; `None` if it is none.
pub(crate) fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::U8(v) => Some(i128::from(*v)),
        Value::U16(v) => Some(i128::from(*v)),
        Value::U32(v) => Some(i128::from(*v)),
        Value::U64(v) => Some(i128::from(*v)),
        Value::I8(v) => Some(i128::from(*v)),
        Value::I16(v) => Some(i128::from(*v)),
        Value::I32(v) => Some(i128::from(*v)),
        Value::I64(v) => Some(i128::from(*v)),
        Value::F32(v) => whole(&Value::F64(f64::from(*v))),
        // Beyond 2^53 not every whole number is there.
        Value::F64(v) => (v.fract() == 0.0 && v.abs() <= 9e15).then_some(*v as i128),
        Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// A real number, in whichever numeric type it is stored; `None` if it is none, or a whole number that
/// 32 bits would change.
pub(crate) fn real(value: &Value) -> Option<f32> {
    match value {
        Value::F32(v) => Some(*v),
        // What a converter would have written in 32 bits.
        Value::F64(v) => Some(*v as f32).filter(|f| f.is_finite() == v.is_finite()),
        other => whole(other).filter(|n| (*n as f32) as i128 == *n).map(|n| n as f32),
    }
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

fn format_error(path: &Path, reason: impl Into<String>) -> Error {
    Error::Format { path: path.to_owned(), reason: reason.into() }
}

/// Opens one file; its header and size.
fn open_part(path: &Path) -> Result<(Part, Header, u64), Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    // Looked at first: opening a pipe would wait for its other end.
    let meta = std::fs::metadata(path).map_err(read)?;
    if !meta.is_file() {
        return Err(format_error(path, "it is not a file; give the path of a .gguf file"));
    }
    let file = File::open(path).map_err(read)?;
    let len = file.metadata().map_err(read)?.len();
    let header = header::read(BufReader::with_capacity(1 << 20, &file), len);
    let header = header.map_err(|fault| match fault {
        Fault::Read(source) => read(source),
        Fault::Damaged(reason) => format_error(
            path,
            format!("{reason}. Download the model again, or choose a .gguf file"),
        ),
        Fault::Refused(reason) => format_error(path, reason),
        Fault::Format { tensor, number } => Error::Quantisation {
            path: path.to_owned(),
            tensor,
            format: formats::name(number),
            supported: SUPPORTED,
        },
    })?;
    Ok((Part { path: path.to_owned(), file: RefCell::new(file) }, header, len))
}

impl Gguf {
    /// What the model is called everywhere: the file's name without its ending and number.
    pub(crate) fn name(&self) -> String {
        parts::model_name(self.path())
    }

    fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// The open files, with a lock on each for as long as they are held: others see that they are in
    /// use.
    pub(crate) fn into_locks(self) -> Vec<File> {
        let files = self.parts.into_iter().map(|part| part.file.into_inner());
        // Where a file system has no locks nobody sees it.
        files.inspect(|file| drop(file.try_lock_shared())).collect()
    }

    /// Reads the header, and those of the other parts of a model in several files: any of them may be
    /// given.
    ///
    /// # Errors
    /// If the file cannot be read or is no usable GGUF, or a part is missing or another model's.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let (part, header, len) = open_part(path)?;
        let file = Self {
            values: header.values,
            tensors: header.tensors,
            parts: vec![part],
            file_bytes: len,
        };
        let count = file.small("split.count")?.unwrap_or(1);
        if count > 1 {
            return Self::open_parts(path, file, count);
        }
        match PartName::of(path) {
            Some(PartName { number, count, .. }) if count > 1 => Err(file.bad(format!(
                "its name says that it is part {number} of {count}, and it says that it is a whole \
                 model; give it another name"
            ))),
            _ => Ok(file),
        }
    }

    /// All parts of a model of which one is open.
    fn open_parts(path: &Path, given: Self, count: usize) -> Result<Self, Error> {
        let number = given.small("split.no")?.unwrap_or(0) + 1;
        let Some(name) = PartName::of(path).filter(|n| (n.number, n.count) == (number, count))
        else {
            return Err(given.bad(format!(
                "it is part {number} of {count} of a model, so its name must end in \
                 `-{number:05}-of-{count:05}.gguf`, as when it was downloaded; give it that name and \
                 put the other parts beside it"
            )));
        };
        let missing: Vec<String> =
            name.files().filter(|file| !path.with_file_name(file).exists()).collect();
        if !missing.is_empty() {
            return Err(given.bad(format!(
                "the model is in {count} files, and {} is missing beside it; download that too",
                missing.join(", ")
            )));
        }
        let total = given.value("split.tensors.count").and_then(whole);
        let mut all: Option<Self> = None;
        for (i, file) in name.files().enumerate() {
            let (part, header, len) = open_part(&path.with_file_name(&file))?;
            let mut next = Self {
                values: header.values,
                tensors: header.tensors,
                parts: vec![part],
                file_bytes: len,
            };
            let says = (next.small("split.no")?.unwrap_or(0), next.small("split.count")?);
            let same = next.value("split.tensors.count").and_then(whole) == total;
            if says != (i, Some(count)) || !same {
                return Err(next.bad(format!(
                    "it is not part {} of {count} of the model of {}; download it again",
                    i + 1,
                    path.display()
                )));
            }
            match &mut all {
                None => all = Some(next),
                Some(all) => all.add(std::mem::replace(&mut next, Self::none()))?,
            }
        }
        let all = all.ok_or_else(|| given.bad("it has no parts"))?;
        if total.is_some_and(|total| total != all.tensors.len() as i128) {
            return Err(all.bad(format!(
                "its {count} parts have {} tensors and should have {}; download them again",
                all.tensors.len(),
                total.unwrap_or_default()
            )));
        }
        Ok(all)
    }

    fn none() -> Self {
        Self { values: HashMap::new(), tensors: BTreeMap::new(), parts: Vec::new(), file_bytes: 0 }
    }

    /// Takes in the next part.
    fn add(&mut self, next: Self) -> Result<(), Error> {
        for key in next.values.keys().filter(|key| !key.starts_with("split.")) {
            // Later parts may repeat what the first says.
            let other = self.values.get(key).is_none_or(|first| !same(first, &next.values[key]));
            if other {
                return Err(next.bad(format!(
                    "it says another {key} than the first part: it is of another model; download \
                     the parts again"
                )));
            }
        }
        let part = self.parts.len();
        for (name, info) in &next.tensors {
            match self.tensors.entry(name.clone()) {
                Entry::Vacant(place) => place.insert(TensorInfo { part, ..info.clone() }),
                Entry::Occupied(_) => {
                    return Err(next.bad(format!(
                        "the tensor {name} is in an earlier part too; download the parts again"
                    )));
                }
            };
        }
        self.file_bytes = self.file_bytes.saturating_add(next.file_bytes);
        self.parts.extend(next.parts);
        Ok(())
    }

    /// A format error about this file.
    pub(crate) fn bad(&self, reason: impl Into<String>) -> Error {
        let path = self.parts.first().map(|part| part.path.as_path());
        format_error(path.unwrap_or_else(|| Path::new("")), reason)
    }

    /// What the metadata has under a key.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A whole number from the metadata, in whichever type it is stored.
    ///
    /// # Errors
    /// If it is there and is no whole number.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i128>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        whole(value).map(Some).ok_or_else(|| self.bad(format!("{key} is no whole number")))
    }

    fn small(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(number) = self.integer(key)? else { return Ok(None) };
        let small = usize::try_from(number).ok().filter(|n| *n <= 1 << 16);
        small.map(Some).ok_or_else(|| self.bad(format!("{key} is {number}, which makes no sense")))
    }

    /// Yes or no from the metadata.
    ///
    /// # Errors
    /// If it is there and is neither.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(value) => match whole(value) {
                Some(0) => Ok(Some(false)),
                Some(1) => Ok(Some(true)),
                _ => Err(self.bad(format!("{key} is neither yes nor no"))),
            },
        }
    }

    /// A text from the metadata.
    ///
    /// # Errors
    /// If it is there and is no text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(format!("{key} is no text"))),
        }
    }

    /// Checks that what a family needs is there, and nothing that it does not know. Returns the number
    /// of weights, and what people call their formats.
    pub(crate) fn check_tensors(&self, shape: &Shape) -> Result<(u64, String), Error> {
        for name in ["token_embd.weight", "output_norm.weight"] {
            self.info(name)?;
        }
        let head_norms: &[&str] = if shape.head_norms { &HEAD_NORMS } else { &[] };
        for i in 0..shape.layers {
            for part in LINEAR.iter().chain(&NORMS).chain(head_norms) {
                self.info(&format!("blk.{i}.{part}.weight"))?;
            }
        }
        let mut formats: HashMap<GgmlDType, u64> = HashMap::new();
        for (name, info) in &self.tensors {
            if !is_known(name, shape) {
                return Err(self.bad(format!(
                    "it has a tensor {name}, which the architecture `{}` as it is known here does \
                     not have: what the model writes would be wrong. Choose another model or \
                     conversion; llama.cpp may know this one",
                    shape.architecture
                )));
            }
            let count = formats.entry(info.format).or_default();
            *count = count.saturating_add(info.count);
        }
        let most = formats.iter().max_by_key(|(_, count)| **count);
        let most = most.map_or("", |(format, _)| formats::short(*format));
        let mixture = self.value("general.file_type").and_then(whole).and_then(formats::mixture);
        let weights = formats.values().fold(0, |sum: u64, n| sum.saturating_add(*n));
        Ok((weights, mixture.unwrap_or(most).to_owned()))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, Error> {
        let missing = || self.bad(format!("the tensor {name} is missing; choose another file"));
        self.tensors.get(name).ok_or_else(missing)
    }

    /// A vector of 32-bit floats of exactly `len` values.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let info = self.info(name)?;
        if info.dims != [len] {
            return Err(self.bad(format!("{name} has shape {:?}, not [{len}]", info.dims)));
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
        let TensorInfo { format, dims, start, part, .. } = self.info(name)?;
        let info = gguf_file::TensorInfo {
            ggml_dtype: *format,
            shape: dims.as_slice().into(),
            offset: *start,
        };
        let mut file = self.parts[*part].file.borrow_mut();
        // Sizes that overflow when multiplied must not panic either.
        catch_unwind(AssertUnwindSafe(|| info.read(&mut *file, 0, device)))
            .unwrap_or_else(|_| Err(candle_core::Error::msg("impossible sizes")))
            .map_err(|e| self.unreadable(name, *part, &e))
    }

    /// An error about a tensor. What the library says is for the log.
    fn unreadable(&self, name: &str, part: usize, e: &dyn std::fmt::Display) -> Error {
        tracing::debug!("the tensor {name}: {e:#}");
        let reason = format!("the tensor {name} cannot be read; download the model again");
        format_error(&self.parts[part].path, reason)
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
        let fits = match info.dims[..] {
            [r, c] => c == cols && if padded { r >= rows } else { r == rows },
            _ => false,
        };
        if !fits {
            let dims = &info.dims;
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
        let rows = info.dims[0];
        let Some(kind) = formats::kernel(info.format) else {
            tracing::info!("{name} is {:?}: converting to 8 bits", info.format);
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
            return Err(self.bad(format!("{name} has impossible sizes")));
        }
        let part = &self.parts[info.part];
        let file: &File = &part.file.borrow();
        let start = info.start;
        Matrix::new(kind, rows, cols, |data| {
            // By several threads: most of the time goes into fresh memory and copies.
            const PART: usize = 1 << 20;
            data.par_chunks_mut(PART)
                .enumerate()
                .try_for_each(|(i, part)| read_at(file, part, start + (i * PART) as u64))
        })
        .map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => self.unreadable(name, info.part, &source),
            _ => Error::Read { path: part.path.clone(), source },
        })
    }
}

/// Whether two values are the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (a, b) => real(a).is_some_and(|a| Some(a) == real(b)),
    }
}

/// Whether an architecture has a tensor of this name.
fn is_known(name: &str, shape: &Shape) -> bool {
    if ["token_embd.weight", "output_norm.weight", "output.weight", ROPE_FACTORS].contains(&name) {
        return true;
    }
    let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
    else {
        return false;
    };
    let layer = layer.parse::<usize>().is_ok_and(|n| n < shape.layers && n.to_string() == layer);
    let norm = |part| NORMS.contains(&part) || (shape.head_norms && HEAD_NORMS.contains(&part));
    layer
        && match part.rsplit_once('.') {
            Some((part, "weight")) => LINEAR.contains(&part) || norm(part),
            Some((part, "bias")) => LINEAR.contains(&part),
            _ => false,
        }
}
