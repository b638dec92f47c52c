//! Downloads from the public hub: what a file should be, and its bytes.

use super::error::io_at;
use super::{CHUNK, Entry, Expected, Phase, Progress, Report, StoreError, check, network, size_of};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// A transfer without a byte for so long is broken.
const SILENCE: Duration = Duration::from_secs(60);
/// Breaks of a download that goes on by itself, as long as something comes in between.
const BREAKS: usize = 5;
/// Other addresses that a question for metadata follows.
const REDIRECTS: usize = 5;
/// Larger than any model that this program can hold.
const LARGEST: u64 = 1 << 40;

fn agent(url: &str, redirects: u32) -> Agent {
    Agent::config_builder()
        // What begins encrypted stays so.
        .https_only(url.starts_with("https://"))
        .timeout_per_read(Some(SILENCE))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .max_redirects(redirects)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .build()
        .into()
}

fn header<'a, T>(response: &'a Response<T>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// What the hub says of a file before it sends it: SHA-256 and size of large files are in the
/// answer that redirects to where their bytes are.
pub(super) fn ask(url: &str, entry: &Entry) -> Result<Expected, StoreError> {
    let agent = agent(url, 0);
    let mut url = url.to_owned();
    for _ in 0..=REDIRECTS {
        let response = agent
            .head(&url)
            .header("Accept-Encoding", "identity")
            .call()
            .map_err(|e| network(entry, format!("the hub: {e}")))?;
        let hash = header(&response, "X-Linked-Etag").and_then(sha256_of);
        let bytes = header(&response, "X-Linked-Size").and_then(|size| size.parse().ok());
        if let (Some(sha256), Some(bytes @ 1..=LARGEST)) = (hash, bytes) {
            return Ok(Expected { sha256, bytes });
        }
        let status = response.status();
        let next = header(&response, "Location").filter(|_| status.is_redirection());
        match next {
            Some(next) => url = join(&url, next),
            None if status.is_success() => {
                let reason = "the hub gives no checksum for this file, so it cannot be trusted";
                return Err(network(entry, reason.into()));
            }
            None => return Err(refused(entry, status)),
        }
    }
    Err(network(entry, "the hub sends from one address to the next".into()))
}

/// A quoted SHA-256 in hexadecimal, as an ETag.
fn sha256_of(etag: &str) -> Option<String> {
    let hash = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_ascii_lowercase();
    (hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hash)
}

/// Where a redirect leads: a whole address, or a path on the same host.
fn join(from: &str, to: &str) -> String {
    if !to.starts_with('/') {
        return to.to_owned();
    }
    let host = from.find("://").map_or(0, |at| at + 3);
    let end = from[host..].find('/').map_or(from.len(), |at| host + at);
    format!("{}{to}", &from[..end])
}

fn refused(entry: &Entry, status: StatusCode) -> StoreError {
    let reason = match status.as_u16() {
        401 | 403 => "the hub asks for an account that accepted the model's licence".to_owned(),
        404 => "the hub does not have this file".to_owned(),
        _ => format!("the hub answered {status}"),
    };
    network(entry, reason)
}

/// A file on its way from the hub.
pub(super) struct Transfer<'a> {
    pub url: &'a str,
    pub entry: &'a Entry,
    /// Its size.
    pub bytes: u64,
    /// Where it goes.
    pub part: &'a Path,
    pub cancel: &'a AtomicBool,
}

impl Transfer<'_> {
    /// Brings the rest of the file.
    pub(super) fn run(&self, progress: Report<'_>) -> Result<(), StoreError> {
        let mut breaks = 0;
        loop {
            let before = size_of(self.part);
            match self.attempt(progress) {
                Err(StoreError::Network { .. })
                    if size_of(self.part) > before && breaks < BREAKS =>
                {
                    breaks += 1;
                    std::thread::sleep(Duration::from_millis(300 << breaks));
                    check(self.cancel)?;
                }
                other => return other,
            }
        }
    }

    fn failed(&self, reason: impl Into<String>) -> StoreError {
        network(self.entry, reason.into())
    }

    fn attempt(&self, progress: Report<'_>) -> Result<(), StoreError> {
        let Self { url, part, .. } = *self;
        let have = size_of(part);
        let mut request = agent(url, 10).get(url).header("Accept-Encoding", "identity");
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let response = request.call().map_err(|e| self.failed(format!("the hub: {e}")))?;
        let file = OpenOptions::new().create(true).append(true).open(part).map_err(io_at(part))?;
        let start = match response.status().as_u16() {
            206 if range_start(&response) == Some(have) => have,
            206 => return Err(self.failed("the hub sent another part than was asked for")),
            200 => 0,
            416 => {
                // What is here is no part of what is there: the next attempt begins again.
                file.set_len(0).map_err(io_at(part))?;
                return Err(self.failed("the file on the hub has changed"));
            }
            _ => return Err(refused(self.entry, response.status())),
        };
        file.set_len(start).map_err(io_at(part))?;
        self.receive(response, file, start, progress)
    }

    fn receive(
        &self,
        response: Response<Body>,
        mut file: File,
        mut have: u64,
        progress: Report<'_>,
    ) -> Result<(), StoreError> {
        let (bytes, part) = (self.bytes, self.part);
        // One byte more than wanted shows that the source has another file.
        let mut body = response.into_body().into_reader().take(bytes.saturating_sub(have) + 1);
        let mut buffer = vec![0; CHUNK];
        let broke = loop {
            check(self.cancel)?;
            let n = match body.read(&mut buffer) {
                Ok(0) => break "it ended too early".to_owned(),
                Ok(n) => n,
                Err(e) => break e.to_string(),
            };
            file.write_all(&buffer[..n]).map_err(io_at(part))?;
            have += n as u64;
            progress(Progress { phase: Phase::Downloading, done: have.min(bytes), total: bytes });
            if have >= bytes {
                break String::new();
            }
        };
        file.sync_all().map_err(io_at(part))?;
        if have < bytes {
            return Err(self.failed(format!("the download broke off ({broke})")));
        }
        Ok(())
    }
}

/// Where the bytes of a partial answer begin: `bytes 100-199/200`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = header(response, "Content-Range")?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_that_are_no_sha256_are_none() {
        let hash = "ab".repeat(32);
        for etag in [format!("\"{hash}\""), format!("W/\"{hash}\""), hash.to_uppercase()] {
            assert_eq!(sha256_of(&etag).as_ref(), Some(&hash));
        }
        for etag in ["", "\"\"", "\"d41d8cd98f00b204e9800998ecf8427e\"", &"g".repeat(64)] {
            assert_eq!(sha256_of(etag), None, "{etag}");
        }
    }

    #[test]
    fn redirects_are_joined_to_their_host() {
        assert_eq!(join("http://a:1/x/y", "/z"), "http://a:1/z");
        assert_eq!(join("http://a", "/z"), "http://a/z");
        assert_eq!(join("http://a/x", "https://b/z"), "https://b/z");
    }
}
