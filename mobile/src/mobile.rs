//! Phones: everything is asked of the native side.

use crate::{Conditions, Error, Notice, Signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tauri::ipc::{Channel, InvokeResponseBody};
use tauri::plugin::{PluginApi, PluginHandle};
use tauri::{AppHandle, Runtime};

#[cfg(target_os = "ios")]
mod binding {
    // Tauri's macro declares the Swift function that makes the plugin.
    #![allow(unsafe_code, missing_docs)]
    tauri::ios_plugin_binding!(init_plugin_tandem_mobile);
    pub(super) const INIT: unsafe fn() -> *const std::ffi::c_void = init_plugin_tandem_mobile;
}

/// The native side.
pub struct Mobile<R: Runtime>(PluginHandle<R>);

#[derive(Serialize)]
struct Watch {
    handler: Channel,
}

#[derive(Serialize)]
struct On {
    on: bool,
}

#[derive(Deserialize)]
struct Heard {
    signal: Signal,
}

impl<R: Runtime> Mobile<R> {
    pub(crate) fn new<C: DeserializeOwned>(
        _app: &AppHandle<R>,
        api: PluginApi<R, C>,
    ) -> Result<Self, Error> {
        #[cfg(target_os = "android")]
        let handle = api.register_android_plugin("app.tandem.mobile", "TandemMobilePlugin")?;
        #[cfg(target_os = "ios")]
        let handle = api.register_ios_plugin(binding::INIT)?;
        Ok(Self(handle))
    }

    /// Hears of signals from now on.
    ///
    /// # Errors
    /// If the native side does not answer.
    pub fn watch(&self, on: impl Fn(Signal) + Send + Sync + 'static) -> Result<(), Error> {
        let handler = Channel::new(move |body| {
            if let InvokeResponseBody::Json(text) = body {
                match serde_json::from_str::<Heard>(&text) {
                    Ok(heard) => on(heard.signal),
                    Err(e) => tracing::warn!("the system says what is not understood: {e}"),
                }
            }
            Ok(())
        });
        Ok(self.0.run_mobile_plugin("watch", Watch { handler })?)
    }

    /// How the device is now.
    ///
    /// # Errors
    /// If the native side does not answer.
    pub async fn conditions(&self) -> Result<Conditions, Error> {
        Ok(self.0.run_mobile_plugin_async("conditions", ()).await?)
    }

    /// Keeps the screen on, or lets it go off again.
    ///
    /// # Errors
    /// If the native side does not answer.
    pub async fn keep_awake(&self, on: bool) -> Result<(), Error> {
        Ok(self.0.run_mobile_plugin_async("keepAwake", On { on }).await?)
    }

    /// Asks the system to let the app go on in the background, with a notification where one must be
    /// (Android); and says that this is over.
    ///
    /// # Errors
    /// If the system does not allow it now.
    pub async fn work(&self, notice: Option<Notice>) -> Result<(), Error> {
        let done = match notice {
            Some(notice) => self.0.run_mobile_plugin_async("beginWork", notice).await,
            None => self.0.run_mobile_plugin_async("endWork", ()).await,
        };
        Ok(done?)
    }

    /// Lets the device hear the network's announcements while boxes are looked for (Android filters
    /// them otherwise, to save power).
    ///
    /// # Errors
    /// If the native side does not answer.
    pub async fn listen(&self, on: bool) -> Result<(), Error> {
        Ok(self.0.run_mobile_plugin_async("listen", On { on }).await?)
    }
}
