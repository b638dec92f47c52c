//! `tandem-edge pair`: shows a code, and waits until a device has used it.

use anyhow::{Context, Result, bail};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;
use tandem_edge::{Identity, Outcome, Pairing, ServingNote, StateFolder};
use tandem_protocol::PairingLink;

/// How often it is looked whether the code was used.
const LOOK: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name or address under which devices reach this machine; found when absent.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// How many minutes the code can be used.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    minutes: u64,
    #[command(flatten)]
    state: super::State,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let folder = args.state.open()?;
    let serving = ServingNote::read(&folder)?;
    let identity = Identity::load_or_create(&folder)?;
    let pairing = Pairing::new(folder.clone());
    let lasts = Duration::from_secs(args.minutes * 60);
    let (offer, code) = pairing.offer(lasts)?;
    let host = match args.host {
        Some(host) => host,
        None => reachable(serving.address),
    };
    let port = serving.address.port();
    let link = PairingLink { host: host.clone(), port, certificate: identity.certificate, code };
    show(&link, &serving, args.minutes)?;
    let outcome = tokio::select! {
        outcome = wait(&pairing, &offer.id, lasts) => outcome?,
        _ = tokio::signal::ctrl_c() => {
            pairing.withdraw(&offer.id)?;
            bail!("stopped; the code cannot be used any more");
        }
    };
    pairing.withdraw(&offer.id)?;
    match outcome {
        Some(Outcome::Paired(_)) => {
            let name = newest(&folder)?;
            eprintln!("Paired with {name}. `tandem-edge devices list` shows all devices.");
            Ok(())
        }
        Some(Outcome::Guessed) => bail!(
            "too many wrong codes were tried, so this one is void. If that was not you, someone in \
             this network is guessing; otherwise run `tandem-edge pair` again"
        ),
        Some(Outcome::Open) => bail!("the code has expired; run `tandem-edge pair` again"),
        None => bail!("another `tandem-edge pair` has replaced this code"),
    }
}

/// Until the code is used, void or too old; `None` if it was replaced.
async fn wait(pairing: &Pairing, id: &str, lasts: Duration) -> Result<Option<Outcome>> {
    let end = tokio::time::Instant::now() + lasts;
    loop {
        match pairing.look(id)? {
            None => return Ok(None),
            Some(offer) if offer.outcome != Outcome::Open => return Ok(Some(offer.outcome)),
            Some(_) if tokio::time::Instant::now() >= end => return Ok(Some(Outcome::Open)),
            Some(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

fn newest(folder: &StateFolder) -> Result<String> {
    let devices = tandem_edge::Devices::new(folder.clone()).list()?;
    Ok(devices.into_iter().max_by_key(|d| d.paired_at).map_or("a device".into(), |d| d.name))
}

fn show(link: &PairingLink, serving: &ServingNote, minutes: u64) -> Result<()> {
    let text = link.to_string();
    let qr = QrCode::with_error_correction_level(&text, EcLevel::L)?;
    // Light on dark, as a terminal usually is; scanners read both.
    let qr =
        qr.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    let (host, port) = (&link.host, link.port);
    // One write, and a reader that is gone is an error, not a panic.
    let page = format!(
        "{qr}\n\n\
         Pair a device with {} ({}).\n\
         Scan the picture, or type in the app under Boxes, or as `tandem pair`:\n\n\
         \x20 address  {host}:{port}\n\
         \x20 code     {}\n\
         \x20 link     {text}\n\n\
         The code can be used once, in the next {minutes} minutes. Ctrl-C takes it back.\n",
        serving.name, serving.model, link.code
    );
    std::io::stdout().write_all(page.as_bytes()).context("the code cannot be shown")?;
    if host_is_loopback(host) {
        eprintln!("note: this edge can be reached from this machine only");
    }
    Ok(())
}

fn host_is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The address that devices in the network most likely reach.
fn reachable(listen: SocketAddr) -> String {
    let ip =
        if listen.ip().is_unspecified() { outward().unwrap_or(listen.ip()) } else { listen.ip() };
    match ip {
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    }
}

/// This machine's address on the way outward. Nothing is sent: connecting a datagram socket only asks
/// the routing table.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    // An address of documentation, RFC 5737.
    socket.connect(("192.0.2.1", 9)).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified())
}
