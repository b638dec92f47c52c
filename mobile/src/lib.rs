//! What the system tells an app and does for it: heat, power and memory, a changed network, going to
//! the background and coming back; keeping the screen awake, and work that goes on in the background.
//!
//! The native sources are in `android` (Kotlin) and `ios` (Swift). On desktops it is what can be had
//! without them; what a system does not say stays unknown.

use serde::{Deserialize, Serialize};
use tandem_device::policy::Conditions;
use tauri::plugin::{Builder, TauriPlugin};
use tauri::{Manager, Runtime};

#[cfg(desktop)]
mod desktop;
#[cfg(mobile)]
mod mobile;

#[cfg(desktop)]
use desktop as system;
#[cfg(mobile)]
use mobile as system;

pub use system::Mobile;

/// The system cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

#[cfg(mobile)]
impl From<tauri::plugin::mobile::PluginInvokeError> for Error {
    fn from(e: tauri::plugin::mobile::PluginInvokeError) -> Self {
        Self(e.to_string())
    }
}

/// Something happened that the app should know at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Heat, power or the like changed: [`Mobile::conditions`] says how.
    Changed,
    /// The system warns that memory is running out.
    Memory,
    /// The default network is another one.
    Network,
    /// The app went to the background.
    Paused,
    /// The app came back, perhaps after a sleep.
    Resumed,
}

/// The notification of work in the background, in the person's language.
#[derive(Clone, Debug, Serialize)]
pub struct Notice {
    /// What the kind of notification is called in the system's settings.
    pub channel: String,
    /// Title.
    pub title: String,
}

/// Starts the plugin.
#[must_use]
pub fn init<R: Runtime>() -> TauriPlugin<R> {
    Builder::new("tandem-mobile")
        .setup(|app, api| {
            app.manage(Mobile::new(app, api)?);
            Ok(())
        })
        .build()
}

/// Gives the plugin to whoever has an app's handle.
pub trait MobileExt<R: Runtime> {
    /// The plugin.
    fn mobile(&self) -> &Mobile<R>;
}

impl<R: Runtime, T: Manager<R>> MobileExt<R> for T {
    fn mobile(&self) -> &Mobile<R> {
        self.state::<Mobile<R>>().inner()
    }
}
