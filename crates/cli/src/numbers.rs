//! Numbers on the command line: whatever fits is taken, and what does not is answered in a sentence.

use tandem_speculation::Sampling;

/// A number of tokens or things, at least 1. One that no machine could count to is the largest.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    let n = whole(text)?;
    if n < 1 {
        Err("it must be at least 1".into())
    } else {
        Ok(usize::try_from(n).unwrap_or(usize::MAX))
    }
}

/// Compute threads: from 1 to more than any machine has.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    match whole(text)? {
        n @ 1..=1024 => Ok(n as usize),
        _ => Err("it must be from 1 to 1024".into()),
    }
}

/// How many of the likeliest tokens; more than there are is all.
pub(crate) fn top_k(text: &str) -> Result<u32, String> {
    let n = whole(text)?;
    if n < 0 { Err("it must be at least 0".into()) } else { Ok(u32::try_from(n).unwrap_or(0)) }
}

/// Seconds to wait; more than a year is a year.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    const YEAR: i128 = 365 * 86_400;
    let n = whole(text)?;
    if n < 0 { Err("it must be at least 0".into()) } else { Ok(n.min(YEAR) as u64) }
}

/// 64 bits, with a sign or without.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    let n = whole(text)?;
    let fits = i128::from(i64::MIN)..=i128::from(u64::MAX);
    if fits.contains(&n) { Ok(n as u64) } else { Err("it must fit into 64 bits".into()) }
}

fn whole(text: &str) -> Result<i128, String> {
    match text.parse() {
        Ok(n) => Ok(n),
        Err(_) if text.len() > 30 => Err("it is far too long for a number".into()),
        Err(_) => Err("it must be a whole number".into()),
    }
}

/// Top-p 0 leaves the likeliest token, as the smallest number above it would.
pub(crate) fn without_zero(sampling: Sampling) -> Sampling {
    if sampling.top_p == 0.0 { Sampling { top_p: 1.0, top_k: 1, ..sampling } } else { sampling }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size_are_taken_or_answered() {
        assert_eq!(count("18446744073709551615"), Ok(usize::MAX));
        assert_eq!(count("99999999999999999999999"), Ok(usize::MAX));
        assert!(count("0").unwrap_err().contains("at least 1"));
        assert!(count("-1").unwrap_err().contains("at least 1"));
        assert!(count("1e3").unwrap_err().contains("whole number"));
        assert!(count(&"9".repeat(50)).unwrap_err().contains("too long"));
        assert_eq!(seed("-1"), Ok(u64::MAX));
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(seed("9223372036854775808"), Ok(1 << 63));
        assert_eq!(seed("-9223372036854775808"), Ok(1 << 63));
        assert!(seed("18446744073709551616").is_err());
        assert!(seed("-9223372036854775809").is_err());
        assert_eq!(top_k("4294967296"), Ok(0));
        assert_eq!(seconds("18446744073709551615"), Ok(365 * 86_400));
        assert!(threads("0").is_err() && threads("100000").is_err());
        let zero = without_zero(Sampling { top_p: 0.0, ..Sampling::default() });
        assert_eq!((zero.top_k, zero.validate()), (1, Ok(())));
    }
}
