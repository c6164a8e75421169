//! What a job shows of itself.

use serde::{Deserialize, Serialize};

use super::{AggregatorJob, Outcome, Phase};
use crate::job::JobPackage;
use crate::refusal::Culprit;
use crate::round::keying::JobKey;
use crate::round::messages::{ResultRecord, RoundOpen};
use crate::wire::{Name, Verified};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;

/// What the aggregator shows about a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Name of the phase.
    pub phase: String,
    /// Round that is open or next.
    pub round: u32,
    /// Attempt of it.
    pub attempt: u16,
    /// Rounds opened so far.
    pub opened: u32,
    /// Rounds of the whole job.
    pub rounds: u32,
    /// Parties that joined; the active ones are invited next.
    pub joined: Vec<Name>,
    /// Members of the current attempt so far.
    pub submitted: Vec<Name>,
    /// Key and shares of a threshold job.
    pub holding: Holding,
    /// Set at the end.
    pub outcome: Option<Outcome>,
}

/// Where the key and the shares of a threshold job stand; empty in other jobs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Holding {
    /// Id of the key, once it is made.
    pub key: Option<Hash>,
    /// Calls for a key so far.
    pub key_calls: u16,
    /// While a key is made: whose posts are missing.
    pub key_waits_for: Vec<Name>,
    /// Holders asked for a share of the round that is being opened.
    pub asked: Vec<Name>,
    /// Holders whose share is here.
    pub held: Vec<Name>,
    /// Holders passed over: their share was wrong, or they refused.
    pub passed_over: Vec<Name>,
}

impl AggregatorJob {
    /// Manifest and approvals, once every authority approved.
    #[must_use]
    pub fn package(&self) -> Option<JobPackage> {
        let approvals: Option<Vec<_>> = self
            .manifest
            .authorities
            .iter()
            .map(|a| self.approvals.get(&a.name).map(|approval| approval.signed().clone()))
            .collect();
        Some(JobPackage { manifest: self.manifest.clone(), approvals: approvals? })
    }

    /// The attempt that takes submissions now.
    #[must_use]
    pub const fn open_round(&self) -> Option<&Verified<RoundOpen>> {
        match &self.phase {
            Phase::Collecting(attempt) => Some(&attempt.open),
            _ => None,
        }
    }

    /// The attempt that is open, frozen or being opened, and its label.
    #[must_use]
    pub fn live_attempt(&self) -> Option<(&Verified<RoundOpen>, Label)> {
        self.attempt().map(|attempt| (&attempt.open, attempt.label))
    }

    /// Results so far, oldest first.
    #[must_use]
    pub fn results(&self) -> &[Verified<ResultRecord>] {
        &self.results
    }

    /// How the job ended, if it did.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Finished(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Name of the phase, for reports.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        match &self.phase {
            Phase::Registering => "Registering",
            Phase::Gathering(_) => "Gathering",
            Phase::Keying(_) => "Keying",
            Phase::Collecting(_) => "Collecting",
            Phase::Promising(_) => "Promising",
            Phase::Releasing(_) => "Releasing",
            Phase::Opening(_) => "Opening",
            Phase::Tombstoning(_) => "Tombstoning",
            Phase::Finished(_) => "Finished",
            Phase::Carrying(_) => "Carrying",
        }
    }

    /// What to show about the job.
    #[must_use]
    pub fn status(&self) -> Status {
        let opened = u32::try_from(self.results.len()).unwrap_or(u32::MAX);
        let (round, attempt) = match &self.phase {
            Phase::Gathering(g) => (g.round, g.attempt),
            Phase::Tombstoning(t) => (t.round, t.attempt),
            _ => {
                self.attempt().map_or((opened, 0), |a| (a.open.fields.round, a.open.fields.attempt))
            }
        };
        Status {
            phase: self.state_name().to_owned(),
            round,
            attempt,
            opened,
            rounds: self.manifest.workload.rounds(),
            joined: self.parties.iter().filter(|(_, j)| j.active).map(|(n, _)| n.clone()).collect(),
            submitted: self
                .attempt()
                .map(|a| a.headers.keys().cloned().collect())
                .unwrap_or_default(),
            holding: self.holding(),
            outcome: self.outcome().cloned(),
        }
    }

    fn holding(&self) -> Holding {
        let mut holding = Holding {
            key: self.key.as_ref().map(JobKey::id),
            key_calls: self.key_calls,
            ..Holding::default()
        };
        match &self.phase {
            Phase::Keying(phase) => {
                let missing = self
                    .manifest
                    .threshold_scheme()
                    .map(|scheme| phase.keying.missing(&self.manifest, scheme));
                let names = missing.unwrap_or_default().into_iter().filter_map(|who| match who {
                    Culprit::Party(name) | Culprit::Authority(name) => Some(name),
                    Culprit::Aggregator => None,
                });
                holding.key_waits_for = names.collect();
            }
            Phase::Releasing(bound) | Phase::Opening(bound) => {
                holding.asked = bound.shares.asked.iter().cloned().collect();
                holding.held = bound.shares.partials.keys().cloned().collect();
                holding.passed_over = bound.shares.bad.iter().cloned().collect();
            }
            _ => {}
        }
        holding
    }
}
