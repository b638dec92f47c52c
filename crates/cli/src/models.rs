//! `tandem models`.

use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tandem_inference::store::{
    Entry, Phase, Progress, State, Store, StoreError, catalogue, entry, pairs,
};
use tandem_inference::{Facts, available_memory, memory};

/// Tokens of a conversation that memory is estimated for.
const CONTEXT: usize = 8192;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Known models, imported ones, and what is here of them.
    List,
    /// Download a model, or go on with a download; check its SHA-256.
    Download {
        /// Its name, as `tandem models list` shows it.
        name: String,
    },
    /// Delete a model's file and what was begun of it.
    Delete {
        /// Its name.
        name: String,
    },
    /// Take a GGUF file of your own into the folder, after a look at its header.
    Import {
        /// The file.
        file: PathBuf,
    },
    /// What a model's file says of itself, and the memory that it takes.
    Info {
        /// A name or a file.
        model: String,
    },
    /// Drafters and verifiers that go well together, and whether they fit into this machine.
    Pairs,
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    let store = Store::open_default()?;
    match command {
        Command::List => list(&store),
        Command::Download { name } => {
            let found = entry(&name);
            let entry = found
                .with_context(|| format!("no model is called {name}; see `tandem models list`"))?;
            return transfer(&entry.name, |cancel, progress| {
                store.download(entry, cancel, progress).map(|path| path.display().to_string())
            });
        }
        Command::Delete { name } => store.delete(&name)?,
        Command::Import { file } => {
            let name = file.display().to_string();
            return transfer(&name, |cancel, progress| {
                store.import(&file, cancel, progress).map(|model| model.path.display().to_string())
            });
        }
        Command::Info { model } => info(&store.resolve(&model)?)?,
        Command::Pairs => show_pairs(&store)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn mb(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

fn state(store: &Store, entry: &Entry) -> String {
    match store.state(entry) {
        State::Ready => "ready".into(),
        State::Missing => "missing".into(),
        State::Partial { bytes } => format!("{} %", bytes * 100 / store.bytes(entry).0.max(1)),
    }
}

#[allow(clippy::print_stdout)]
fn list(store: &Store) {
    for entry in catalogue() {
        let (bytes, known) = store.bytes(entry);
        let about = if known { ' ' } else { '~' };
        println!(
            "{:<38} {:<14} {about}{:>5} MB  {:<20} {}",
            entry.name,
            entry.family,
            mb(bytes),
            entry.licence,
            state(store, entry)
        );
    }
    for model in store.installed().iter().filter(|m| m.entry.is_none()) {
        println!(
            "{:<38} {:<14}  {:>5} MB  {:<20} ready",
            model.name,
            "imported",
            mb(model.bytes),
            ""
        );
    }
    let usage = store.usage();
    let free = usage.free.map_or_else(String::new, |free| format!(", {} MB free", mb(free)));
    eprintln!("{}: {} MB{free}", store.folder().display(), mb(usage.bytes));
}

#[allow(clippy::print_stdout)]
fn info(path: &std::path::Path) -> Result<()> {
    let facts = Facts::read(path)?;
    let tokenizer: String = facts.tokenizer[..8].iter().map(|b| format!("{b:02x}")).collect();
    let context = CONTEXT.min(facts.max_context);
    println!("file          {}", path.display());
    println!("size          {} MB", mb(facts.file_bytes));
    println!("architecture  {}", facts.architecture);
    println!(
        "weights       {:.2} billion, mostly {}",
        facts.parameters as f64 / 1e9,
        facts.quantisation
    );
    println!("vocabulary    {} tokens, fingerprint {tokenizer}", facts.vocab);
    println!("context       {} tokens", facts.max_context);
    println!("memory        about {} MB with {context} tokens", mb(facts.memory(context)));
    if let Some(free) = available_memory() {
        println!("available     {} MB", mb(free));
    }
    Ok(())
}

#[allow(clippy::print_stdout)]
fn show_pairs(store: &Store) -> Result<()> {
    let available = available_memory();
    for pair in pairs() {
        let (Some(drafter), Some(verifier)) = (entry(&pair.drafter), entry(&pair.verifier)) else {
            bail!("the catalogue names a model that it does not have");
        };
        let needs = |e: &Entry| memory(store.bytes(e).0, e.cache_bytes_per_token, CONTEXT);
        let needed = needs(drafter) + needs(verifier);
        let fits = match available {
            Some(free) if free < needed => "does not fit on this machine alone",
            Some(_) => "fits",
            None => "",
        };
        println!(
            "{:<34} {:<36} {:>6} MB of memory  {fits}",
            drafter.name,
            verifier.name,
            mb(needed)
        );
    }
    Ok(())
}

/// Runs a long transfer: Ctrl-C stops it, progress goes to standard error.
fn transfer(
    name: &str,
    work: impl FnOnce(&AtomicBool, &mut dyn FnMut(Progress)) -> Result<String, StoreError>,
) -> Result<ExitCode> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancel);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    let terminal = std::io::stderr().is_terminal();
    let every = if terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
    let mut last: Option<Instant> = None;
    let result = work(&cancel, &mut |p: Progress| {
        if last.is_some_and(|t| t.elapsed() < every) && p.done < p.total {
            return;
        }
        last = Some(Instant::now());
        let doing = match p.phase {
            Phase::Downloading => "fetching",
            Phase::Verifying => "checking",
        };
        let percent = p.done * 100 / p.total.max(1);
        let line = format!("{doing} {name}: {percent} % of {} MB", mb(p.total));
        if terminal {
            eprint!("\r{line}   ");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    });
    if terminal && last.is_some() {
        eprintln!();
    }
    match result {
        Ok(path) => {
            eprintln!("{name} is ready: {path}");
            Ok(ExitCode::SUCCESS)
        }
        Err(StoreError::Cancelled) => {
            eprintln!("{}", StoreError::Cancelled);
            Ok(ExitCode::from(130))
        }
        Err(error) => Err(error.into()),
    }
}
