//! CPU kernels: quantised matrix products and attention.
//!
//! **Batch-invariant**: what is computed for one row of activations is the same sequence of
//! floating-point operations whether the row comes alone or with others. The kernels unpack a block
//! of quantised weights once and multiply it with several rows; each row has its own accumulator,
//! which sees its terms in the order of the blocks, always.
//!
//! Activations are quantised to 8 bits per row and block (as in ggml), so the inner loop is integer
//! multiply-add. `avx2.rs` is chosen when the machine has AVX2, FMA and F16C, at run time; otherwise
//! `portable.rs`, which the compiler vectorises for the target (NEON on aarch64).

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod matrix;
mod portable;
mod quantise;

pub(crate) use attention::{Attention, attend};
pub(crate) use matrix::{Kind, Matrix};
pub(crate) use quantise::Activations;

use rayon::prelude::*;

/// Which instructions the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX2, FMA and F16C on x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Isa {
    /// The best that this machine has.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            return Self::Avx2;
        }
        #[cfg(not(target_arch = "aarch64"))]
        tracing::warn!(
            "this processor has no AVX2 with FMA; the model runs on plain code, several times \
             slower. A machine with AVX2, a GPU build, or a smaller model helps"
        );
        Self::Portable
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "CPU (AVX2)",
            Self::Portable if cfg!(target_arch = "aarch64") => "CPU (NEON)",
            Self::Portable => "CPU (plain)",
        }
    }
}

/// Rows of activations that share one unpacking of the weights.
const TILE: usize = 8;

/// `out[m][n] = Σ_k x[m][k] · w[n][k]` for the first `n` rows of `w`; `out` has `x.rows() · n` values.
///
/// `scratch` is reused between calls.
pub(crate) fn matmul(
    isa: Isa,
    w: &Matrix,
    n: usize,
    x: &Activations,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let m = x.rows();
    assert!(n <= w.rows() && w.cols() == x.cols() && out.len() == m * n);
    if m == 1 {
        product(isa, w, x, out);
        return;
    }
    // Each task writes all rows of some columns: contiguous only when transposed.
    scratch.resize(m * n, 0.0);
    product(isa, w, x, scratch);
    let transposed: &[f32] = scratch;
    out.par_chunks_mut(n).enumerate().for_each(|(row, out)| {
        for (value, column) in out.iter_mut().zip(transposed.chunks_exact(m)) {
            *value = column[row];
        }
    });
}

/// As [`matmul`], with `out[n][m]`.
fn product(isa: Isa, w: &Matrix, x: &Activations, out: &mut [f32]) {
    let m = x.rows();
    // About 64 kB of weights a task: small enough to balance, large enough to hide the hand-over.
    let columns = (65_536 / w.row_bytes()).clamp(1, 64);
    out.par_chunks_mut(columns * m).enumerate().for_each(|(task, out)| {
        for (i, out) in out.chunks_exact_mut(m).enumerate() {
            let weights = w.row(task * columns + i);
            for (tile, out) in out.chunks_mut(TILE).enumerate() {
                row_tile(isa, w.kind(), weights, x, tile * TILE, out);
            }
        }
    });
}

/// One row of weights times `out.len()` (at most [`TILE`]) rows of activations from `first` on.
fn row_tile(isa: Isa, kind: Kind, weights: &[u8], x: &Activations, first: usize, out: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::row_tile(kind, weights, x, first, out),
        Isa::Portable => portable::row_tile(kind, weights, x, first, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn isas() -> Vec<Isa> {
        let mut all = vec![Isa::Portable];
        if Isa::detect() != Isa::Portable {
            all.push(Isa::detect());
        }
        all
    }

    #[test]
    fn every_format_agrees_with_dequantised_arithmetic() {
        let (n, k, m) = (7, 512, 11);
        let w = noise(n * k, 1);
        let x = noise(m * k, 2);
        for kind in Kind::ALL {
            let matrix = Matrix::quantise(*kind, n, k, &w).unwrap();
            let activations = Activations::new(x.clone(), k);
            for isa in isas() {
                let mut out = vec![0.0; m * n];
                matmul(isa, &matrix, n, &activations, &mut out, &mut Vec::new());
                let mut row = vec![0.0; k];
                for j in 0..n {
                    matrix.dequantise_row(j, &mut row);
                    for i in 0..m {
                        let exact: f64 = row
                            .iter()
                            .zip(&x[i * k..])
                            .map(|(w, x)| f64::from(*w) * f64::from(*x))
                            .sum();
                        let got = f64::from(out[i * n + j]);
                        // 512 products of size 1/3 with 8-bit activations: noise of about 0.03.
                        assert!((got - exact).abs() < 0.15, "{kind:?} {isa:?}: {got} {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_alone_and_in_a_batch_gives_the_same_bits() {
        let (n, k) = (33, 768);
        let w = noise(n * k, 3);
        let x = noise(19 * k, 4);
        for kind in Kind::ALL {
            let matrix = Matrix::quantise(*kind, n, k, &w).unwrap();
            for isa in isas() {
                let mut whole = vec![0.0; 19 * n];
                let all = Activations::new(x.clone(), k);
                matmul(isa, &matrix, n, &all, &mut whole, &mut Vec::new());
                for i in 0..19 {
                    let one = Activations::new(x[i * k..(i + 1) * k].to_vec(), k);
                    let mut alone = vec![0.0; n];
                    matmul(isa, &matrix, n, &one, &mut alone, &mut Vec::new());
                    assert_eq!(alone, whole[i * n..(i + 1) * n], "{kind:?} {isa:?} row {i}");
                }
            }
        }
    }
}
