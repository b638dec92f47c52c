//! `tandem pair` and `tandem boxes`.

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tandem_device::store::{BoxRow, Store, default_path};
use tandem_device::{Boxes, Kept, Target, device_name, discover};

/// How long the network is listened to.
const SEARCH: Duration = Duration::from_secs(3);

/// The database, for every command about boxes.
#[derive(clap::Args)]
pub(crate) struct Db {
    /// The database; the usual one when absent.
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
}

impl Db {
    async fn open(&self) -> Result<(Store, Boxes)> {
        let path = self.db.clone().unwrap_or_else(default_path);
        let store = Store::open(&path).await?;
        Ok((store.clone(), Boxes::new(store, &path)))
    }
}

#[derive(clap::Args)]
pub(crate) struct Pair {
    /// The link that `tandem-edge pair` shows; not needed with --code.
    #[arg(value_name = "LINK", required_unless_present = "code", conflicts_with = "code")]
    link: Option<String>,
    /// The box's address; looked for in the network when absent.
    #[arg(long, value_name = "HOST:PORT", requires = "code")]
    edge: Option<String>,
    /// The code that `tandem-edge pair` shows.
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// This device's name on the box; the machine's name when absent.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    db: Db,
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show the boxes that this device knows; with --search those in the network too.
    List {
        /// Look for edges in the local network.
        #[arg(long)]
        search: bool,
        #[command(flatten)]
        db: Db,
    },
    /// Give a box another name.
    Rename {
        /// The box.
        name: String,
        /// Its new name.
        new: String,
        #[command(flatten)]
        db: Db,
    },
    /// Tell a box to forget this device, and forget it.
    Remove {
        /// The box.
        name: String,
        /// Forget it even if it cannot be told.
        #[arg(long)]
        here_only: bool,
        #[command(flatten)]
        db: Db,
    },
    /// Test the link to a box.
    Test {
        /// The box.
        name: String,
        #[command(flatten)]
        db: Db,
    },
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done.map(|()| ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout)]
pub(crate) fn pair(args: Pair) -> Result<ExitCode> {
    block_on(async move {
        let place = match (&args.link, &args.edge) {
            (Some(link), _) => link.clone(),
            (None, Some(edge)) => edge.clone(),
            (None, None) => only_one().await?,
        };
        let target = Target::parse(&place, args.code.as_deref())?;
        let (store, boxes) = args.db.open().await?;
        let device = args.name.clone().unwrap_or_else(device_name);
        let (row, kept) = boxes.pair(&target, &device).await?;
        println!("paired with {}; use it with `tandem chat --box \"{}\"`", row.name, row.name);
        if kept == Kept::File {
            eprintln!(
                "note: this system has no key store, so the token is in a file that only you may read"
            );
        }
        store.close().await;
        Ok(())
    })
}

/// The address of the one edge in the network.
async fn only_one() -> Result<String> {
    let mut found = discover(SEARCH).await.map_err(anyhow::Error::msg)?;
    match found.len() {
        1 => Ok(found.remove(0).address),
        0 => bail!("no edge was found in this network; give its address with --edge HOST:PORT"),
        _ => {
            let all: Vec<String> =
                found.iter().map(|f| format!("  {} ({})", f.address, f.name)).collect();
            bail!("there are several edges; choose one with --edge:\n{}", all.join("\n"))
        }
    }
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    block_on(async move {
        match command {
            Command::List { search, db } => {
                let (store, _) = db.open().await?;
                for row in store.boxes().await? {
                    println!("{}", line(&row));
                }
                if search {
                    for found in discover(SEARCH).await.map_err(anyhow::Error::msg)? {
                        println!(
                            "in this network: {} ({}, {})",
                            found.address, found.name, found.model
                        );
                    }
                }
            }
            Command::Rename { name, new, db } => {
                let (store, boxes) = db.open().await?;
                store.rename_box(boxes.named(&name).await?.id, &new).await?;
            }
            Command::Remove { name, here_only, db } => {
                let (_, boxes) = db.open().await?;
                let row = boxes.named(&name).await?;
                boxes.remove(&row, here_only).await?;
                println!("{} is forgotten", row.name);
            }
            Command::Test { name, db } => {
                let (_, boxes) = db.open().await?;
                let row = boxes.named(&name).await?;
                let found = boxes.check(&row).await?;
                let (edge, rtt) = (found.edge, found.rtt_ms);
                println!(
                    "{}: {}, version {}, round trip {rtt:.1} ms",
                    row.name, edge.model, edge.version
                );
            }
        }
        Ok(())
    })
}

fn line(row: &BoxRow) -> String {
    let place = match &row.paired {
        Some(paired) => format!("wss://{}", paired.address),
        None => "started by the app".into(),
    };
    let model = row.model.as_ref().map_or(String::new(), |m| format!("  {m}"));
    format!("{}  {place}{model}", row.name)
}
