//! How far counts are from what they should be.

/// Pearson's chi-square of `counts` against `probabilities`, as a standard normal deviate
/// (Wilson-Hilferty): about 0 ± 1 when they agree. Cells in which fewer than five are expected are
/// put together; an outcome of probability 0 is infinitely far.
pub fn chi_square(counts: &[u64], probabilities: &[f64]) -> f64 {
    assert_eq!(counts.len(), probabilities.len());
    let n = counts.iter().sum::<u64>() as f64;
    let mut cells = vec![(0.0, 0.0)];
    for (&count, &p) in counts.iter().zip(probabilities) {
        if p == 0.0 && count > 0 {
            return f64::INFINITY;
        }
        if p * n >= 5.0 {
            cells.push((count as f64, p * n));
        } else {
            cells[0].0 += count as f64;
            cells[0].1 += p * n;
        }
    }
    cells.retain(|c| c.1 > 1e-3);
    assert!(cells.len() > 1, "too few counts to test anything");
    let statistic = cells.iter().map(|(seen, expected)| (seen - expected).powi(2) / expected).sum();
    deviate(statistic, cells.len() - 1)
}

/// The same for two sets of counts that should come from one distribution.
pub fn homogeneity(a: &[u64], b: &[u64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let (n, m) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
    let mut cells = vec![(0.0, 0.0)];
    for (&a, &b) in a.iter().zip(b) {
        if (a + b) as f64 >= 10.0 {
            cells.push((a as f64, b as f64));
        } else {
            cells[0].0 += a as f64;
            cells[0].1 += b as f64;
        }
    }
    cells.retain(|(a, b)| a + b > 0.0);
    let statistic = cells
        .iter()
        .map(|(a, b)| ((m / n).sqrt() * a - (n / m).sqrt() * b).powi(2) / (a + b))
        .sum();
    deviate(statistic, cells.len() - 1)
}

fn deviate(statistic: f64, freedom: usize) -> f64 {
    let v = 2.0 / (9.0 * freedom as f64);
    ((statistic / freedom as f64).cbrt() - (1.0 - v)) / v.sqrt()
}

/// Total variation distance between the shares of `counts` and `probabilities`, in `[0, 1]`.
pub fn distance(counts: &[u64], probabilities: &[f64]) -> f64 {
    let n = counts.iter().sum::<u64>() as f64;
    counts.iter().zip(probabilities).map(|(&c, p)| (c as f64 / n - p).abs()).sum::<f64>() / 2.0
}
