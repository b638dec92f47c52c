//! Quantised weights as they are in the file.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};

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

/// A matrix of quantised weights, row by row; a row is what one output value needs.
pub(crate) struct Matrix {
    kind: Kind,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
}

impl Matrix {
    /// `data` holds `rows` rows of `cols / block` blocks. `None` when the sizes do not fit.
    pub(crate) fn new(kind: Kind, rows: usize, cols: usize, data: Vec<u8>) -> Option<Self> {
        let row_bytes = (cols / kind.block()).checked_mul(kind.bytes())?;
        let fits = cols > 0
            && cols.is_multiple_of(kind.block())
            && row_bytes.checked_mul(rows)? == data.len();
        fits.then_some(Self { kind, rows, cols, data })
    }

    /// Quantises `values` (`rows × cols`).
    pub(crate) fn quantise(kind: Kind, rows: usize, cols: usize, values: &[f32]) -> Result<Self> {
        let tensor = Tensor::from_slice(values, (rows, cols), &Device::Cpu)?;
        let quantised = QTensor::quantize(&tensor, kind.dtype())?;
        Self::new(kind, rows, cols, quantised.data()?.into_owned())
            .ok_or_else(|| candle_core::Error::msg("a quantised tensor of an unexpected size"))
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

    pub(crate) fn row(&self, i: usize) -> &[u8] {
        &self.data[i * self.row_bytes()..(i + 1) * self.row_bytes()]
    }

    /// Writes the weights of row `i` to `out`; used for token embeddings, which stay quantised.
    pub(crate) fn dequantise_row(&self, i: usize, out: &mut [f32]) {
        super::portable::dequantise(self.kind, self.row(i), out);
    }
}
