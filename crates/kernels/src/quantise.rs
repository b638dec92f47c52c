//! Activations, quantised to 8 bits.

use crate::TASK_VALUES;
use rayon::prelude::*;
use std::sync::OnceLock;

/// Rows of activations with the quantised forms that the kernels need, made on first use and shared
/// by all matrices that multiply the same activations.
pub struct Activations {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
    by32: OnceLock<By32>,
    by256: OnceLock<By256>,
}

/// Blocks of 32 with a scale each.
pub(crate) struct By32 {
    /// `rows × cols`.
    pub q: Vec<i8>,
    /// `rows × cols/32`: value = scale · q.
    pub scale: Vec<f32>,
    /// `rows × cols/32`: Σ q, for weights with an offset.
    pub sums: Vec<i32>,
}

/// Blocks of 256 with a scale each.
pub(crate) struct By256 {
    /// `rows × cols`.
    pub q: Vec<i8>,
    /// `rows × cols/256`.
    pub scale: Vec<f32>,
    /// `rows × cols/16`: Σ q of each sixteen.
    pub sums16: Vec<i16>,
    /// `rows × cols/32`: Σ q of each 32.
    pub sums32: Vec<i16>,
}

impl Activations {
    /// `values` holds whole rows of `cols`, a multiple of 32.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn new(values: Vec<f32>, cols: usize) -> Self {
        assert!(cols > 0 && cols.is_multiple_of(32) && values.len().is_multiple_of(cols));
        let rows = values.len() / cols;
        Self { values, rows, cols, by32: OnceLock::new(), by256: OnceLock::new() }
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Gives the values' memory back for reuse.
    #[must_use]
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    pub(crate) fn by32(&self) -> &By32 {
        self.by32.get_or_init(|| {
            let mut q = vec![0; self.values.len()];
            let blocks = self.values.len() / 32;
            let (mut scale, mut sums) = (vec![0.0; blocks], vec![0; blocks]);
            self.values
                .par_chunks(TASK_VALUES)
                .zip(q.par_chunks_mut(TASK_VALUES))
                .zip(scale.par_chunks_mut(TASK_VALUES / 32))
                .zip(sums.par_chunks_mut(TASK_VALUES / 32))
                .for_each(|(((x, q), scale), sums)| {
                    let blocks = x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0);
                    for ((x, q), (scale, sum)) in blocks.zip(scale.iter_mut().zip(sums)) {
                        *scale = quantise(x, q);
                        *sum = q.iter().map(|&q| i32::from(q)).sum();
                    }
                });
            By32 { q, scale, sums }
        })
    }

    pub(crate) fn by256(&self) -> &By256 {
        self.by256.get_or_init(|| {
            let mut q = vec![0; self.values.len()];
            let blocks = self.values.len() / 256;
            let mut scale = vec![0.0; blocks];
            let (mut sums16, mut sums32) = (vec![0; blocks * 16], vec![0; blocks * 8]);
            self.values
                .par_chunks(TASK_VALUES)
                .zip(q.par_chunks_mut(TASK_VALUES))
                .zip(scale.par_chunks_mut(TASK_VALUES / 256))
                .zip(sums16.par_chunks_mut(TASK_VALUES / 16))
                .zip(sums32.par_chunks_mut(TASK_VALUES / 32))
                .for_each(|((((x, q), scale), sums16), sums32)| {
                    let blocks = x.as_chunks::<256>().0.iter().zip(q.as_chunks_mut::<256>().0);
                    for ((x, q), scale) in blocks.zip(scale) {
                        *scale = quantise(x, q);
                    }
                    for (q, sum) in q.as_chunks::<16>().0.iter().zip(sums16.iter_mut()) {
                        *sum = q.iter().map(|&q| i16::from(q)).sum();
                    }
                    for ([a, b], sum) in sums16.as_chunks::<2>().0.iter().zip(sums32) {
                        *sum = a + b;
                    }
                });
            By256 { q, scale, sums16, sums32 }
        })
    }
}

/// Rounds `x` to `q` in −127..=127 and returns the scale.
pub(crate) fn quantise(x: &[f32], q: &mut [i8]) -> f32 {
    // Eight maxima next to each other, so that the compiler can use vector instructions.
    let mut lanes = [0.0f32; 8];
    for eight in x.as_chunks::<8>().0 {
        for (max, x) in lanes.iter_mut().zip(eight) {
            *max = if x.abs() > *max { x.abs() } else { *max };
        }
    }
    let max = lanes.iter().fold(0.0f32, |max, x| max.max(*x));
    let scale = max / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (x, q) in x.iter().zip(q) {
        // Adding and subtracting 1.5·2²³ rounds to nearest even without a call.
        const ROUND: f32 = 12_582_912.0;
        *q = ((x * inverse + ROUND) - ROUND) as i8;
    }
    scale
}
