//! Desktops: Linux says much in files; elsewhere memory, heat and power stay unknown. The screen is
//! kept awake on all three systems. Nothing pauses a desktop's app, and a lost network is found by the
//! link itself.

use crate::{Conditions, Error, Notice, Signal};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tandem_device::policy::Thermal;
use tauri::plugin::PluginApi;
use tauri::{AppHandle, Runtime};

/// The system.
pub struct Mobile<R: Runtime> {
    awake: Arc<Mutex<Option<keepawake::KeepAwake>>>,
    _runtime: PhantomData<fn() -> R>,
}

// The same calls as on phones, where they wait for the native side and can fail.
impl<R: Runtime> Mobile<R> {
    pub(crate) fn new<C: serde::de::DeserializeOwned>(
        _app: &AppHandle<R>,
        _api: PluginApi<R, C>,
    ) -> Result<Self, Error> {
        Ok(Self { awake: Arc::default(), _runtime: PhantomData })
    }

    /// Hears of signals from now on: there are none.
    pub fn watch(&self, _on: impl Fn(Signal) + Send + Sync + 'static) -> Result<(), Error> {
        Ok(())
    }

    /// How the device is now.
    pub async fn conditions(&self) -> Result<Conditions, Error> {
        // Some of these files ask the hardware.
        let work =
            || Conditions { memory: tandem_inference::available_memory(), ..read(Path::new("/")) };
        let done = tauri::async_runtime::spawn_blocking(work).await;
        done.map_err(|e| Error(e.to_string()))
    }

    /// Keeps the screen on, or lets it go off again.
    ///
    /// # Errors
    /// If the system has nobody to ask, as where there is no session.
    pub async fn keep_awake(&self, on: bool) -> Result<(), Error> {
        let awake = Arc::clone(&self.awake);
        // Waits for the system, so on a thread of its own.
        let work = move || {
            let mut awake = awake.lock().unwrap_or_else(PoisonError::into_inner);
            if on && awake.is_some() {
                return Ok(());
            }
            let mut ask = keepawake::Builder::default();
            let ask = ask.display(true).reason("An answer is being written");
            let ask = ask.app_name("Tandem").app_reverse_domain("app.tandem.chat");
            *awake = on.then(|| ask.create()).transpose().map_err(|e| Error(e.to_string()))?;
            Ok(())
        };
        let done = tauri::async_runtime::spawn_blocking(work).await;
        done.map_err(|e| Error(e.to_string()))?
    }

    /// A desktop lets its programs work.
    pub async fn work(&self, _notice: Option<Notice>) -> Result<(), Error> {
        Ok(())
    }

    /// A desktop hears the network's announcements.
    pub async fn listen(&self, _on: bool) -> Result<(), Error> {
        Ok(())
    }
}

fn line(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Folders in a folder of `/sys/class`, in order of their names.
fn each(folder: PathBuf) -> Vec<PathBuf> {
    let found = std::fs::read_dir(folder).map(|all| all.flatten().map(|e| e.path()).collect());
    let mut found: Vec<PathBuf> = found.unwrap_or_default();
    found.sort();
    found
}

/// What Linux says below `root`; all unknown on other systems.
fn read(root: &Path) -> Conditions {
    let (battery, charging) = power(&each(root.join("sys/class/power_supply")));
    let profile = line(root.join("sys/firmware/acpi/platform_profile"));
    Conditions {
        thermal: each(root.join("sys/class/thermal")).iter().filter_map(|z| zone(z)).max(),
        battery,
        charging,
        power_saver: profile.map(|p| p == "low-power"),
        ..Conditions::default()
    }
}

/// Charge of the fullest battery, and whether none of them drains.
fn power(supplies: &[PathBuf]) -> (Option<f32>, Option<bool>) {
    let (mut percent, mut charging) = (None, None);
    for supply in supplies {
        let says = |name: &str| line(supply.join(name));
        // Those of mice and the like have the scope `Device`.
        let own = says("scope").as_deref() != Some("Device");
        if own && says("type").as_deref() == Some("Battery") {
            let drains = says("status").as_deref() == Some("Discharging");
            percent = percent.max(says("capacity").and_then(|c| c.parse::<u8>().ok()));
            charging = Some(charging.unwrap_or(true) && !drains);
        }
    }
    (percent.map(|p| f32::from(p.min(100)) / 100.0), charging)
}

/// How near a thermal zone is to the temperatures at which the system itself acts.
fn zone(folder: &Path) -> Option<Thermal> {
    let number = |name: &str| line(folder.join(name)).and_then(|t| t.parse::<i64>().ok());
    // Thousandths of a degree.
    let now = number("temp")?;
    let mut heat = None;
    for i in 0.. {
        let Some(kind) = line(folder.join(format!("trip_point_{i}_type"))) else { break };
        let Some(at) = number(&format!("trip_point_{i}_temp")).filter(|at| *at > 0) else {
            continue;
        };
        let reached = match kind.as_str() {
            "critical" | "hot" if now >= at - 5_000 => Thermal::Critical,
            "passive" if now >= at => Thermal::Hot,
            "critical" | "hot" | "passive" => Thermal::Cool,
            // A fan's.
            _ => continue,
        };
        heat = heat.max(Some(reached));
    }
    heat
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files.
    fn files(all: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in all {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, format!("{text}\n")).expect("a file");
        }
        root
    }

    #[test]
    fn a_machine_that_says_nothing_is_unknown() {
        assert_eq!(read(files(&[]).path()), Conditions::default());
    }

    #[test]
    fn a_laptop_on_its_battery() {
        let of = |status: &str, profile: &str| {
            let root = files(&[
                ("sys/class/power_supply/AC/type", "Mains"),
                ("sys/class/power_supply/BAT0/type", "Battery"),
                ("sys/class/power_supply/BAT0/capacity", "17"),
                ("sys/class/power_supply/BAT0/status", status),
                ("sys/class/power_supply/mouse/type", "Battery"),
                ("sys/class/power_supply/mouse/scope", "Device"),
                ("sys/class/power_supply/mouse/capacity", "90"),
                ("sys/firmware/acpi/platform_profile", profile),
            ]);
            read(root.path())
        };
        let draining = of("Discharging", "low-power");
        assert_eq!((draining.battery, draining.charging), (Some(0.17), Some(false)));
        assert_eq!(draining.power_saver, Some(true));
        for status in ["Charging", "Full", "Not charging"] {
            let charged = of(status, "balanced");
            assert_eq!((charged.charging, charged.power_saver), (Some(true), Some(false)));
        }
    }

    #[test]
    fn the_hottest_zone_counts_by_its_own_limits() {
        let at = |temp: &str| {
            let root = files(&[
                ("sys/class/thermal/thermal_zone0/temp", temp),
                ("sys/class/thermal/thermal_zone0/trip_point_0_type", "active"),
                ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "40000"),
                ("sys/class/thermal/thermal_zone0/trip_point_1_type", "passive"),
                ("sys/class/thermal/thermal_zone0/trip_point_1_temp", "85000"),
                ("sys/class/thermal/thermal_zone0/trip_point_2_type", "critical"),
                ("sys/class/thermal/thermal_zone0/trip_point_2_temp", "105000"),
                ("sys/class/thermal/thermal_zone1/temp", "30000"),
                ("sys/class/thermal/thermal_zone1/trip_point_0_type", "critical"),
                ("sys/class/thermal/thermal_zone1/trip_point_0_temp", "0"),
            ]);
            read(root.path()).thermal
        };
        assert_eq!(at("60000"), Some(Thermal::Cool));
        assert_eq!(at("85000"), Some(Thermal::Hot));
        assert_eq!(at("101000"), Some(Thermal::Critical));
        assert_eq!(at("hot"), None);
    }

    const KOTLIN: &str = include_str!("../android/src/main/java/TandemMobilePlugin.kt");
    const SWIFT: &str = include_str!("../ios/Sources/TandemMobilePlugin.swift");

    /// The words between `before` and the next quotation mark.
    fn quoted<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next())
    }

    /// No compiler sees both sides of the border.
    #[test]
    fn the_native_sources_use_the_names_that_rust_knows() {
        let known = |name: &str| serde_json::from_str::<Signal>(&format!("\"{name}\"")).is_ok();
        for name in ["changed", "memory", "network", "paused", "resumed"] {
            assert!(known(name), "{name}");
            for text in [KOTLIN, SWIFT] {
                assert!(quoted(text, "tell(\"").any(|said| said == name), "{name}");
            }
        }
        assert!(quoted(KOTLIN, "tell(\"").chain(quoted(SWIFT, "tell(\"")).all(known));
        let conditions = serde_json::to_value(Conditions::default()).expect("an object");
        for (field, _) in conditions.as_object().expect("an object") {
            assert!(quoted(KOTLIN, "now.put(\"").any(|name| name == field), "{field}");
            assert!(SWIFT.contains(&format!("let {field}: ")), "{field}");
        }
        for heat in quoted(KOTLIN, "-> \"").chain(quoted(SWIFT, "return \"")) {
            let heat = serde_json::from_str::<Thermal>(&format!("\"{heat}\""));
            assert!(heat.is_ok(), "{heat:?}");
        }
        let rust = include_str!("mobile.rs");
        let commands = quoted(rust, "plugin_async(\"").chain(quoted(rust, "run_mobile_plugin(\""));
        let commands: Vec<_> = commands.collect();
        assert_eq!(commands.len(), 6, "{commands:?}");
        for name in commands {
            assert!(KOTLIN.contains(&format!("@Command\n  fun {name}(")), "{name}");
            assert!(SWIFT.contains(&format!("@objc public func {name}(")), "{name}");
        }
    }
}
