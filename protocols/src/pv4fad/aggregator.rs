//! The aggregator's side: it carries sealed envelopes and logs one assignment per model version.

use std::collections::BTreeMap;

use quorate_crypto::merkle::Hash;
use serde::{Deserialize, Serialize};

use super::messages::{Assigned, Logged, Message};
use super::{Envelope, Job, Keep};
use crate::machine::{Context, Fact, Output, Peer};
use crate::refusal::{Code, Refusal};
use crate::wire::{Name, Signed, Verified};

/// An output of this machine.
pub type AggregatorOutput = Output<Message, Keep>;

/// One payments job at the aggregator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AggregatorJob {
    job: Job,
    logged: BTreeMap<u32, Verified<Logged>>,
}

impl AggregatorJob {
    /// A job without a log.
    #[must_use]
    pub const fn new(job: Job) -> Self {
        Self { job, logged: BTreeMap::new() }
    }

    /// Where an envelope goes: a bank, the network or the authority of the job.
    ///
    /// # Errors
    /// [`Code::UnknownJob`], [`Code::UnknownParty`].
    pub fn route(&self, envelope: &Envelope) -> Result<Peer, Refusal> {
        if envelope.job != self.job.id() {
            return Err(Refusal::new(Code::UnknownJob, "an envelope of another job"));
        }
        let peer = |name: &Name| {
            if *name == self.job.authority.name {
                return Ok(Peer::Authority(name.clone()));
            }
            if *name != self.job.network.party {
                self.job.bank(name)?;
            }
            Ok(Peer::Party(name.clone()))
        };
        peer(&envelope.from)?;
        peer(&envelope.to)
    }

    /// Logs an assignment: one per model version, ever.
    ///
    /// # Errors
    /// [`Code::BadSignature`], [`Code::UnknownJob`]; [`Code::LabelUsed`] for a second assignment.
    pub fn log(
        &mut self,
        cx: &Context<'_>,
        assigned: &Signed<Assigned>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let assigned = self.job.by_network(assigned)?;
        let version = assigned.version;
        let known = self.logged.get(&version);
        if known.is_some_and(|known| known.hash != assigned.hash) {
            return Err(Refusal::new(
                Code::LabelUsed,
                "another assignment of this version is logged",
            )
            .blaming(self.job.network_culprit()));
        }
        let index = self.logged.len() as u64;
        let job = self.job.id();
        let logged = self.logged.entry(version).or_insert_with(|| {
            Signed::sign(Logged { job, version, hash: assigned.hash, index }, cx.identity)
        });
        let to = Peer::Party(self.job.network.party.clone());
        Ok(vec![
            Output::Log(Fact::job("assignment.logged", assigned.hash.to_string())),
            Output::Send { to, message: Message::Logged(logged.signed().clone()) },
        ])
    }

    /// The logged assignment of a version.
    #[must_use]
    pub fn logged(&self, version: u32) -> Option<Hash> {
        self.logged.get(&version).map(|logged| logged.hash)
    }
}
