//! The devices that may use this edge, as a file that `tandem-edge devices` changes too.

use crate::state::{StateError, StateFolder, hex, now_ms, random};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tandem_protocol::clean_name;

const FILE: &str = "devices.json";
const REMEDY: &str = "restore it, or move it away, and pair the devices again";
/// Devices at most.
const MAX_DEVICES: usize = 1000;
/// How exact the time of the last use is, so that the file is not written all the time.
const SEEN_MS: u64 = 60_000;

/// A paired device. Its token is known to it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Names it for good.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// SHA-256 of its token; the token has 256 random bits, so this tells nothing about it.
    pub token_sha256: String,
    /// Milliseconds since the epoch.
    pub paired_at: u64,
    /// When it last connected.
    pub seen_at: Option<u64>,
}

/// The list, in a state folder.
#[derive(Clone, Debug)]
pub struct Devices(StateFolder);

pub(crate) fn token_hash(token: &str) -> String {
    hex(&Sha256::digest(token))
}

impl Devices {
    /// The list in this folder.
    #[must_use]
    pub fn new(folder: StateFolder) -> Self {
        Self(folder)
    }

    /// All devices, in the order of their pairing.
    ///
    /// # Errors
    /// If the file is damaged or cannot be read.
    pub fn list(&self) -> Result<Vec<Device>, StateError> {
        Ok(self.0.read_json(FILE, REMEDY)?.unwrap_or_default())
    }

    pub(crate) fn stamp(&self) -> Option<(std::time::SystemTime, u64)> {
        self.0.stamp(FILE)
    }

    fn change<R>(
        &self,
        change: impl FnOnce(&mut Vec<Device>) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        let _lock = self.0.lock(FILE)?;
        let mut list = self.list()?;
        let result = change(&mut list)?;
        self.0.write_json(FILE, &list)?;
        Ok(result)
    }

    /// A new device and its token.
    ///
    /// # Errors
    /// If the file cannot be changed, or the list is full.
    pub(crate) fn add(&self, name: &str) -> Result<(Device, String), StateError> {
        let token = format!("tandem_{}", hex(&random::<32>()));
        let name = Some(clean_name(name)).filter(|n| !n.is_empty());
        let device = Device {
            id: hex(&random::<4>()),
            name: name.unwrap_or_else(|| "a device".into()),
            token_sha256: token_hash(&token),
            paired_at: now_ms(),
            seen_at: None,
        };
        self.change(|list| {
            if list.len() >= MAX_DEVICES {
                return Err(StateError::Full(MAX_DEVICES));
            }
            list.push(device.clone());
            Ok((device, token))
        })
    }

    /// Gives a device, named by id or name, another name.
    ///
    /// # Errors
    /// If there is no such device, more than one, or the file cannot be changed.
    pub fn rename(&self, which: &str, name: &str) -> Result<Device, StateError> {
        self.change(|list| {
            let place = find(list, which)?;
            list[place].name = Some(clean_name(name))
                .filter(|n| !n.is_empty())
                .unwrap_or_else(|| list[place].name.clone());
            Ok(list[place].clone())
        })
    }

    /// Takes a device's access away; a serving edge drops its connections within moments.
    ///
    /// # Errors
    /// As [`Self::rename`].
    pub fn revoke(&self, which: &str) -> Result<Device, StateError> {
        self.change(|list| {
            let place = find(list, which)?;
            Ok(list.remove(place))
        })
    }

    /// Notes that a device is here.
    pub(crate) fn seen(&self, device: &Device) {
        let now = now_ms();
        if device.seen_at.is_some_and(|at| now.saturating_sub(at) < SEEN_MS) {
            return;
        }
        let done = self.change(|list| {
            if let Some(found) = list.iter_mut().find(|d| d.id == device.id) {
                found.seen_at = Some(now);
            }
            Ok(())
        });
        if let Err(e) = done {
            tracing::warn!("cannot note when a device was here: {e}");
        }
    }
}

fn find(list: &[Device], which: &str) -> Result<usize, StateError> {
    if let Some(place) = list.iter().position(|d| d.id == which) {
        return Ok(place);
    }
    let mut named = list.iter().enumerate().filter(|(_, d)| d.name == which);
    match (named.next(), named.next()) {
        (Some((place, _)), None) => Ok(place),
        (Some(_), Some(_)) => Err(StateError::Ambiguous(which.to_owned())),
        _ => Err(StateError::NoDevice(which.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_does_not_grow_without_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let devices = Devices::new(StateFolder::open(folder.path()).expect("a folder"));
        let (first, _) = devices.add("first").expect("a device");
        devices
            .change(|list| {
                list.resize(MAX_DEVICES, first.clone());
                list[1].id = "other".into();
                Ok(())
            })
            .expect("a change");
        let full = devices.add("one more").expect_err("a limit").to_string();
        assert!(full.contains("1000 devices") && full.contains("revoke"), "{full}");
        assert_eq!(devices.list().expect("a list").len(), MAX_DEVICES);
        devices.revoke("other").expect("a device");
        devices.add("one more").expect("room");
    }
}
