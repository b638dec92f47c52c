//! Boxes: the list, pairing, and which one is used. `ui/src/lib/api/boxes.ts` is the mirror.

use crate::state::{ApiError, App};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tandem_device::store::BoxRow;
use tandem_device::{BoxError, Found, Kept, Target, device_name, discover};
use tauri::State;

/// The setting that names the box in use.
const SETTING: &str = "box";
/// How long the network is listened to.
const SEARCH: Duration = Duration::from_secs(3);

type Shared<'a> = State<'a, Arc<App>>;
type Answer<T> = Result<T, ApiError>;

/// The box in use.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Active {
    pub id: i64,
    pub name: String,
    #[serde(skip)]
    pub bundled: bool,
}

impl Default for Active {
    /// The first row, until the database has been asked.
    fn default() -> Self {
        Self { id: 1, name: String::new(), bundled: true }
    }
}

impl From<BoxRow> for Active {
    fn from(row: BoxRow) -> Self {
        Self { id: row.id, name: row.name, bundled: row.paired.is_none() }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BoxEntry {
    id: i64,
    name: String,
    bundled: bool,
    active: bool,
    address: Option<String>,
    /// The first digits of its SHA-256.
    certificate: Option<String>,
    model: Option<String>,
    /// Where its token is; absent if it is lost.
    kept: Option<Kept>,
    created_at: i64,
    used_at: Option<i64>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Test {
    model: String,
    version: String,
    rtt_ms: f64,
}

impl From<BoxError> for ApiError {
    fn from(e: BoxError) -> Self {
        Self::new(e.code(), e)
    }
}

async fn entry(app: &App, row: BoxRow) -> BoxEntry {
    let kept = app.boxes.kept(&row).await;
    let active = app.changing().active.id == row.id;
    let (address, certificate) = row.paired.map(|p| (p.address, p.certificate.short())).unzip();
    BoxEntry {
        id: row.id,
        name: row.name,
        bundled: address.is_none(),
        active,
        address,
        certificate,
        model: row.model,
        kept,
        created_at: row.created_at,
        used_at: row.used_at,
    }
}

/// The box that was in use when the app ended; the bundled one if it is gone.
pub(crate) async fn last_used(store: &tandem_device::store::Store) -> Option<Active> {
    let kept = store.setting(SETTING).await.ok()??;
    let row = store.one_box(kept.parse().ok()?).await.ok()?;
    Some(row.into())
}

/// Uses another box from now on. Answers that are being written stay with theirs.
async fn choose(app: &App, row: BoxRow) -> Answer<()> {
    app.store.set_setting(SETTING, &row.id.to_string()).await?;
    {
        let mut now = app.changing();
        if now.active.id != row.id {
            now.link = None;
            now.bundled = None;
        }
        now.edge_problem = None;
        now.active = row.into();
    }
    app.tell_status();
    app.wake().await;
    Ok(())
}

#[tauri::command]
pub(crate) async fn boxes_list(app: Shared<'_>) -> Answer<Vec<BoxEntry>> {
    let mut list = Vec::new();
    for row in app.store.boxes().await? {
        list.push(entry(&app, row).await);
    }
    Ok(list)
}

#[tauri::command]
pub(crate) async fn boxes_discover(app: Shared<'_>) -> Answer<Vec<Found>> {
    crate::system::listen(&app, true).await;
    let found = discover(SEARCH).await;
    crate::system::listen(&app, false).await;
    found.map_err(|e| ApiError::new("network", e))
}

/// `place` is a link, or an address when there is a code.
#[tauri::command]
pub(crate) async fn box_pair(
    app: Shared<'_>,
    place: String,
    code: Option<String>,
) -> Answer<BoxEntry> {
    let target = Target::parse(&place, code.as_deref())?;
    let (row, _) = app.boxes.pair(&target, &device_name()).await?;
    if app.changing().active.id == row.id {
        // Paired anew: the link has the old token, and perhaps the old certificate.
        app.changing().link = None;
        choose(&app, row.clone()).await?;
    }
    Ok(entry(&app, row).await)
}

#[tauri::command]
pub(crate) async fn box_choose(app: Shared<'_>, id: i64) -> Answer<()> {
    choose(&app, app.store.one_box(id).await?).await
}

#[tauri::command]
pub(crate) async fn box_rename(app: Shared<'_>, id: i64, name: String) -> Answer<()> {
    app.store.rename_box(id, &name).await?;
    let row = app.store.one_box(id).await?;
    {
        let mut now = app.changing();
        if now.active.id == id {
            now.active = row.into();
        }
    }
    app.tell_status();
    Ok(())
}

#[tauri::command]
pub(crate) async fn box_test(app: Shared<'_>, id: i64) -> Answer<Test> {
    let row = app.store.one_box(id).await?;
    let found = if row.paired.is_some() {
        app.boxes.check(&row).await?
    } else {
        let url = app.changing().bundled.as_ref().map(|edge| edge.url.clone());
        let off = || ApiError::new("off", "the local edge runs only while it is in use");
        let address = url.ok_or_else(off)?.parse().map_err(BoxError::from)?;
        tandem_device::check(&address).await.map_err(BoxError::from)?
    };
    Ok(Test { model: found.edge.model, version: found.edge.version, rtt_ms: found.rtt_ms })
}

/// Takes leave of a box; with `here_only` even if it cannot be told.
#[tauri::command]
pub(crate) async fn box_remove(app: Shared<'_>, id: i64, here_only: bool) -> Answer<()> {
    let row = app.store.one_box(id).await?;
    app.boxes.remove(&row, here_only).await?;
    if app.changing().active.id == id {
        let bundled = app.store.boxes().await?.into_iter().find(|b| b.paired.is_none());
        if let Some(bundled) = bundled {
            choose(&app, bundled).await?;
        }
    }
    Ok(())
}
