//! `tandem models`.

use anyhow::{Context, Result};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tandem_inference::store::{Entry, Phase, Progress, State, Store, StoreError, catalogue};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Known models and what is here of them.
    List,
    /// Download a model, or go on with a download; check its SHA-256.
    Download {
        /// Its name, as `tandem models list` shows it.
        name: String,
    },
    /// Delete a model's file.
    Delete {
        /// Its name.
        name: String,
    },
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    let store = Store::open_default()?;
    match command {
        Command::List => {
            for entry in catalogue() {
                let state = match store.state(entry) {
                    State::Ready => "ready".to_owned(),
                    State::Missing => "missing".to_owned(),
                    State::Partial { bytes } => format!("{} %", bytes * 100 / entry.bytes),
                };
                let (mib, name) = (entry.bytes >> 20, &entry.name);
                println!(
                    "{name:<38} {:<9} {mib:>5} MiB  {:<11} {state}",
                    entry.role, entry.licence
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Download { name } => download(&store, find(&name)?),
        Command::Delete { name } => {
            store.delete(find(&name)?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn find(name: &str) -> Result<&'static Entry> {
    let found = catalogue().iter().find(|e| e.name == name);
    found.with_context(|| format!("no model is called {name}; see `tandem models list`"))
}

fn download(store: &Store, entry: &Entry) -> Result<ExitCode> {
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
    let result = store.download(entry, &cancel, &mut |p: Progress| {
        if last.is_some_and(|t| t.elapsed() < every) && p.done < p.total {
            return;
        }
        last = Some(Instant::now());
        let doing = match p.phase {
            Phase::Downloading => "downloading",
            Phase::Verifying => "checking",
        };
        let percent = p.done * 100 / p.total.max(1);
        let line = format!("{doing} {}: {percent} % of {} MiB", entry.name, p.total >> 20);
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
            eprintln!("{} is ready: {}", entry.name, path.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(StoreError::Cancelled) => {
            eprintln!("{}", StoreError::Cancelled);
            Ok(ExitCode::from(130))
        }
        Err(error) => Err(error.into()),
    }
}
