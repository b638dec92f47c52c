//! What a pass does to rows of activations between the products.
//!
//! Rows are independent of each other: what one becomes does not depend on those beside it.

use crate::TASK_VALUES;
use rayon::prelude::*;

/// Rows of `width` values that are worth another thread.
fn rows_of_task(width: usize) -> usize {
    (TASK_VALUES / width).max(1)
}

/// `x += y`.
///
/// # Panics
/// If they are not of one length.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "values to add");
    x.par_chunks_mut(TASK_VALUES).zip(y.par_chunks(TASK_VALUES)).for_each(|(x, y)| {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    });
}

/// Adds `y` to each row of `x`, which is `rows × y.len()`.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn add_to_each(x: &mut [f32], y: &[f32]) {
    assert!(!y.is_empty() && x.len().is_multiple_of(y.len()), "rows to add to");
    x.par_chunks_exact_mut(y.len()).with_min_len(rows_of_task(y.len())).for_each(|row| {
        for (value, y) in row.iter_mut().zip(y) {
            *value += y;
        }
    });
}

/// RMS norm of each row of `x`, which is `rows × weight.len()`; a row is a multiple of 8 wide.
///
/// # Panics
/// If `x` is no whole number of rows, or a row no whole number of eights.
#[must_use]
pub fn norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let (width, mut out) = (weight.len(), vec![0.0; x.len()]);
    assert!(width > 0 && width.is_multiple_of(8) && x.len().is_multiple_of(width), "rows to norm");
    let rows = x.par_chunks_exact(width).zip(out.par_chunks_exact_mut(width));
    rows.with_min_len(rows_of_task(width)).for_each(|(row, out)| {
        let mut lanes = [0.0f32; 8];
        for eight in row.chunks_exact(8) {
            for (lane, value) in lanes.iter_mut().zip(eight) {
                *lane += value * value;
            }
        }
        let mean = lanes.iter().sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        for ((out, x), w) in out.iter_mut().zip(row).zip(weight) {
            *out = x * scale * w;
        }
    });
    out
}

/// Rotary position embedding, in place: `x` is `rows × heads × width`, and `rotation` has the cosine and
/// the sine of each row's angles, `rows × width / 2`. The two that an angle rotates are neighbours, or
/// half a head apart.
///
/// # Panics
/// If the sizes do not fit together.
pub fn rotate(
    x: &mut [f32],
    heads: usize,
    width: usize,
    rotation: &[(f32, f32)],
    neighbours: bool,
) {
    let half = width / 2;
    let row = heads.checked_mul(width).expect("a countable width");
    assert!(row > 0 && width.is_multiple_of(2) && x.len().is_multiple_of(row), "rows to rotate");
    assert_eq!(Some(rotation.len()), (x.len() / row).checked_mul(half), "angles of each row");
    let rows = x.par_chunks_exact_mut(row).zip(rotation.par_chunks_exact(half));
    rows.with_min_len(rows_of_task(row)).for_each(|(row, angles)| {
        for head in row.chunks_exact_mut(width) {
            for (i, (cos, sin)) in angles.iter().enumerate() {
                let (a, b) = if neighbours { (2 * i, 2 * i + 1) } else { (i, i + half) };
                let (u, v) = (head[a], head[b]);
                head[a] = u * cos - v * sin;
                head[b] = u * sin + v * cos;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let refused = |work: &dyn Fn()| {
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
        };
        refused(&|| add(&mut [0.0; 3], &[1.0; 4]));
        refused(&|| add_to_each(&mut [0.0; 7], &[1.0; 4]));
        refused(&|| add_to_each(&mut [0.0; 7], &[]));
        refused(&|| drop(norm(&[0.0; 12], &[1.0; 8], 1e-6)));
        refused(&|| drop(norm(&[0.0; 12], &[1.0; 4], 1e-6)));
        refused(&|| rotate(&mut [0.0; 8], 1, 8, &[(1.0, 0.0); 3], true));
        refused(&|| rotate(&mut [0.0; 8], usize::MAX, 2, &[], true));
        let mut row = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut row, 1, 4, &[(0.0, 1.0), (1.0, 0.0)], true);
        assert_eq!(row, [-2.0, 1.0, 3.0, 4.0]);
        rotate(&mut row, 1, 4, &[(0.0, 1.0), (1.0, 0.0)], false);
        assert_eq!(row, [-3.0, 1.0, -2.0, 4.0]);
    }
}
