//! The one open pairing: made by `tandem-edge pair`, settled by the serving edge.

use crate::state::{StateError, StateFolder, hex, now_ms, random};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tandem_protocol::{PairingCode, same};

const FILE: &str = "pairing.json";
const REMEDY: &str = "run `tandem-edge pair` again";
/// Wrong proofs that a code survives, less one. A typing error is likely, a lucky guess is not.
const MOST_WRONG: u32 = 5;

/// A code that is shown to someone, and what became of it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Offer {
    /// Tells it from an earlier one.
    pub id: String,
    /// The code; for people with access to the box.
    code: String,
    /// Milliseconds since the epoch.
    pub expires_at: u64,
    /// Guesses so far.
    pub wrong: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It can be used.
    Open,
    /// A device of this name used it.
    Paired(String),
    /// Too many wrong guesses.
    Guessed,
}

/// Why a code cannot be used, for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NoOffer,
    Expired,
    Used,
    Wrong,
    Guessed,
}

impl Refusal {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NoOffer => {
                "the box is not waiting for a device; run `tandem-edge pair` on it for a code"
            }
            Self::Expired => {
                "this code is too old; run `tandem-edge pair` on the box for a new one"
            }
            Self::Used => {
                "this code was already used; run `tandem-edge pair` on the box for a new one"
            }
            Self::Wrong => {
                "the code is wrong, or someone is between this device and the box; compare it with \
                 what the box shows"
            }
            Self::Guessed => {
                "the code was tried too often and is void; run `tandem-edge pair` on the box for a \
                 new one"
            }
        }
    }
}

/// The pairing in a state folder.
pub struct Pairing {
    folder: StateFolder,
    /// One proof is judged at a time: a code is used once, however many try it together.
    turn: Mutex<()>,
}

impl Pairing {
    /// The pairing in this folder.
    #[must_use]
    pub fn new(folder: StateFolder) -> Self {
        Self { folder, turn: Mutex::new(()) }
    }

    /// Offers a new code, in place of an earlier one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn offer(&self, lasts: Duration) -> Result<(Offer, PairingCode), StateError> {
        let code = PairingCode::from_random(random());
        let lasts = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let offer = Offer {
            id: hex(&random::<8>()),
            code: code.plain().to_owned(),
            expires_at: now_ms().saturating_add(lasts),
            wrong: 0,
            outcome: Outcome::Open,
        };
        let _lock = self.folder.lock(FILE)?;
        self.folder.write_json(FILE, &offer)?;
        Ok((offer, code))
    }

    /// How an offer is now; `None` if it was withdrawn or replaced.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn look(&self, id: &str) -> Result<Option<Offer>, StateError> {
        let offer: Option<Offer> = self.folder.read_json(FILE, REMEDY)?;
        Ok(offer.filter(|o| o.id == id))
    }

    /// Takes an offer back.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn withdraw(&self, id: &str) -> Result<(), StateError> {
        let _lock = self.folder.lock(FILE)?;
        if self.look(id)?.is_some() { self.folder.remove(FILE) } else { Ok(()) }
    }

    fn open(&self) -> Result<Result<Offer, Refusal>, StateError> {
        let offer: Option<Offer> = self.folder.read_json(FILE, REMEDY)?;
        Ok(match offer {
            None => Err(Refusal::NoOffer),
            Some(Offer { outcome: Outcome::Paired(_), .. }) => Err(Refusal::Used),
            Some(Offer { outcome: Outcome::Guessed, .. }) => Err(Refusal::Guessed),
            Some(offer) if now_ms() >= offer.expires_at => Err(Refusal::Expired),
            Some(offer) => Ok(offer),
        })
    }

    /// The open offer's id and code.
    pub(crate) fn begin(&self) -> Result<Result<(String, PairingCode), Refusal>, StateError> {
        Ok(self.open()?.and_then(|offer| {
            let code = offer.code.parse().map_err(|_| Refusal::NoOffer)?;
            Ok((offer.id, code))
        }))
    }

    /// Judges a proof: the first right one uses the code up, wrong ones are counted.
    pub(crate) fn settle(
        &self,
        id: &str,
        device: &str,
        shown: &[u8; 32],
        wanted: &[u8; 32],
    ) -> Result<Result<(), Refusal>, StateError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = self.folder.lock(FILE)?;
        // Before the comparison: a code that is not open any more tells nothing.
        let mut offer = match self.open()? {
            Ok(offer) if offer.id == id => offer,
            Ok(_) => return Ok(Err(Refusal::NoOffer)),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let verdict = if same(shown, wanted) {
            offer.outcome = Outcome::Paired(device.to_owned());
            Ok(())
        } else {
            offer.wrong += 1;
            if offer.wrong >= MOST_WRONG {
                offer.outcome = Outcome::Guessed;
                Err(Refusal::Guessed)
            } else {
                Err(Refusal::Wrong)
            }
        };
        self.folder.write_json(FILE, &offer)?;
        Ok(verdict)
    }
}
