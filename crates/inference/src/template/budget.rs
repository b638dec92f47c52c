//! What a template may use up: each operation weighs its operands first and pays for them.

use super::{MAX_DEPTH, NODE, refused, too_much};
use minijinja::value::ValueKind;
use minijinja::{Error, Value};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a template may still use up.
pub(super) struct Budget {
    /// Weight of one value at most.
    pub(super) value: usize,
    pub(super) left: AtomicUsize,
}

impl Budget {
    /// The weight of a value: its text and its parts. Walks no further than the limit.
    pub(super) fn weigh(&self, value: &Value) -> Result<usize, Error> {
        let mut weight = 0;
        let mut rest = vec![(value.clone(), 0)];
        while let Some((value, depth)) = rest.pop() {
            weight += NODE + value.as_str().map_or(0, str::len);
            if weight > self.value || depth > MAX_DEPTH {
                return Err(too_much());
            }
            let Some(object) = value.as_object() else { continue };
            // One that is part of a value could come to hold that value.
            if object.type_name().ends_with("Namespace") {
                return Err(refused("it uses a namespace as a value"));
            }
            let parts: Box<dyn Iterator<Item = Value>> = match value.kind() {
                ValueKind::Seq | ValueKind::Iterable => Box::new(value.try_iter()?),
                ValueKind::Map => {
                    let pairs = object.try_iter_pairs().into_iter().flatten();
                    Box::new(pairs.flat_map(|(key, value)| [key, value]))
                }
                _ => continue,
            };
            for part in parts {
                rest.push((part, depth + 1));
                if weight + rest.len() * NODE > self.value {
                    return Err(too_much());
                }
            }
        }
        Ok(weight)
    }

    /// Weighs values and pays for them.
    pub(super) fn pay<'a>(
        &self,
        values: impl IntoIterator<Item = &'a Value>,
    ) -> Result<usize, Error> {
        let mut sum = 0;
        for value in values {
            sum += self.weigh(value)?;
        }
        let paid = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(sum));
        paid.map(|_| sum).map_err(|_| too_much())
    }

    /// Pays for a text before it is made.
    pub(super) fn text(&self, len: usize) -> Result<(), Error> {
        let paid = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(len));
        if len > self.value || paid.is_err() { Err(too_much()) } else { Ok(()) }
    }
}
