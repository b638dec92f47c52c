//! The date that templates ask for, in Python's notation.

use jiff::fmt::strtime::{BrokenDownTime, Config};
use jiff::{Timestamp, ZonedDateTime, tz::TimeZone};
use minijinja::Error;
use std::time::SystemTime;

use super::refused;

/// Bytes of a format at most.
const MAX_FORMAT: usize = 256;

/// What `strftime` gives, of the computer's local time or of an instant in UTC.
pub(super) fn strftime(format: &str, instant: Option<SystemTime>) -> Result<String, Error> {
    if format.len() > MAX_FORMAT {
        return Err(refused("it asks for a date in an enormous format"));
    }
    let at = match instant {
        Some(instant) => Timestamp::try_from(instant).map(|t| t.to_zoned_datetime(TimeZone::UTC)),
        None => Ok(ZonedDateTime::now()),
    };
    let at = at.map_err(|e| refused(&format!("it asks for a date that has no name ({e})")))?;
    // What depends on the language is Python's in its language, C.
    let format = format
        .replace("%c", "%a %b %e %H:%M:%S %Y")
        .replace("%x", "%m/%d/%y")
        .replace("%X", "%H:%M:%S")
        .replace("%r", "%I:%M:%S %p")
        .replace("%f", "%6f");
    BrokenDownTime::from(&at)
        .to_string_with_config(&Config::new().lenient(true), &format)
        .map_err(|e| refused(&format!("it asks for the date as {format} ({e})")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_written_as_python_writes_them() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_510_705);
        let of = |format: &str| strftime(format, Some(at)).unwrap();
        assert_eq!(of("%Y-%m-%d %H:%M:%S"), "2024-03-04 00:05:05");
        assert_eq!(of("%d %b %Y, %A %B %-d"), "04 Mar 2024, Monday March 4");
        assert_eq!(of("%a %y %I %p %j %w %u %U %W %%"), "Mon 24 12 AM 064 1 1 09 10 %");
        assert_eq!(of("%c|%x|%X"), "Mon Mar  4 00:05:05 2024|03/04/24|00:05:05");
        assert_eq!(
            of("%G %V %D %F %T %R %e %s"),
            "2024 10 03/04/24 2024-03-04 00:05:05 00:05  4 1709510705"
        );
        assert_eq!(of("%Z %z %f %C %h %n%t"), "UTC +0000 000000 20 Mar \n\t");
        assert!(strftime("%Y", None).unwrap().len() == 4);
        assert!(strftime(&"%Y".repeat(1000), None).is_err());
    }
}
