//! Downloads from a hub on this machine that behaves as the real one, and as a bad one.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::made::Made;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tandem_inference::store::{Entry, State, Store, StoreError};
use tandem_inference::{DeviceChoice, Facts};

/// What the hub does.
#[derive(Clone, Default)]
struct Hub {
    body: Arc<Vec<u8>>,
    /// Sends this many bytes of each answer, then hangs up.
    cut: Option<usize>,
    /// Answers ranges with the whole file.
    no_ranges: bool,
    /// Sends other bytes than it announces.
    wrong: bool,
    /// Announces no checksum.
    silent: bool,
    /// Says that a range is beyond the file.
    beyond: bool,
    seen: Arc<Mutex<Vec<String>>>,
    answers: Arc<AtomicUsize>,
}

impl Hub {
    fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let _ = self.answer(socket.unwrap());
            }
        });
        address
    }

    fn answer(&self, socket: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(socket.try_clone()?).lines();
        let first = lines.next().unwrap()?;
        let mut range = None;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                range = value.trim_end_matches('-').parse::<usize>().ok();
            }
        }
        self.seen.lock().unwrap().push(format!("{first} {range:?}"));
        let mut out = socket;
        let path = first.split(' ').nth(1).unwrap();
        if !path.starts_with("/cdn/") {
            // As the hub does: what the file is, and where its bytes are.
            write!(out, "HTTP/1.1 302 Found\r\nLocation: /cdn{path}\r\nContent-Length: 0\r\n")?;
            if !self.silent {
                let hash = hex(&self.body);
                write!(out, "X-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {}\r\n", self.body.len())?;
            }
            return write!(out, "Connection: close\r\n\r\n");
        }
        self.bytes(out, range)
    }

    fn bytes(&self, mut out: TcpStream, range: Option<usize>) -> std::io::Result<()> {
        self.answers.fetch_add(1, Ordering::SeqCst);
        let mut body = self.body.as_ref().clone();
        if self.wrong {
            body[1000] ^= 1;
        }
        let from = range.filter(|_| !self.no_ranges);
        let head = match from {
            Some(_) if self.beyond => {
                return write!(
                    out,
                    "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
            Some(from) => {
                let (last, all) = (body.len() - 1, body.len());
                format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{all}")
            }
            None => "200 OK".into(),
        };
        let body = &body[from.unwrap_or(0)..];
        write!(
            out,
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        out.write_all(&body[..self.cut.unwrap_or(body.len()).min(body.len())])
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn body() -> Arc<Vec<u8>> {
    Arc::new((0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect())
}

/// A model whose hash only the hub knows.
fn entry() -> Entry {
    serde_json::from_str(
        r#"{ "name": "m", "family": "F", "parameters": "1B", "quantisation": "Q", "context": 64,
             "cache_bytes_per_token": 1, "file": "m.gguf", "bytes": 2000000, "sha256": null,
             "licence": "L", "hub": "owner/repository", "packages": null }"#,
    )
    .unwrap()
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tandem-hub-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

fn download(store: &Store) -> Result<PathBuf, StoreError> {
    store.download(&entry(), &AtomicBool::new(false), &mut |_| {})
}

#[test]
fn the_hub_says_what_the_file_is_before_it_comes() {
    let hub = Hub { body: body(), ..Hub::default() };
    let store = Store::at(folder("good")).with_hub(&hub.clone().serve());
    assert_eq!(store.bytes(&entry()), (2_000_000, false));
    let path = download(&store).unwrap();
    assert_eq!(fs::read(&path).unwrap(), *hub.body);
    assert_eq!((store.state(&entry()), store.bytes(&entry())), (State::Ready, (3_000_000, true)));
    let seen = hub.seen.lock().unwrap().clone();
    assert!(seen[0].starts_with("HEAD /owner/repository/resolve/main/m.gguf"), "{seen:?}");
    assert_eq!(seen.len(), 3, "{seen:?}");
    // What is ready is not asked for again; what was changed is.
    download(&store).unwrap();
    assert_eq!(hub.seen.lock().unwrap().len(), 3);
    fs::write(&path, b"changed").unwrap();
    assert_ne!(store.state(&entry()), State::Ready);
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_was() {
    // Each answer ends after 700,000 bytes: five are needed.
    let hub = Hub { body: body(), cut: Some(700_000), ..Hub::default() };
    let store = Store::at(folder("cut")).with_hub(&hub.clone().serve());
    let path = download(&store).unwrap();
    assert_eq!(fs::read(path).unwrap(), *hub.body);
    assert_eq!(hub.answers.load(Ordering::SeqCst), 5);
    let seen = hub.seen.lock().unwrap().clone();
    assert!(seen.iter().any(|s| s.contains("/cdn/") && s.contains("Some(1400000)")), "{seen:?}");
}

#[test]
fn a_paused_download_goes_on_with_another_call() {
    let hub = Hub { body: body(), ..Hub::default() };
    let store = Store::at(folder("pause")).with_hub(&hub.clone().serve());
    let pause = AtomicBool::new(false);
    let stopped = store.download(&entry(), &pause, &mut |p| {
        pause.store(p.done > 1_000_000, Ordering::Relaxed);
    });
    assert!(matches!(stopped, Err(StoreError::Cancelled)));
    let State::Partial { bytes } = store.state(&entry()) else { panic!("nothing was kept") };
    assert!((1_000_000..3_000_000).contains(&bytes), "{bytes}");
    assert_eq!(fs::read(download(&store).unwrap()).unwrap(), *hub.body);
    let seen = hub.seen.lock().unwrap().clone();
    assert!(seen.last().unwrap().contains(&format!("Some({bytes})")), "{seen:?}");
}

#[test]
fn a_hub_without_ranges_begins_again_and_one_with_another_file_too() {
    for (name, hub) in [
        ("no-ranges", Hub { body: body(), no_ranges: true, ..Hub::default() }),
        ("beyond", Hub { body: body(), beyond: true, ..Hub::default() }),
    ] {
        let store = Store::at(folder(name)).with_hub(&hub.clone().serve());
        fs::create_dir_all(store.folder()).unwrap();
        fs::write(store.folder().join("m.gguf.part"), vec![7; 1_000_000]).unwrap();
        let path = download(&store).or_else(|e| {
            assert!(matches!(e, StoreError::Network { .. }), "{e}");
            download(&store)
        });
        assert_eq!(fs::read(path.unwrap()).unwrap(), *hub.body, "{name}");
    }
}

#[test]
fn wrong_bytes_are_deleted() {
    let hub = Hub { body: body(), wrong: true, ..Hub::default() };
    let store = Store::at(folder("wrong")).with_hub(&hub.serve());
    assert!(matches!(download(&store), Err(StoreError::Checksum { .. })));
    assert_eq!(store.state(&entry()), State::Missing);
}

#[test]
fn a_file_without_a_checksum_is_not_fetched() {
    let hub = Hub { body: body(), silent: true, ..Hub::default() };
    let store = Store::at(folder("silent")).with_hub(&hub.clone().serve());
    let refused = download(&store).unwrap_err().to_string();
    assert!(refused.contains("no checksum"), "{refused}");
    assert!(hub.seen.lock().unwrap().iter().all(|s| s.starts_with("HEAD")));
}

#[test]
fn a_file_that_does_not_fit_on_the_disk_is_not_begun() {
    let hub = Hub { body: body(), ..Hub::default() };
    let store = Store::at(folder("space")).with_hub(&hub.clone().serve());
    fs::create_dir_all(store.folder()).unwrap();
    // Half an exabyte: what was kept from the hub's answer says so.
    let expected = format!("{} {}\n", hex(&hub.body), 1u64 << 59);
    fs::write(store.folder().join("m.gguf.expected"), expected).unwrap();
    let refused = download(&store).unwrap_err();
    assert!(matches!(refused, StoreError::Space { .. }), "{refused}");
    assert!(refused.to_string().contains("are free"), "{refused}");
    assert_eq!(hub.answers.load(Ordering::SeqCst), 0);
}

#[test]
fn own_files_are_taken_looked_at_and_deleted_unless_in_use() {
    let made = Made::new("qwen3").write("mine");
    let store = Store::at(folder("import"));
    let import = |path: &std::path::Path| store.import(path, &AtomicBool::new(false), &mut |_| {});
    let model = import(&made).unwrap();
    assert_eq!((model.name.as_str(), model.entry.is_none()), ("mine", true));
    assert_eq!(store.resolve("mine").unwrap(), model.path);
    assert_eq!(store.installed().len(), 1);
    assert!(store.usage().bytes >= model.bytes && store.usage().free.is_some());
    let facts = Facts::read(&model.path).unwrap();
    assert_eq!((facts.architecture.as_str(), facts.vocab), ("qwen3", 266));
    assert!(facts.memory(1000) > facts.file_bytes + 1000 * facts.cache_bytes_per_token);

    // Another file of the same name, and files that are none.
    let other = folder("import-other");
    fs::create_dir_all(&other).unwrap();
    let bad = |name: &str, bytes: &[u8]| {
        let path = other.join(name);
        fs::write(&path, bytes).unwrap();
        import(&path).unwrap_err().to_string()
    };
    let whole = fs::read(&made).unwrap();
    assert!(bad("mine.gguf", &whole).contains("here already"));
    assert!(bad("text.gguf", b"no model").contains("not a usable GGUF"));
    let cut = bad("cut.gguf", &whole[..whole.len() - 100_000]);
    assert!(cut.contains("the file ends before it does"), "{cut}");
    assert_eq!(store.installed().len(), 1);

    let loaded = common::load_on(&model.path, DeviceChoice::Cpu);
    assert!(matches!(store.delete("mine"), Err(StoreError::InUse(_))));
    drop(loaded);
    store.delete("mine").unwrap();
    assert!(store.installed().is_empty() && made.exists());
    assert!(matches!(store.delete("mine"), Err(StoreError::Unknown(_))));
}
