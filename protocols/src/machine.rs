//! What every protocol machine looks like to a driver.
//!
//! A machine is a pure value: it is loaded, handles one event, and is stored again together with
//! its outputs in one transaction; only then do the outputs leave. A peer's bad message is a
//! [`Output::Reject`] and leaves the state as it was; a [`Bug`] is ours, and the driver keeps the
//! stored state.

use core::fmt;

use quorate_crypto::keys::Identity;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::policy::Charge;
use crate::refusal::Refusal;
use crate::wire::Name;

/// What a machine may use besides its state: a clock reading, its keys, randomness.
pub struct Context<'a> {
    /// Milliseconds since 1970 by the driver's clock.
    pub now_ms: u64,
    /// This role's keys.
    pub identity: &'a Identity,
    /// Randomness: the operating system's, or seeded in tests.
    pub rng: &'a mut dyn CryptoRng,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("now_ms", &self.now_ms).finish_non_exhaustive()
    }
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// The aggregator.
    Aggregator,
    /// One authority.
    Authority(Name),
    /// One party.
    Party(Name),
}

/// A line of the operator's log: what happened, with no payload and no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What happened, such as `round.opened`.
    pub what: String,
    /// Round, where there is one.
    pub round: Option<u32>,
    /// Attempt, where there is one.
    pub attempt: Option<u16>,
    /// Particulars.
    pub note: String,
}

impl Fact {
    /// A fact of one attempt.
    #[must_use]
    pub fn of(what: &str, round: u32, attempt: u16, note: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            round: Some(round),
            attempt: Some(attempt),
            note: note.into(),
        }
    }

    /// A fact of the whole job.
    #[must_use]
    pub fn job(what: &str, note: impl Into<String>) -> Self {
        Self { what: what.to_owned(), round: None, attempt: None, note: note.into() }
    }
}

/// What a machine asks its driver to do, once the new state is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Output<M, W> {
    /// Send a message; at least once, until an answer was handled.
    Send {
        /// Receiver.
        to: Peer,
        /// The message.
        message: M,
    },
    /// Charge the ledger of the data set in the same transaction, or refuse the whole step.
    Charge(Charge),
    /// Take the charge of an attempt that will never be opened back, in the same transaction.
    Refund(Charge),
    /// Do heavy work outside the machine and hand its result back as an event.
    Work(W),
    /// Append a line to the log.
    Log(Fact),
    /// The event was refused and changed nothing.
    Reject(Refusal),
}

/// Our own mistake: an event that no correct driver sends in this state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("driver error: {0}")]
pub struct Bug(pub String);
