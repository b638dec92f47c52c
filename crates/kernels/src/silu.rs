//! The gate of the feed-forward layers, written once and compiled twice, as attention is.
#![allow(unsafe_code)] // Only to call a function compiled for AVX2 after the machine was found to have it.

use crate::attention::exp;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;
use rayon::prelude::*;

/// `gate = silu(gate) · up`, where `silu(x) = x / (1 + e^−x)`.
///
/// # Panics
/// If they are not of one length.
pub fn silu_times(isa: Isa, gate: &mut [f32], up: &[f32]) {
    const CHUNK: usize = 2048;
    assert_eq!(gate.len(), up.len(), "a gate for each value");
    gate.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(gate, up)| match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Level::Avx2` and `Level::Avx512` exist only on a machine with AVX2 and FMA.
        Level::Avx2 | Level::Avx512 => unsafe { chunk_avx2(gate, up) },
        // Plain Rust is vectorised for what every machine of the target has: NEON on aarch64.
        _ => chunk(gate, up),
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chunk_avx2(gate: &mut [f32], up: &[f32]) {
    chunk(gate, up);
}

#[inline(always)]
fn chunk(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        // e^−|x| never overflows, and serves both signs.
        let e = exp(-g.abs());
        let numerator = if *g < 0.0 { e } else { 1.0 };
        *g = *g * (numerator / (1.0 + e)) * u;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(not(target_arch = "x86_64"))]
    use crate::isa::Level;

    #[test]
    fn is_the_formula_everywhere() {
        let x: Vec<f32> = (-20_000..20_000).map(|i| i as f32 / 150.0).collect();
        let up: Vec<f32> = x.iter().map(|x| 0.5 + x.abs()).collect();
        let mut portable = x.clone();
        silu_times(Isa(Level::Portable), &mut portable, &up);
        for ((x, up), got) in x.iter().zip(&up).zip(&portable) {
            let right = f64::from(*x) / (1.0 + (-f64::from(*x)).exp()) * f64::from(*up);
            let error = (f64::from(*got) - right).abs();
            assert!(error <= right.abs() * 1e-6 + 1e-30, "{x}: {got} for {right}");
        }
        let mut here = x;
        silu_times(Isa::detect(), &mut here, &up);
        assert_eq!(here, portable);
    }
}
