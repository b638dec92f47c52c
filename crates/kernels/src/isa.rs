//! Which instructions this machine has.

#[cfg(target_arch = "aarch64")]
use crate::neon;
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};

/// The instructions that the kernels use on this machine. Whoever has one may run them: so only
/// [`Isa::detect`] makes one.
///
/// ```compile_fail,E0423
/// let isa = tandem_kernels::Isa(unreachable!());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(pub(crate) Level);

/// Sets of instructions that there are kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
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
    /// Whatever the compiler makes of plain Rust; weights are as in the file.
    Portable,
}

impl Isa {
    /// The best that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            let more = std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vnni");
            return Self(if more { Level::Avx512 } else { Level::Avx2 });
        }
        #[cfg(target_arch = "aarch64")]
        return Self(if std::arch::is_aarch64_feature_detected!("dotprod") {
            Level::NeonDot
        } else {
            Level::Neon
        });
        #[cfg(not(target_arch = "aarch64"))]
        {
            tracing::warn!(
                "this processor has no AVX2 with FMA; the model runs on plain code, several times \
                 slower. A machine with AVX2, a GPU build, or a smaller model helps"
            );
            Self(Level::Portable)
        }
    }

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "CPU (AVX-512)",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "CPU (AVX2)",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => "CPU (NEON with dot products)",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "CPU (NEON)",
            Level::Portable => "CPU (plain)",
        }
    }
}

impl Level {
    /// Columns of a product that a kernel gives at a time: rows of a packed group of weights.
    pub(crate) fn columns(self) -> usize {
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
}

/// What this machine has, the plain code first.
#[cfg(test)]
pub(crate) fn all() -> Vec<Isa> {
    let levels = match Isa::detect().0 {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => vec![Level::Portable, Level::Avx2, Level::Avx512],
        #[cfg(target_arch = "aarch64")]
        Level::NeonDot => vec![Level::Portable, Level::Neon, Level::NeonDot],
        Level::Portable => vec![Level::Portable],
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        best => vec![Level::Portable, best],
    };
    levels.into_iter().map(Isa).collect()
}
