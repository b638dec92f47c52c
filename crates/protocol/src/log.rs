//! What may be logged.

use tracing::{Level, Metadata};

/// Whether an event may be written to a log. Libraries write whole frames and requests, with the words
/// and the token that are in them, at the levels below information: that is for nobody's log, whatever
/// `RUST_LOG` says.
#[must_use]
pub fn without_words(event: &Metadata<'_>) -> bool {
    *event.level() <= Level::INFO || event.target().starts_with("tandem")
}
