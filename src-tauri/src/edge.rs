//! The bundled edge: `tandem-edge` as a side-car on loopback, started and stopped with the app, and
//! started again when it ends by itself.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_device::EdgeAddress;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running side-car. Dropping it ends the process. Its standard input ends with this program, on which
/// it ends by itself; so it does when the app is killed.
pub(crate) struct Bundled {
    pub url: String,
    since: Instant,
    /// Why it ended, if it did by itself.
    ended: watch::Receiver<Option<String>>,
    _stop: DropGuard,
}

impl Bundled {
    /// Waits for an end that nobody wanted, and says why; `None` if it was let go.
    pub(crate) fn end(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        let mut ended = self.ended.clone();
        async move { ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) }
    }

    /// How long it has been ready.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// On loopback.
    pub(crate) fn port(&self) -> Option<u16> {
        self.url.rsplit(':').next()?.trim_end_matches('/').parse().ok()
    }

    pub(crate) fn address(&self) -> Result<EdgeAddress, String> {
        self.url.parse().map_err(|e: tandem_device::AddressError| e.to_string())
    }
}

/// Why it did not start.
pub(crate) struct Failed {
    pub why: String,
    /// It was ended from outside, and may start the next time.
    pub killed: bool,
}

/// How often it is started again.
#[derive(Default)]
pub(crate) struct Restarts {
    tries: u32,
}

impl Restarts {
    const MOST: u32 = 5;
    const FIRST: Duration = Duration::from_millis(500);
    /// What has run so long was not at fault in starting.
    const SOUND: Duration = Duration::from_secs(60);

    /// How long to wait before the next start, after it ran for so long; `None` when it has ended too
    /// often.
    pub(crate) fn next(&mut self, ran: Duration) -> Option<Duration> {
        if ran >= Self::SOUND {
            self.tries = 0;
        }
        self.tries += 1;
        (self.tries <= Self::MOST).then(|| Self::FIRST * (1 << (self.tries - 1)))
    }
}

/// Beside this program, where both the build and an installation put it.
fn program() -> Result<PathBuf, String> {
    let name = if cfg!(windows) { "tandem-edge.exe" } else { "tandem-edge" };
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let path = own.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{name} is not beside the app; build it with `npm start`"))
    }
}

/// Starts it and waits until it is ready. With the port of one before it, a device that is connected to
/// that one finds it again.
pub(crate) async fn start(model: &str, port: Option<u16>) -> Result<Arc<Bundled>, Failed> {
    let fatal = |why: String| Failed { why, killed: false };
    let listen = format!("127.0.0.1:{}", port.unwrap_or(0));
    let mut child = Command::new(program().map_err(fatal)?)
        .args(["serve", "--model", model, "--listen", &listen, "--exit-with-parent"])
        // Its lines go into a file.
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| fatal(format!("the local edge cannot be started: {e}")))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(fatal("the local edge cannot be heard".into()));
    };
    let last = tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).lines();
        let mut last = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            tracing::info!(target: "edge", "{line}");
            last = line;
        }
        last
    });
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(rest) = line.split("ready at ").nth(1) {
            let url = rest.split(' ').next().unwrap_or(rest).to_owned();
            let (told, ended) = watch::channel(None);
            let stop = CancellationToken::new();
            let _stop = stop.clone().drop_guard();
            tokio::spawn(watch_over(child, last, stop, told));
            return Ok(Arc::new(Bundled { url, since: Instant::now(), ended, _stop }));
        }
    }
    let said = last.await.unwrap_or_default();
    let status = child.wait().await;
    let killed = status.as_ref().is_ok_and(|status| status.code().is_none());
    let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
    let why = if said.is_empty() { status } else { said };
    Err(Failed { why: format!("the local edge did not start: {why}"), killed })
}

/// Tells when the process ends by itself, and ends it when it is let go.
async fn watch_over(
    mut child: Child,
    last: tokio::task::JoinHandle<String>,
    stop: CancellationToken,
    told: watch::Sender<Option<String>>,
) {
    // Waiting would close it, and the edge would end.
    let stdin = child.stdin.take();
    let status = tokio::select! {
        status = child.wait() => status,
        () = stop.cancelled() => return drop(child.start_kill()),
    };
    drop(stdin);
    let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
    let last = last.await.unwrap_or_default();
    tracing::error!("the edge of this device ended: {status}; it last said: {last}");
    let _ = told.send(Some(status));
}
