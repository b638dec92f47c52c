//! What a person does with boxes: pair, choose, test, take leave. For the terminal and the app alike.

use crate::address::{AddressError, EdgeAddress};
use crate::control::{self, Checked, ControlError};
use crate::secrets::{Kept, SecretError, Secrets};
use crate::store::{BoxRow, PairedBox, Store, StoreError};
use std::path::Path;
use tandem_protocol::{PairingCode, PairingError, PairingLink};
use thiserror::Error;

/// What went wrong with a box. The text says what to do.
#[derive(Debug, Error)]
pub enum BoxError {
    /// The edge.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What was typed in.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// What was typed in.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// The bundled edge is not of this kind.
    #[error("the local edge belongs to the app: it is always there and needs no pairing")]
    Bundled,
    /// No such box.
    #[error("no box is called {0}; `tandem boxes list` shows them")]
    Unknown(String),
}

impl BoxError {
    /// A word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Control(ControlError::Unreachable(_)) => "unreachable",
            Self::Control(ControlError::Certificate(_)) => "certificate",
            Self::Control(ControlError::Access(_)) => "access",
            Self::Control(ControlError::Pairing(_) | ControlError::Impostor) => "pairing",
            Self::Control(ControlError::Other(_)) => "edge",
            Self::Store(_) => "store",
            Self::Secret(_) => "secret",
            Self::Address(_) | Self::Pairing(_) | Self::Unknown(_) => "input",
            Self::Bundled => "bundled",
        }
    }
}

/// The boxes of one database.
#[derive(Clone)]
pub struct Boxes {
    store: Store,
    secrets: Secrets,
}

/// Work with files or the key store, off the runtime.
async fn apart<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, SecretError> + Send + 'static,
) -> Result<R, SecretError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(SecretError::Store(e.to_string())))
}

impl Boxes {
    /// Of an open database, which is the file `path`.
    #[must_use]
    pub fn new(store: Store, path: &Path) -> Self {
        let secrets = Secrets::new(path.parent().unwrap_or(Path::new("")));
        Self { store, secrets }
    }

    /// Pairs by a link, which names everything, or by an address and a code. Paired again, a box
    /// keeps its place in the list.
    ///
    /// # Errors
    /// If the texts are no such things, the edge is not reached or refuses, or the result cannot be
    /// kept; then the edge is told to forget it.
    pub async fn pair(&self, target: &Target, device: &str) -> Result<(BoxRow, Kept), BoxError> {
        let (address, certificate, code) = match target {
            Target::Link(link) => {
                let address = format!("wss://{}:{}", link.host, link.port).parse()?;
                (address, Some(link.certificate), &link.code)
            }
            Target::Code(address, code) => (address.clone(), None, code),
        };
        let paired = control::pair(&address, certificate, code, device).await?;
        let (secrets, name, token) = (self.secrets.clone(), paired.device.clone(), paired.token);
        let kept = match apart(move || secrets.keep(&name, &token)).await {
            Ok(kept) => kept,
            Err(e) => {
                let _ = control::forget(&paired.address).await;
                return Err(e.into());
            }
        };
        let row = PairedBox {
            address: paired.address.authority().to_owned(),
            certificate: paired.certificate,
            device: paired.device.clone(),
        };
        match self.store.add_box(&paired.edge.name, &row, &paired.edge.model).await {
            Ok((added, before)) => {
                // The edge's list would otherwise keep a device that no one is any more.
                if let Some(before) = before.filter(|before| *before != paired.device) {
                    let secrets = self.secrets.clone();
                    let name = before.clone();
                    if let Ok((old, _)) = apart(move || secrets.get(&name)).await {
                        let address = paired.address.clone().with_token(Some(old));
                        let _ = control::forget(&address).await;
                    }
                    let secrets = self.secrets.clone();
                    let _ = apart(move || secrets.forget(&before)).await;
                }
                Ok((added, kept))
            }
            Err(e) => {
                let _ = control::forget(&paired.address).await;
                let secrets = self.secrets.clone();
                let _ = apart(move || secrets.forget(&paired.device)).await;
                Err(e.into())
            }
        }
    }

    /// How a paired box is reached, with its token.
    ///
    /// # Errors
    /// If it is the bundled one, or its token cannot be had.
    pub async fn address(&self, row: &BoxRow) -> Result<EdgeAddress, BoxError> {
        let paired = row.paired.clone().ok_or(BoxError::Bundled)?;
        let secrets = self.secrets.clone();
        let (token, _) = apart(move || secrets.get(&paired.device)).await?;
        let address: EdgeAddress = paired.address.parse()?;
        Ok(address.pinned(paired.certificate).with_token(Some(token)))
    }

    /// Where a box's token is; `None` if it has none that can be had.
    pub async fn kept(&self, row: &BoxRow) -> Option<Kept> {
        let (secrets, device) = (self.secrets.clone(), row.paired.clone()?.device);
        apart(move || Ok(secrets.place(&device))).await.ok().flatten()
    }

    /// Tests a paired box.
    ///
    /// # Errors
    /// If it is not reached or refuses.
    pub async fn check(&self, row: &BoxRow) -> Result<Checked, BoxError> {
        let checked = control::check(&self.address(row).await?).await?;
        self.store.box_used(row.id, Some(&checked.edge.model)).await?;
        Ok(checked)
    }

    /// Tells a box to forget this device, and forgets it. A box that does not know this device any
    /// more is as good as told. With `here_only` a box that is not reached is forgotten here alone.
    ///
    /// # Errors
    /// If the box is not reached, or what is kept of it cannot be removed. Then it stays.
    pub async fn remove(&self, row: &BoxRow, here_only: bool) -> Result<(), BoxError> {
        let paired = row.paired.clone().ok_or(BoxError::Bundled)?;
        let told = match self.address(row).await {
            Ok(address) => control::forget(&address).await.map_err(BoxError::from),
            Err(e) => Err(e),
        };
        match told {
            Ok(()) | Err(BoxError::Control(ControlError::Access(_))) => {}
            // Without a token there is nothing to take leave with.
            Err(BoxError::Secret(SecretError::Missing)) => {}
            Err(_) if here_only => {}
            Err(e) => return Err(e),
        }
        let secrets = self.secrets.clone();
        apart(move || secrets.forget(&paired.device)).await?;
        Ok(self.store.delete_box(row.id).await?)
    }

    /// The box of this name.
    ///
    /// # Errors
    /// If there is none.
    pub async fn named(&self, name: &str) -> Result<BoxRow, BoxError> {
        let all = self.store.boxes().await?;
        let found = all.into_iter().find(|b| b.name.to_lowercase() == name.trim().to_lowercase());
        found.ok_or_else(|| BoxError::Unknown(name.to_owned()))
    }
}

/// What to pair with.
#[derive(Clone, Debug)]
pub enum Target {
    /// From a picture or pasted.
    Link(PairingLink),
    /// Typed in.
    Code(EdgeAddress, PairingCode),
}

impl Target {
    /// From what someone typed: a link alone, or an address and a code.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(place: &str, code: Option<&str>) -> Result<Self, BoxError> {
        match code.map(str::trim).filter(|c| !c.is_empty()) {
            None => Ok(Self::Link(place.parse()?)),
            Some(code) => Ok(Self::Code(place.parse()?, code.parse()?)),
        }
    }
}

/// This machine's name, as boxes know it when nothing else is said.
#[must_use]
pub fn device_name() -> String {
    let name = tandem_protocol::clean_name(&gethostname::gethostname().to_string_lossy());
    if name.is_empty() { "a device".into() } else { name }
}
