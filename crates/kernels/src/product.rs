//! Matrix products: cut into tasks, and put into their order.

use crate::isa::Level;
#[cfg(target_arch = "aarch64")]
use crate::neon;
use crate::{Activations, Matrix, portable};
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};
use rayon::prelude::*;

/// Whether to ask for weights beforehand. Intel's own prefetch stops at the end of a page, and a step
/// with one row of activations waits for memory only, so it pays there; AMD's (Genoa) does better alone,
/// by a tenth of a step with one row and a fifth with five.
#[cfg(target_arch = "x86_64")]
pub(crate) static PREFETCH: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
    let vendor = std::arch::x86_64::__cpuid(0);
    (vendor.ebx, vendor.edx, vendor.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
});

/// Asks for as many weights as `group` has, `AHEAD` bytes further on.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse")]
pub(crate) fn prefetch<const AHEAD: usize>(group: &[u8]) {
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

/// Values of a product that are put into their order at a time: they are still in a cache then.
const PANEL: usize = 1_048_576;

/// `out[m][n] = Σ_k x[m][k] · w[n][k]` for the first `n` rows of `w`, with the instructions that `w` is
/// ordered for; `out` has `x.rows() · n` values.
///
/// # Panics
/// If the sizes do not fit together.
pub fn matmul(w: &Matrix, n: usize, x: &Activations, out: &mut [f32]) {
    let m = x.rows();
    assert!(n <= w.rows() && w.cols() == x.cols(), "sizes of a product");
    assert_eq!(Some(out.len()), m.checked_mul(n), "values of a product");
    if out.is_empty() {
        return;
    }
    // Each task computes all rows of some columns, and the kernels give a few columns of a row at a
    // time: `columns` of them, and the values lie as `n/columns × m × columns` until a panel is there.
    let columns = w.level().columns();
    let groups = (TASK_BYTES / (columns * w.row_bytes())).clamp(1, 64);
    if m == 1 && n.is_multiple_of(columns) {
        product(w, (0, groups), x, out);
        return;
    }
    let panel = (PANEL / m).next_multiple_of(groups * columns);
    let mut scratch = vec![0.0; m * panel.min(n.next_multiple_of(columns))];
    for start in (0..n).step_by(panel) {
        let end = n.min(start + panel);
        let parts = &mut scratch[..m * (end - start).next_multiple_of(columns)];
        product(w, (start / columns, groups), x, parts);
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
fn product(w: &Matrix, (start, groups): (usize, usize), x: &Activations, out: &mut [f32]) {
    let (m, columns) = (x.rows(), w.level().columns());
    // Tiles as even as can be: a last tile of one row would unpack all weights for itself alone.
    let tile = m.div_ceil(m.div_ceil(TILE));
    out.par_chunks_mut(groups * columns * m).enumerate().for_each(|(task, out)| {
        for first in (0..m).step_by(tile) {
            for (i, out) in out.chunks_exact_mut(columns * m).enumerate() {
                let last = (first + tile).min(m);
                let out = &mut out[first * columns..last * columns];
                one_tile(w, start + task * groups + i, x, first, out);
            }
        }
    });
}

/// The `group`-th few columns for at most [`TILE`] rows of activations from `first` on.
fn one_tile(w: &Matrix, group: usize, x: &Activations, first: usize, out: &mut [f32]) {
    let (kind, weights) = (w.kind(), w.group(group));
    match w.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::tile(kind, weights, x, first, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::tile(kind, weights, x, first, out),
        #[cfg(target_arch = "aarch64")]
        Level::NeonDot => neon::tile((true, kind), weights, x, first, out),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => neon::tile((false, kind), weights, x, first, out),
        Level::Portable => portable::row_tile(kind, weights, x, first, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Kind, isa, matrix};

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn every_format_agrees_with_dequantised_arithmetic() {
        let (n, k, m) = (7, 512, 11);
        let w = noise(n * k, 1);
        let x = noise(m * k, 2);
        for kind in Kind::ALL {
            let plain = matrix::quantised(*kind, n, k, &w);
            let activations = Activations::new(x.clone(), k);
            for isa in isa::all() {
                let matrix = matrix::quantised(*kind, n, k, &w).ordered_for(isa);
                let mut out = vec![0.0; m * n];
                matmul(&matrix, n, &activations, &mut out);
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
            let mut found = isa::all().into_iter().map(|isa| {
                let matrix = matrix::quantised(*kind, n, k, &w).ordered_for(isa);
                let mut out = vec![0.0; m * n];
                matmul(&matrix, n, &activations, &mut out);
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
            for isa in isa::all() {
                alone_and_in_a_batch(*kind, isa, [33, 768, 19]);
            }
        }
    }

    /// More values than are put into their order at a time.
    #[test]
    fn a_row_alone_and_in_several_panels_gives_the_same_bits() {
        let (n, m) = (27_001, 40);
        assert!(n > PANEL / m + TASK_BYTES / 256, "they are one panel");
        for isa in isa::all() {
            alone_and_in_a_batch(Kind::Q8_0, isa, [n, 256, m]);
        }
    }

    /// Whatever is given, it is refused and nothing outside is read or written.
    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let w = matrix::quantised(Kind::Q4_0, 8, 64, &noise(512, 7)).ordered_for(Isa::detect());
        let refused = |rows: usize, cols: usize, n: usize, len: usize| {
            let product = || {
                let x = Activations::new(vec![1.0; rows * cols], cols);
                matmul(&w, n, &x, &mut vec![0.0; len]);
            };
            assert!(std::panic::catch_unwind(product).is_err(), "{rows} × {cols}, {n}, {len}");
        };
        refused(1, 96, 8, 8);
        refused(1, 64, 9, 9);
        refused(2, 64, 8, 15);
        refused(2, 64, usize::MAX / 2 + 1, 0);
        refused(1, 40, 8, 8);
        refused(1, 0, 8, 8);
        matmul(&w, 8, &Activations::new(Vec::new(), 64), &mut []);
        matmul(&w, 0, &Activations::new(vec![1.0; 64], 64), &mut []);
    }

    fn alone_and_in_a_batch(kind: Kind, isa: Isa, [n, k, m]: [usize; 3]) {
        let (w, x) = (noise(n * k, 3), noise(m * k, 4));
        let matrix = matrix::quantised(kind, n, k, &w).ordered_for(isa);
        let mut whole = vec![0.0; m * n];
        let all = Activations::new(x.clone(), k);
        matmul(&matrix, n, &all, &mut whole);
        for i in 0..m {
            let one = Activations::new(x[i * k..(i + 1) * k].to_vec(), k);
            let mut alone = vec![0.0; n];
            matmul(&matrix, n, &one, &mut alone);
            assert_eq!(alone, whole[i * n..(i + 1) * n], "{kind:?} {isa:?} row {i}");
        }
    }
}
