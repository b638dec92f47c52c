//! Quantised weights as they are in the file.

use super::memory::Bytes;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{Isa, packed, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};
use std::io;

/// The block formats that have a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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
    #[cfg(test)]
    pub(crate) const ALL: &[Self] = &[
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The kernel's format for a file's; `None` when there is none.
    pub(crate) fn of(dtype: GgmlDType) -> Option<Self> {
        Some(match dtype {
            GgmlDType::Q4_0 => Self::Q4_0,
            GgmlDType::Q4_1 => Self::Q4_1,
            GgmlDType::Q5_0 => Self::Q5_0,
            GgmlDType::Q5_1 => Self::Q5_1,
            GgmlDType::Q8_0 => Self::Q8_0,
            GgmlDType::Q4K => Self::Q4K,
            GgmlDType::Q5K => Self::Q5K,
            GgmlDType::Q6K => Self::Q6K,
            _ => return None,
        })
    }

    fn dtype(self) -> GgmlDType {
        match self {
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }

    /// Weights in a block.
    pub(crate) fn block(self) -> usize {
        self.dtype().block_size()
    }

    /// Bytes of a block.
    pub(crate) fn bytes(self) -> usize {
        self.dtype().type_size()
    }
}

/// A matrix of quantised weights; a row is what one output value needs.
pub(crate) struct Matrix {
    kind: Kind,
    rows: usize,
    cols: usize,
    /// Row after row as in the file, or [packed](super::packed) with rows added to fill a group.
    data: Bytes,
    /// Rows of a group when packed.
    packed: Option<usize>,
}

impl Matrix {
    /// `fill` writes `rows` rows of `cols / block` blocks.
    ///
    /// # Errors
    /// If there is no memory, or `fill` fails.
    ///
    /// # Panics
    /// If `cols` is no whole number of blocks.
    pub(crate) fn new(
        kind: Kind,
        rows: usize,
        cols: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        assert!(cols.is_multiple_of(kind.block()), "{cols} columns of {kind:?}");
        let row_bytes = cols / kind.block() * kind.bytes();
        // With room for whole groups.
        let mut data = Bytes::zeroed(rows.next_multiple_of(packed::MOST_ROWS) * row_bytes)?;
        fill(&mut data[..rows * row_bytes])?;
        Ok(Self { kind, rows, cols, data, packed: None })
    }

    /// Quantises `values` (`rows × cols`).
    pub(crate) fn quantise(kind: Kind, rows: usize, cols: usize, values: &[f32]) -> Result<Self> {
        let tensor = Tensor::from_slice(values, (rows, cols), &Device::Cpu)?;
        let quantised = QTensor::quantize(&tensor, kind.dtype())?;
        let data = quantised.data()?;
        Ok(Self::new(kind, rows, cols, |bytes| {
            bytes.copy_from_slice(&data);
            Ok(())
        })?)
    }

    /// The same weights in the order that the kernels of `isa` read.
    pub(crate) fn ordered_for(mut self, isa: Isa) -> Self {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if self.packed.is_none() {
            let (kind, row_bytes) = (self.kind, self.row_bytes());
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => packed::pack::<{ avx512::ROWS }>(kind, row_bytes, &mut self.data),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => packed::pack::<{ avx2::ROWS }>(kind, row_bytes, &mut self.data),
                #[cfg(target_arch = "aarch64")]
                Isa::NeonDot | Isa::Neon => {
                    packed::pack::<{ neon::ROWS }>(kind, row_bytes, &mut self.data);
                }
                Isa::Portable => return self,
            }
            self.packed = Some(isa.columns());
        }
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.cols / self.kind.block() * self.kind.bytes()
    }

    /// Row `i` as in the file, when the matrix is not packed.
    pub(super) fn row(&self, i: usize) -> Option<&[u8]> {
        self.packed.is_none().then(|| &self.data[i * self.row_bytes()..][..self.row_bytes()])
    }

    /// Group `i` of packed rows, when the matrix is packed.
    pub(super) fn group(&self, i: usize) -> Option<&[u8]> {
        let bytes = self.packed? * self.row_bytes();
        Some(&self.data[i * bytes..][..bytes])
    }

    /// Writes the weights of row `i` to `out`; used for token embeddings, which stay quantised.
    pub(crate) fn dequantise_row(&self, i: usize, out: &mut [f32]) {
        let kind = self.kind;
        if let Some(row) = self.row(i) {
            return portable::dequantise(kind, row, out);
        }
        let rows = self.packed.expect("not by rows, so packed");
        let group = self.group(i / rows).expect("packed");
        let mut block = vec![0; kind.bytes()];
        for (b, out) in out.chunks_exact_mut(kind.block()).enumerate() {
            packed::unpack(kind, group, rows, (b, i % rows), &mut block);
            portable::dequantise(kind, &block, out);
        }
    }
}
