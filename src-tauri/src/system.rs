//! The device's state: follows what the system says and acts on the policies of
//! `tandem_device::policy`. Keeps the device awake while an answer is written.

use crate::models;
use crate::state::{App, CONTEXT};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tandem_device::policy::{
    Advice, Candidate, Conditions, Policy, Reason, Weights, choose_drafter,
};
use tandem_device::{Drafter, DrafterError};
use tandem_inference::store::Store;
use tandem_inference::{Facts, LoadOptions};
use tauri::State;
use tauri_plugin_tandem_mobile::{MobileExt, Notice, Signal};
use tokio::sync::mpsc;

/// How often the state is asked for while the app is used.
const LOOK: Duration = Duration::from_secs(5);
/// An answer that takes longer than this is worth a notification (Android).
const LONG: Duration = Duration::from_secs(8);
/// After less time in the background the connection is as good as it was.
const AWAY: Duration = Duration::from_secs(10);

/// The words of the notification, in the person's language.
#[tauri::command]
pub(crate) fn notice_words(app: State<'_, Arc<App>>, channel: String, title: String) {
    let short = |text: String| text.chars().take(100).collect();
    let notice = Notice { channel: short(channel), title: short(title) };
    *app.notice.lock().unwrap_or_else(PoisonError::into_inner) = notice;
}

/// Lets this device hear the announcements of boxes, or not any more.
pub(crate) async fn listen(app: &App, on: bool) {
    if let Err(e) = app.handle.mobile().listen(on).await {
        tracing::info!("announcements may not be heard: {e}");
    }
}

/// How the device is now; all unknown if the system does not answer.
async fn conditions(app: &App) -> Conditions {
    app.handle.mobile().conditions().await.unwrap_or_else(|e| {
        tracing::warn!("the state of this device is not known: {e}");
        Conditions::default()
    })
}

/// Follows the state as long as the app runs.
pub(crate) async fn follow(app: Arc<App>) {
    let (signals, mut inbox) = mpsc::channel(16);
    let watched = app.handle.mobile().watch(move |signal| {
        // Full only if nobody listens any more.
        let _ = signals.try_send(signal);
    });
    if let Err(e) = watched {
        tracing::warn!("changes of this device's state are not heard: {e}");
    }
    let (start, mut paused) = (Instant::now(), None::<Instant>);
    let mut policy = Policy::default();
    let (mut last, mut shown) = (Advice::Draft, Advice::Draft);
    loop {
        let signal = tokio::select! {
            Some(signal) = inbox.recv() => Some(signal),
            // Nothing runs in the background that had to be looked after.
            () = tokio::time::sleep(LOOK), if paused.is_none() || *app.answers.borrow() > 0 => None,
            else => return,
        };
        match signal {
            Some(Signal::Network) => reconnect(&app, "the network changed"),
            Some(Signal::Paused) => {
                paused = Some(Instant::now());
                if *app.answers.borrow() > 0 {
                    work(&app, true).await;
                }
            }
            Some(Signal::Resumed) => {
                if paused.take().is_some_and(|since| since.elapsed() > AWAY) {
                    reconnect(&app, "the app is back");
                }
            }
            Some(Signal::Changed | Signal::Memory) | None => {}
        }
        let mut is = conditions(&app).await;
        is.memory_low |= signal == Some(Signal::Memory);
        let (drafter, memory) = {
            let now = app.changing();
            (now.drafter.clone(), now.drafter_memory)
        };
        let weights = drafter.as_ref().map_or_else(Weights::default, |drafter| Weights {
            missing: if drafter.is_loaded() { 0 } else { memory },
            given_back: drafter.is_given_back(),
        });
        let advice = policy.judge(start.elapsed(), &is, weights);
        if advice != last {
            tracing::info!("drafting: {advice:?}, as {is:?}");
            last = advice;
        }
        if let Some(drafter) = drafter {
            drafter.advise(advice);
            // Weights come some time after they are asked for.
            let now = drafter.advice();
            if now != shown {
                shown = now;
                app.tell_status();
            }
        }
    }
}

fn reconnect(app: &App, why: &str) {
    if let Some(link) = &app.changing().link {
        tracing::info!("connecting anew: {why}");
        link.reconnect();
    }
}

/// Keeps the device awake while answers are written, and the app running in the background while they
/// take long.
pub(crate) async fn keep_awake(app: Arc<App>) {
    let mut answers = app.answers.subscribe();
    loop {
        if answers.wait_for(|n| *n > 0).await.is_err() {
            return;
        }
        let awake = app.handle.mobile().keep_awake(true).await;
        if let Err(e) = awake {
            tracing::info!("the screen may go off: {e}");
        }
        let none = |n: &usize| *n == 0;
        if tokio::time::timeout(LONG, answers.wait_for(none)).await.is_err() {
            work(&app, true).await;
            let _ = answers.wait_for(none).await;
        }
        work(&app, false).await;
        let _ = app.handle.mobile().keep_awake(false).await;
    }
}

async fn work(app: &App, on: bool) {
    let notice = on.then(|| app.notice.lock().unwrap_or_else(PoisonError::into_inner).clone());
    if let Err(e) = app.handle.mobile().work(notice).await {
        tracing::info!("the answer may stop in the background: {e}");
    }
}

/// A drafter for this device.
pub(crate) struct Loaded {
    pub drafter: Drafter,
    /// Bytes that its weights take.
    pub memory: u64,
    /// Why it is another one than wished, for people.
    pub remark: Option<String>,
}

/// Loads the wanted drafter, or what fits into memory in its place.
pub(crate) async fn load_drafter(
    app: &App,
    wanted: &str,
    path: PathBuf,
) -> Result<Loaded, DrafterError> {
    let free = conditions(app).await.memory;
    let (store, name) = (app.models.clone(), wanted.to_owned());
    let file = path.clone();
    let chosen = tokio::task::spawn_blocking(move || fitting(&store, &name, file, free))
        .await
        .map_err(|_| DrafterError::Gone)?;
    let options = LoadOptions::default();
    let (drafter, memory, smaller) = match chosen {
        // The file's own error says more than that nothing is known of its memory.
        Fit::Unknown => (Drafter::load(path, options, CONTEXT).await?, 0, false),
        Fit::Wanted(memory) => (Drafter::load(path, options, CONTEXT).await?, memory, false),
        Fit::Smaller(path, memory) => (Drafter::load(path, options, CONTEXT).await?, memory, true),
        Fit::None(memory) => (Drafter::open(path, options, CONTEXT).await?, memory, false),
    };
    let remark = smaller.then(|| format!("{wanted} does not fit into this device's memory"));
    Ok(Loaded { drafter, memory, remark })
}

/// With the bytes that it takes.
enum Fit {
    Unknown,
    Wanted(u64),
    Smaller(PathBuf, u64),
    /// Not even the smallest: what the wanted one would take.
    None(u64),
}

/// The drafter that fits: the wanted one, or a smaller one with its tokenizer.
fn fitting(store: &Store, wanted: &str, path: PathBuf, free: Option<u64>) -> Fit {
    let Ok(facts) = Facts::read(&path) else { return Fit::Unknown };
    let first = Candidate { name: wanted.to_owned(), memory: facts.memory(CONTEXT) };
    // The others are only looked at when they are needed: a header takes a while to read.
    if choose_drafter(&first, &[], free).is_some() {
        return Fit::Wanted(first.memory);
    }
    let others: Vec<_> = store
        .installed()
        .into_iter()
        .filter(|file| file.name != wanted)
        .filter_map(|file| Some((Facts::read(&file.path).ok()?, file.name)))
        .filter(|(other, _)| other.tokenizer == facts.tokenizer)
        .map(|(other, name)| Candidate { name, memory: other.memory(CONTEXT) })
        .collect();
    match choose_drafter(&first, &others, free) {
        None => Fit::None(first.memory),
        Some(chosen) => match models::ready(store, &chosen.name) {
            Some(path) => Fit::Smaller(path, chosen.memory),
            None => Fit::None(first.memory),
        },
    }
}

/// What a person should know of a drafter that drafts nothing.
pub(crate) fn remark(drafter: &Drafter) -> Option<String> {
    let rests = drafter.advice() == Advice::Stream(Reason::Memory);
    rests.then(|| "memory is short on this device, so the edge writes alone".into())
}

/// Whether this device has a camera that reads codes.
pub(crate) const SCANNER: bool = cfg!(mobile);
