//! Quantised weights as they are in the file.

use crate::isa::{Isa, Level};
use crate::memory::Bytes;
#[cfg(target_arch = "aarch64")]
use crate::neon;
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};
use crate::{packed, portable};
use std::io;

/// The block formats that have a kernel, by their names in ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Weights in a block.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

/// A matrix of quantised weights; a row is what one output value needs.
pub struct Matrix {
    kind: Kind,
    rows: usize,
    cols: usize,
    /// Row after row as in the file, or [packed](crate::packed) with rows added to fill a group.
    data: Bytes,
    /// Whose order the weights are in; plain code reads them as in the file.
    level: Level,
}

impl Matrix {
    /// `fill` writes `rows` rows of `cols / block` blocks.
    ///
    /// # Errors
    /// If there is no memory, or `fill` fails.
    ///
    /// # Panics
    /// If `cols` is no whole number of blocks, or the bytes of all rows cannot be counted.
    pub fn new(
        kind: Kind,
        rows: usize,
        cols: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        assert!(cols > 0 && cols.is_multiple_of(kind.block()), "{cols} columns of {kind:?}");
        let row_bytes = cols / kind.block() * kind.bytes();
        // With room for whole groups.
        let room = rows.checked_next_multiple_of(packed::MOST_ROWS);
        let len = room.and_then(|rows| rows.checked_mul(row_bytes)).expect("a countable size");
        let mut data = Bytes::zeroed(len)?;
        fill(&mut data[..rows * row_bytes])?;
        Ok(Self { kind, rows, cols, data, level: Level::Portable })
    }

    /// The same weights in the order that the kernels of `isa` read.
    #[must_use]
    pub fn ordered_for(mut self, isa: Isa) -> Self {
        if self.level == Level::Portable {
            let (kind, row_bytes) = (self.kind, self.row_bytes());
            match isa.0 {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => packed::pack::<{ avx512::ROWS }>(kind, row_bytes, &mut self.data),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => packed::pack::<{ avx2::ROWS }>(kind, row_bytes, &mut self.data),
                #[cfg(target_arch = "aarch64")]
                Level::NeonDot | Level::Neon => {
                    packed::pack::<{ neon::ROWS }>(kind, row_bytes, &mut self.data);
                }
                Level::Portable => {}
            }
            self.level = isa.0;
        }
        self
    }

    /// The format of its blocks.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Values that a row of activations gives.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Weights of a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.cols / self.kind.block() * self.kind.bytes()
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Group `i` of as many rows as the kernels take at a time, packed when that is more than one.
    pub(crate) fn group(&self, i: usize) -> &[u8] {
        let bytes = self.level.columns() * self.row_bytes();
        &self.data[i * bytes..][..bytes]
    }

    /// Writes the weights of row `i` to `out`; used for token embeddings, which stay quantised.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as one.
    pub fn dequantise_row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.rows && out.len() == self.cols, "row {i} of {}", self.rows);
        let (kind, rows) = (self.kind, self.level.columns());
        let group = self.group(i / rows);
        if rows == 1 {
            return portable::dequantise(kind, group, out);
        }
        let mut block = vec![0; kind.bytes()];
        for (b, out) in out.chunks_exact_mut(kind.block()).enumerate() {
            packed::unpack(kind, group, rows, (b, i % rows), &mut block);
            portable::dequantise(kind, &block, out);
        }
    }
}

/// `values` (`rows × cols`) as a file has them.
#[cfg(test)]
pub(crate) fn quantised(kind: Kind, rows: usize, cols: usize, values: &[f32]) -> Matrix {
    use candle_core::quantized::{GgmlDType, QTensor};
    let dtype = match kind {
        Kind::Q4_0 => GgmlDType::Q4_0,
        Kind::Q4_1 => GgmlDType::Q4_1,
        Kind::Q5_0 => GgmlDType::Q5_0,
        Kind::Q5_1 => GgmlDType::Q5_1,
        Kind::Q8_0 => GgmlDType::Q8_0,
        Kind::Q4K => GgmlDType::Q4K,
        Kind::Q5K => GgmlDType::Q5K,
        Kind::Q6K => GgmlDType::Q6K,
    };
    assert_eq!((kind.block(), kind.bytes()), (dtype.block_size(), dtype.type_size()));
    let cpu = candle_core::Device::Cpu;
    let tensor = candle_core::Tensor::from_slice(values, (rows, cols), &cpu).unwrap();
    let tensor = QTensor::quantize(&tensor, dtype).unwrap();
    let fill = |bytes: &mut [u8]| {
        bytes.copy_from_slice(&tensor.data().unwrap());
        Ok(())
    };
    Matrix::new(kind, rows, cols, fill).unwrap()
}
