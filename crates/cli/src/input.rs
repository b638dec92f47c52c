//! Questions from standard input: lines of text in UTF-8, or a sentence about the line that is none.

use std::io::{BufRead, Read};
use tandem_device::store::MESSAGE_LIMIT;
use thiserror::Error;

/// Why a line cannot be a question.
#[derive(Debug, Error)]
pub(crate) enum InputError {
    /// Bytes that are no text, such as of another encoding.
    #[error(
        "line {0} of standard input is not UTF-8 (byte {1} of it); convert the text, as with `iconv -t UTF-8`"
    )]
    NotText(u64, usize),
    /// A NUL: the input is no text.
    #[error("line {0} of standard input has a NUL character; give text in UTF-8")]
    Nul(u64),
    /// More than a model can read.
    #[error("line {0} of standard input is longer than {limit} MiB; shorten it", limit = MESSAGE_LIMIT >> 20)]
    TooLong(u64),
    /// The system could not read it.
    #[error("standard input cannot be read after line {0}: {1}")]
    Unreadable(u64, std::io::Error),
}

/// Lines without their ends and without a byte order mark. After a problem there is nothing more, except
/// behind a line that is no text.
pub(crate) struct Lines<R> {
    input: R,
    line: u64,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, line: 0, ended: false }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<String, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut bytes = Vec::new();
        let most = MESSAGE_LIMIT as u64 + 1;
        match self.input.by_ref().take(most).read_until(b'\n', &mut bytes) {
            Ok(0) => return None,
            Ok(_) => self.line += 1,
            Err(e) => {
                self.ended = true;
                return Some(Err(InputError::Unreadable(self.line, e)));
            }
        }
        if bytes.len() as u64 == most && bytes.last() != Some(&b'\n') {
            self.ended = true;
            return Some(Err(InputError::TooLong(self.line)));
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => {
                let at = e.utf8_error().valid_up_to() + 1;
                return Some(Err(InputError::NotText(self.line, at)));
            }
        };
        if text.contains('\0') {
            return Some(Err(InputError::Nul(self.line)));
        }
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        Some(Ok(if self.line == 1 { plain(text) } else { text }.to_owned()))
    }
}

/// A text without the byte order mark that some editors put before it.
pub(crate) fn plain(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<String> {
        Lines::new(bytes).map(|l| l.unwrap_or_else(|e| format!("error: {e}"))).collect()
    }

    #[test]
    fn a_line_that_is_no_text_is_named_and_the_others_are_read() {
        let lines = read(b"first\n\xff\xfe bad\nthird\n");
        assert_eq!((lines[0].as_str(), lines[2].as_str()), ("first", "third"));
        assert!(
            lines[1].starts_with("error: line 2 of standard input is not UTF-8"),
            "{}",
            lines[1]
        );
        assert!(read("ok caf\u{e9}".as_bytes())[0].ends_with('é'));
        assert!(read(b"cut \xc3")[0].contains("byte 5"));
        assert!(read(b"a\0b\n")[0].contains("NUL"));
        // As another program writes it: UTF-16.
        assert!(read(b"\xff\xfeh\0i\0")[0].contains("line 1"));
    }

    #[test]
    fn line_ends_and_a_byte_order_mark_are_no_text() {
        assert_eq!(
            read(b"\xef\xbb\xbffirst\r\nsecond\r\n\r\nlast"),
            ["first", "second", "", "last"]
        );
        assert!(read(b"").is_empty());
    }

    #[test]
    fn a_line_without_end_takes_no_memory_without_end() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let lines: Vec<_> = Lines::new(endless).collect();
        assert!(matches!(lines[..], [Err(InputError::TooLong(1))]));
        assert_eq!(read(&vec![b'x'; MESSAGE_LIMIT]).len(), 1);
    }
}
