//! CPU kernels: quantised matrix products and attention.
//!
//! **Batch-invariant**: what is computed for one row of activations is the same sequence of
//! floating-point operations whether the row comes alone or with others. The kernels unpack a block
//! of quantised weights once and multiply it with several rows; each row has its own accumulator,
//! which sees its terms in the order of the blocks, always.
//!
//! Activations are quantised to 8 bits per row and block (as in ggml), so the inner loop is integer
//! multiply-add. `avx512.rs`, `avx2.rs` or `neon.rs` is chosen when the machine has what it needs, at
//! run time; otherwise `portable.rs`.

mod attention;
#[cfg(target_arch = "x86_64")]
mod attention_avx2;
#[cfg(target_arch = "aarch64")]
mod attention_neon;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod formats;
mod history;
mod matrix;
mod memory;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod portable;
mod quantise;
mod silu;

pub(crate) use attention::attend;
pub(crate) use history::History;
pub use history::KvFormat;
pub(crate) use matrix::{Kind, Matrix};
pub(crate) use quantise::Activations;
pub(crate) use silu::silu_times;

use rayon::prelude::*;

/// Which instructions the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 with 8-bit dot products (VNNI), and all of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C on x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON with 8-bit dot products on aarch64.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// NEON, which every aarch64 has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Whatever the compiler makes of plain Rust: on aarch64 for tests only.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code))]
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
            let more = std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vnni");
            return if more { Self::Avx512 } else { Self::Avx2 };
        }
        #[cfg(target_arch = "aarch64")]
        return if std::arch::is_aarch64_feature_detected!("dotprod") {
            Self::NeonDot
        } else {
            Self::Neon
        };
        #[cfg(not(target_arch = "aarch64"))]
        {
            tracing::warn!(
                "this processor has no AVX2 with FMA; the model runs on plain code, several times \
                 slower. A machine with AVX2, a GPU build, or a smaller model helps"
            );
            Self::Portable
        }
    }

    /// Columns of the product that a kernel gives at a time.
    fn columns(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::ROWS,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot | Self::Neon => neon::ROWS,
            Self::Portable => 1,
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "CPU (AVX-512)",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "CPU (AVX2)",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => "CPU (NEON with dot products)",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "CPU (NEON)",
            Self::Portable => "CPU (plain)",
        }
    }
}

/// Whether to ask for weights beforehand. Intel's own prefetch stops at the end of a page, and a step
/// with one row of activations waits for memory only, so it pays there; AMD's (Genoa) does better alone,
/// by a tenth of a step with one row and a fifth with five.
#[cfg(target_arch = "x86_64")]
static PREFETCH: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
    let vendor = std::arch::x86_64::__cpuid(0);
    (vendor.ebx, vendor.edx, vendor.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
});

/// Asks for as many weights as `group` has, `AHEAD` bytes further on.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse")]
fn prefetch<const AHEAD: usize>(group: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in 0..group.len().div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(AHEAD + 64 * line).cast());
    }
}

/// Most rows of activations that share one unpacking of the weights.
const TILE: usize = 8;
/// Weights of a task: little enough to balance and to stay in a second-level cache while tile after
/// tile of activations is multiplied with them, enough to hide the hand-over.
const TASK_BYTES: usize = 65_536;

/// Values that are worth another thread, in work that goes row by row or block by block.
pub(crate) const TASK_VALUES: usize = 16_384;
/// Values of a product that are put into their order at a time: they are still in a cache then.
const PANEL: usize = 1_048_576;

/// `out[m][n] = Σ_k x[m][k] · w[n][k]` for the first `n` rows of `w`; `out` has `x.rows() · n` values.
/// `w` is in the order for `isa`.
pub(crate) fn matmul(isa: Isa, w: &Matrix, n: usize, x: &Activations, out: &mut [f32]) {
    let m = x.rows();
    assert!(n <= w.rows() && w.cols() == x.cols() && out.len() == m * n);
    // Each task computes all rows of some columns, and the kernels give a few columns of a row at a
    // time: `columns` of them, and the values lie as `n/columns × m × columns` until a panel is there.
    let columns = isa.columns();
    let groups = (TASK_BYTES / (columns * w.row_bytes())).clamp(1, 64);
    if m == 1 && n.is_multiple_of(columns) {
        product(isa, w, (0, groups), x, out);
        return;
    }
    let panel = (PANEL / m).next_multiple_of(groups * columns);
    let mut scratch = vec![0.0; m * panel.min(n.next_multiple_of(columns))];
    for start in (0..n).step_by(panel) {
        let end = n.min(start + panel);
        let parts = &mut scratch[..m * (end - start).next_multiple_of(columns)];
        product(isa, w, (start / columns, groups), x, parts);
        let parts: &[f32] = parts;
        out.par_chunks_mut(n).enumerate().for_each(|(row, out)| {
            let parts = parts.chunks_exact(m * columns);
            for (out, all) in out[start..end].chunks_mut(columns).zip(parts) {
                out.copy_from_slice(&all[row * columns..][..out.len()]);
            }
        });
    }
}

/// As [`matmul`] from the `first`-th few columns on, with `out[n / columns][m][columns]`; a task takes
/// `groups` times as many columns.
fn product(
    isa: Isa,
    w: &Matrix,
    (start, groups): (usize, usize),
    x: &Activations,
    out: &mut [f32],
) {
    let (m, columns) = (x.rows(), isa.columns());
    // Tiles as even as can be: a last tile of one row would unpack all weights for itself alone.
    let tile = m.div_ceil(m.div_ceil(TILE));
    out.par_chunks_mut(groups * columns * m).enumerate().for_each(|(task, out)| {
        for first in (0..m).step_by(tile) {
            for (i, out) in out.chunks_exact_mut(columns * m).enumerate() {
                let last = (first + tile).min(m);
                let out = &mut out[first * columns..last * columns];
                one_tile(isa, w, start + task * groups + i, x, first, out);
            }
        }
    });
}

/// The `group`-th few columns for at most [`TILE`] rows of activations from `first` on.
fn one_tile(isa: Isa, w: &Matrix, group: usize, x: &Activations, first: usize, out: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            let weights = w.group(group).expect("ordered for AVX-512");
            avx512::tile(w.kind(), weights, x, first, out);
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            let weights = w.group(group).expect("ordered for AVX2");
            avx2::tile(w.kind(), weights, x, first, out);
        }
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot | Isa::Neon => {
            let weights = w.group(group).expect("ordered for NEON");
            neon::tile((isa == Isa::NeonDot, w.kind()), weights, x, first, out);
        }
        Isa::Portable => {
            let weights = w.row(group).expect("ordered for plain code");
            portable::row_tile(w.kind(), weights, x, first, out);
        }
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
        match Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => vec![Isa::Portable, Isa::Avx2, Isa::Avx512],
            Isa::Portable => vec![Isa::Portable],
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => vec![Isa::Portable, Isa::Neon, Isa::NeonDot],
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            best => vec![Isa::Portable, best],
        }
    }

    #[test]
    fn every_format_agrees_with_dequantised_arithmetic() {
        let (n, k, m) = (7, 512, 11);
        let w = noise(n * k, 1);
        let x = noise(m * k, 2);
        for kind in Kind::ALL {
            let plain = Matrix::quantise(*kind, n, k, &w).unwrap();
            let activations = Activations::new(x.clone(), k);
            for isa in isas() {
                let matrix = Matrix::quantise(*kind, n, k, &w).unwrap().ordered_for(isa);
                let mut out = vec![0.0; m * n];
                matmul(isa, &matrix, n, &activations, &mut out);
                let mut row = vec![0.0; k];
                for j in 0..n {
                    plain.dequantise_row(j, &mut row);
                    let mut packed = vec![0.0; k];
                    matrix.dequantise_row(j, &mut packed);
                    assert_eq!(packed, row);
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

    /// What these kernels do with floats is what plain code does.
    #[cfg(target_arch = "aarch64")]
    #[test]
    fn neon_gives_the_bits_of_plain_code() {
        let (n, k, m) = (37, 1024, 13);
        let (w, x) = (noise(n * k, 5), noise(m * k, 6));
        for kind in Kind::ALL {
            let activations = Activations::new(x.clone(), k);
            let mut found = isas().into_iter().map(|isa| {
                let matrix = Matrix::quantise(*kind, n, k, &w).unwrap().ordered_for(isa);
                let mut out = vec![0.0; m * n];
                matmul(isa, &matrix, n, &activations, &mut out);
                (isa, out)
            });
            let (_, plain) = found.next().unwrap();
            for (isa, out) in found {
                assert_eq!(out, plain, "{kind:?} {isa:?}");
            }
        }
        println!("computed on {}", Isa::detect().name());
    }

    #[test]
    fn a_row_alone_and_in_a_batch_gives_the_same_bits() {
        for kind in Kind::ALL {
            for isa in isas() {
                alone_and_in_a_batch(*kind, isa, [33, 768, 19]);
            }
        }
    }

    /// More values than are put into their order at a time.
    #[test]
    fn a_row_alone_and_in_several_panels_gives_the_same_bits() {
        let (n, m) = (27_001, 40);
        assert!(n > PANEL / m + TASK_BYTES / 256, "they are one panel");
        for isa in isas() {
            alone_and_in_a_batch(Kind::Q8_0, isa, [n, 256, m]);
        }
    }

    fn alone_and_in_a_batch(kind: Kind, isa: Isa, [n, k, m]: [usize; 3]) {
        let (w, x) = (noise(n * k, 3), noise(m * k, 4));
        let matrix = Matrix::quantise(kind, n, k, &w).unwrap().ordered_for(isa);
        let mut whole = vec![0.0; m * n];
        let all = Activations::new(x.clone(), k);
        matmul(isa, &matrix, n, &all, &mut whole);
        for i in 0..m {
            let one = Activations::new(x[i * k..(i + 1) * k].to_vec(), k);
            let mut alone = vec![0.0; n];
            matmul(isa, &matrix, n, &one, &mut alone);
            assert_eq!(alone, whole[i * n..(i + 1) * n], "{kind:?} {isa:?} row {i}");
        }
    }
}
