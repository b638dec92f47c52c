//! The header of one file, read with no trust in it: what it takes is bounded, and what is wrong is said.

use super::formats;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use std::collections::{BTreeMap, HashMap, btree_map, hash_map};
use std::io::{ErrorKind, Read};

/// Bytes of a header at most; those of known models have 20 MiB. A value of one byte in a file takes
/// 32 in memory, so this is what bounds what a header can take.
const MAX_HEADER: u64 = 48 << 20;
const MAX_DIMS: u32 = 4;
/// Lists in lists at most; known files have none.
const MAX_DEPTH: usize = 4;

/// Where a tensor is and what it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorInfo {
    pub format: GgmlDType,
    /// Rows first.
    pub dims: Vec<usize>,
    /// Weights.
    pub count: u64,
    /// Its first byte in its file.
    pub start: u64,
    pub bytes: u64,
    /// Which of the model's files has it.
    pub part: usize,
}

/// What a file says before its tensors.
pub(super) struct Header {
    pub values: HashMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// Why a header cannot be used.
pub(super) enum Fault {
    /// The system did not give the bytes.
    Read(std::io::Error),
    /// The file is no GGUF, or damaged.
    Damaged(String),
    /// The file may be whole, and is not for this program.
    Refused(String),
    /// A tensor is in a format that is not computed.
    Format { tensor: String, number: u32 },
}

impl Fault {
    fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged(reason.into())
    }
}

/// Reads a header; `len` is the size of the file.
pub(super) fn read(file: impl Read, len: u64) -> Result<Header, Fault> {
    let left = len.min(MAX_HEADER);
    let mut reader = Reader { inner: file, left, whole: left == len, wide: true, at: 0 };
    let magic = reader.bytes::<4>().map_err(|_| Fault::damaged("it is no GGUF file"))?;
    if &magic != b"GGUF" {
        return Err(Fault::damaged("it is no GGUF file"));
    }
    match reader.u32()? {
        1 => reader.wide = false,
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err(Fault::Refused(
                "it is for machines of another byte order (big-endian); choose the usual, \
                 little-endian file of this model"
                    .into(),
            ));
        }
        version => {
            return Err(Fault::Refused(format!(
                "it is GGUF of version {version}, and this program knows 1 to 3; choose another \
                 file, or a newer version of this program"
            )));
        }
    }
    let tensors = reader.length()?;
    let values = reader.length()?;
    // So much at least has each entry; more entries than fit are not begun.
    if values.saturating_mul(9).saturating_add(tensors.saturating_mul(20)) > reader.left {
        return Err(reader.too_long(&format!("{values} keys and {tensors} tensors")));
    }
    let values = reader.values(values)?;
    let alignment = match values.get("general.alignment") {
        None => 32,
        Some(value) => match super::whole(value) {
            Some(n @ 1..=65_536) if n.count_ones() == 1 => n as u64,
            _ => return Err(Fault::damaged("general.alignment makes no sense")),
        },
    };
    let mut tensors = reader.tensors(tensors)?;
    let data = reader.at.next_multiple_of(alignment);
    for (name, tensor) in &mut tensors {
        let start = data.checked_add(tensor.start);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(Fault::damaged(format!("the tensor {name} is at an impossible place")));
        };
        if end > len {
            return Err(Fault::damaged(format!(
                "the tensor {name} cannot be read (the file ends before it does)"
            )));
        }
        tensor.start = start;
    }
    Ok(Header { values, tensors })
}

struct Reader<R> {
    inner: R,
    /// Bytes that may still be read.
    left: u64,
    /// The file ends where `left` does.
    whole: bool,
    /// Lengths have 64 bits.
    wide: bool,
    at: u64,
}

impl<R: Read> Reader<R> {
    fn too_long(&self, what: &str) -> Fault {
        if self.whole {
            Fault::damaged(format!("it ends within its header, which claims {what}"))
        } else {
            let most = MAX_HEADER >> 20;
            Fault::damaged(format!(
                "its header claims {what}, more than the {most} MiB of any model"
            ))
        }
    }

    fn fill(&mut self, part: &mut [u8]) -> Result<(), Fault> {
        let bytes = part.len() as u64;
        if bytes > self.left {
            return Err(self.too_long("more than it has"));
        }
        self.inner.read_exact(part).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => Fault::damaged("it ends within its header"),
            _ => Fault::Read(e),
        })?;
        (self.left, self.at) = (self.left - bytes, self.at + bytes);
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn length(&mut self) -> Result<u64, Fault> {
        if self.wide { self.u64() } else { self.u32().map(u64::from) }
    }

    fn raw_text(&mut self) -> Result<Vec<u8>, Fault> {
        let len = self.length()?;
        if len > self.left {
            return Err(self.too_long(&format!("a text of {len} bytes")));
        }
        let mut text = vec![0; len as usize];
        self.fill(&mut text)?;
        Ok(text)
    }

    fn name(&mut self) -> Result<String, Fault> {
        let text = self.raw_text()?;
        String::from_utf8(text).map_err(|_| Fault::damaged("a name in its header is no text"))
    }

    fn values(&mut self, count: u64) -> Result<HashMap<String, Value>, Fault> {
        let mut values = HashMap::new();
        for _ in 0..count {
            let key = self.name()?;
            let kind = self.u32()?;
            let value = self.value(&key, kind, 0)?;
            match values.entry(key) {
                hash_map::Entry::Vacant(place) => place.insert(value),
                hash_map::Entry::Occupied(at) => {
                    return Err(Fault::damaged(format!("the key {} is there twice", at.key())));
                }
            };
        }
        Ok(values)
    }

    fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<Value, Fault> {
        Ok(match kind {
            0 => Value::U8(self.bytes::<1>()?[0]),
            1 => Value::I8(i8::from_le_bytes(self.bytes()?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes()?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.bytes()?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes()?)),
            7 => match self.bytes::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => {
                    return Err(Fault::damaged(format!("{key} is {other}, neither yes nor no")));
                }
            },
            8 => Value::String(self.text(key, depth == 0)?),
            9 => return self.list(key, depth),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.bytes()?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            other => {
                return Err(Fault::damaged(format!(
                    "{key} has a value of the unknown kind {other}"
                )));
            }
        })
    }

    fn text(&mut self, key: &str, alone: bool) -> Result<String, Fault> {
        let mut text = self.raw_text()?;
        if alone {
            // Some converters end a text with a zero.
            text.truncate(text.len() - text.iter().rev().take_while(|b| **b == 0).count());
        }
        match String::from_utf8(text) {
            Ok(text) => Ok(text),
            Err(_) if key.starts_with("tokenizer.") => {
                Err(Fault::damaged(format!("{key} holds bytes that are no text")))
            }
            // Descriptions, which nothing reads.
            Err(e) => Ok(String::from_utf8_lossy(e.as_bytes()).into_owned()),
        }
    }

    fn list(&mut self, key: &str, depth: usize) -> Result<Value, Fault> {
        if depth >= MAX_DEPTH {
            return Err(Fault::damaged(format!(
                "{key} has lists in lists beyond a depth of {depth}"
            )));
        }
        let kind = self.u32()?;
        let len = self.length()?;
        // Bytes of the smallest value of the kind.
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            10..=12 => 8,
            8 | 9 if self.wide => 8,
            _ => 4,
        };
        if len.saturating_mul(least) > self.left {
            return Err(self.too_long(&format!("{len} values of {key}")));
        }
        let mut values = Vec::new();
        for _ in 0..len {
            values.push(self.value(key, kind, depth + 1)?);
        }
        Ok(Value::Array(values))
    }

    /// With `start` counted from the beginning of the tensors.
    fn tensors(&mut self, count: u64) -> Result<BTreeMap<String, TensorInfo>, Fault> {
        let mut tensors = BTreeMap::new();
        for _ in 0..count {
            let name = self.name()?;
            let info = self.tensor(&name)?;
            match tensors.entry(name) {
                btree_map::Entry::Vacant(place) => place.insert(info),
                btree_map::Entry::Occupied(at) => {
                    return Err(Fault::damaged(format!("the tensor {} is there twice", at.key())));
                }
            };
        }
        Ok(tensors)
    }

    fn tensor(&mut self, name: &str) -> Result<TensorInfo, Fault> {
        let sizes = || Fault::damaged(format!("the tensor {name} has impossible sizes"));
        let dims = self.u32()?;
        if dims > MAX_DIMS {
            return Err(Fault::damaged(format!("the tensor {name} has {dims} dimensions")));
        }
        let mut dims = (0..dims).map(|_| self.length()).collect::<Result<Vec<_>, _>>()?;
        let inner = dims.first().copied().unwrap_or(1);
        dims.reverse();
        let count = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).ok_or_else(sizes)?;
        let number = self.u32()?;
        let start = self.u64()?;
        let Some(format) = formats::computed(number) else {
            return Err(Fault::Format { tensor: name.to_owned(), number });
        };
        let block = format.block_size() as u64;
        if !inner.is_multiple_of(block) {
            return Err(sizes());
        }
        let bytes = (count / block).checked_mul(format.type_size() as u64).ok_or_else(sizes)?;
        let dims = dims.into_iter().map(usize::try_from).collect::<Result<_, _>>();
        let dims = dims.map_err(|_| sizes())?;
        Ok(TensorInfo { format, dims, count, start, bytes, part: 0 })
    }
}
