//! What can go wrong with model files.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the store failed. The text says what to do next.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{path}: {source}; check free space and permissions, then try again")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No source worked.
    #[error(
        "cannot download {name}: {reason}; check the connection and try again, it goes on where it was"
    )]
    Network {
        /// Which model.
        name: String,
        /// What each source said.
        reason: String,
    },
    /// The disk is too full.
    #[error(
        "{name} needs {} MB more on the disk, and {} MB are free; delete something and try again",
        .needed / 1_000_000,
        .free / 1_000_000
    )]
    Space {
        /// Which model.
        name: String,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// What came is not the file that was wanted.
    #[error("{name} came with a wrong checksum and was deleted; download it again")]
    Checksum {
        /// Which model.
        name: String,
    },
    /// The caller cancelled.
    #[error("cancelled; what was downloaded is kept")]
    Cancelled,
    /// A program computes with the file.
    #[error("{0} is in use by a running Tandem; choose another model or end that program first")]
    InUse(String),
    /// A file that is no usable model.
    #[error(transparent)]
    Model(#[from] crate::Error),
    /// No such model or file.
    #[error("{0}")]
    Unknown(String),
}

pub(super) fn io_at(path: &Path) -> impl Fn(io::Error) -> StoreError + '_ {
    move |source| StoreError::Io { path: path.to_owned(), source }
}
