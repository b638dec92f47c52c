//! The bundled edge: `tandem-edge` as a side-car on loopback, started and stopped with the app.

use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A running side-car. Dropping it closes its standard input, on which it ends by itself; that also
/// holds when the app is killed.
pub(crate) struct Bundled {
    pub url: String,
    _child: Child,
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

pub(crate) async fn start(model: &str) -> Result<Bundled, String> {
    let mut child = Command::new(program()?)
        .args(["serve", "--model", model, "--listen", "127.0.0.1:0", "--exit-with-parent"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("the local edge cannot be started: {e}"))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("the local edge cannot be heard".into());
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
            return Ok(Bundled { url, _child: child });
        }
    }
    let why = last.await.unwrap_or_default();
    Err(format!("the local edge did not start: {why}"))
}
