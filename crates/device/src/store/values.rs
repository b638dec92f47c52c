//! Values of a row, brought into the range that they can have.
//!
//! What is in the file may come from an import of an earlier version, a disk error or another program:
//! figures and lists are shown all the same, and nothing overflows on the way.

use super::StoreError;
use crate::record::Pair;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// The last time that is shown, in milliseconds since the epoch: the end of the year 9999.
pub(super) const LATEST: i64 = 253_402_300_799_999;
/// The largest sum, and the largest count in one row.
const MOST: i64 = 1 << 50;
const MOST_IN_A_ROW: i64 = 1 << 20;
/// The longest time in milliseconds: eleven days.
const LONGEST: f64 = 1e9;

/// A count of rows.
pub(super) fn count(row: &SqliteRow, name: &str) -> Result<u64, StoreError> {
    Ok(row.try_get::<i64, _>(name)?.clamp(0, MOST) as u64)
}

/// What SQL's `total` gives of integers; unlike `sum` it does not fail when they are too large.
pub(super) fn total(row: &SqliteRow, name: &str) -> Result<u64, StoreError> {
    Ok(row.try_get::<f64, _>(name)?.clamp(0.0, MOST as f64) as u64)
}

/// A count within one row.
pub(super) fn small(row: &SqliteRow, name: &str) -> Result<u32, StoreError> {
    Ok(row.try_get::<i64, _>(name)?.clamp(0, MOST_IN_A_ROW) as u32)
}

/// The same where it may be absent.
pub(super) fn small_or_none(row: &SqliteRow, name: &str) -> Result<Option<u32>, StoreError> {
    let value: Option<i64> = row.try_get(name)?;
    Ok(value.map(|n| n.clamp(0, MOST_IN_A_ROW) as u32))
}

/// A time, in milliseconds since the epoch.
pub(super) fn time(row: &SqliteRow, name: &str) -> Result<i64, StoreError> {
    Ok(row.try_get::<i64, _>(name)?.clamp(0, LATEST))
}

/// Milliseconds that something took.
pub(super) fn ms(row: &SqliteRow, name: &str) -> Result<f64, StoreError> {
    Ok(row.try_get::<f64, _>(name)?.clamp(0.0, LONGEST))
}

/// Milliseconds that many things took together.
pub(super) fn total_ms(row: &SqliteRow, name: &str) -> Result<f64, StoreError> {
    let sum: Option<f64> = row.try_get(name)?;
    Ok(sum.unwrap_or(0.0).clamp(-(MOST as f64), MOST as f64))
}

/// A speed or a time that may be absent.
pub(super) fn figure(row: &SqliteRow, name: &str) -> Result<Option<f64>, StoreError> {
    let value: Option<f64> = row.try_get(name)?;
    Ok(value.filter(|v| (0.0..=LONGEST).contains(v)))
}

/// Who took part, from the columns of `pairs`.
pub(super) fn pair(row: &SqliteRow) -> Result<Pair, StoreError> {
    Ok(Pair {
        edge: row.try_get("edge")?,
        verifier: row.try_get("verifier")?,
        drafter: row.try_get("drafter")?,
        vocab: small(row, "vocab")?,
    })
}
