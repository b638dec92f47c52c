//! Where the time of a start goes, in the log: when each phase was reached.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

static BEGAN: OnceLock<Instant> = OnceLock::new();
static REACHED: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// The program began.
pub(crate) fn begin() {
    BEGAN.get_or_init(Instant::now);
}

/// Something was reached; only the first time counts.
pub(crate) fn reached(what: &'static str) {
    {
        let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.contains(&what) {
            return;
        }
        reached.push(what);
    }
    let ms = BEGAN.get_or_init(Instant::now).elapsed().as_millis();
    tracing::info!(ms, "start: {what}");
}
