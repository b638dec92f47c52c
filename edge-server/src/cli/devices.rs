//! `tandem-edge devices`.

use anyhow::Result;
use std::time::{Duration, SystemTime};
use tandem_edge::Devices;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show all paired devices.
    List(List),
    /// Give a device another name.
    Rename(Rename),
    /// Take a device's access away; its connections end at once.
    Revoke(Revoke),
}

#[derive(clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    state: super::State,
}

#[derive(clap::Args)]
pub(crate) struct Rename {
    /// The device's id or name.
    device: String,
    /// Its new name.
    name: String,
    #[command(flatten)]
    state: super::State,
}

#[derive(clap::Args)]
pub(crate) struct Revoke {
    /// The device's id or name.
    device: String,
    #[command(flatten)]
    state: super::State,
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::List(args) => {
            let devices = Devices::new(args.state.open()?).list()?;
            if devices.is_empty() {
                eprintln!("No device is paired yet; `tandem-edge pair` begins.");
            }
            for device in devices {
                let seen =
                    device.seen_at.map_or("never used".into(), |at| format!("used {}", ago(at)));
                println!(
                    "{}  {}  paired {}, {seen}",
                    device.id,
                    device.name,
                    ago(device.paired_at)
                );
            }
        }
        Command::Rename(args) => {
            let device = Devices::new(args.state.open()?).rename(&args.device, &args.name)?;
            println!("{}  {}", device.id, device.name);
        }
        Command::Revoke(args) => {
            let device = Devices::new(args.state.open()?).revoke(&args.device)?;
            println!("{} ({}) may not use this edge any more", device.name, device.id);
        }
    }
    Ok(())
}

/// How long ago, in the largest unit that fits.
fn ago(ms: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    let seconds = then.elapsed().unwrap_or_default().as_secs();
    let (count, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}
