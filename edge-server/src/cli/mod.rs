//! Commands that talk to a serving edge through its folder.

pub(crate) mod devices;
pub(crate) mod pair;

use std::path::PathBuf;
use tandem_edge::{StateError, StateFolder};

/// Where an edge keeps its certificate, its devices and the open pairing.
#[derive(clap::Args)]
pub(crate) struct State {
    /// The edge's folder for its certificate and its devices; the usual one when absent.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl State {
    pub(crate) fn open(&self) -> Result<StateFolder, StateError> {
        StateFolder::open(&self.state.clone().unwrap_or_else(StateFolder::default_path))
    }
}
