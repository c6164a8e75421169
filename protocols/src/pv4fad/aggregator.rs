//! The aggregator's side: it carries letters and logs one assignment per model version.

use std::collections::BTreeMap;

use quorate_crypto::keys::VerifyKey;
use quorate_crypto::merkle::Hash;
use serde::{Deserialize, Serialize};

use super::Job;
use super::letters::{Close, Collect, Envelope};
use super::messages::{Assigned, Logged};
use crate::machine::{Context, Fact, Peer};
use crate::refusal::{Code, Refusal};
use crate::wire::{Name, Signed, Verified};

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

    /// The job.
    #[must_use]
    pub const fn job(&self) -> &Job {
        &self.job
    }

    fn of_job(&self, job: &Hash) -> Result<(), Refusal> {
        if *job == self.job.manifest {
            return Ok(());
        }
        Err(Refusal::new(Code::UnknownJob, "of another job"))
    }

    /// Where a role is, and its signature key.
    fn role(&self, name: &Name) -> Result<(Peer, VerifyKey), Refusal> {
        if *name == self.job.authority.name {
            return Ok((Peer::Authority(name.clone()), self.job.authority.verify));
        }
        if *name == self.job.network.party {
            return Ok((Peer::Party(name.clone()), self.job.network.verify));
        }
        Ok((Peer::Party(name.clone()), self.job.bank(name)?.verify))
    }

    /// Where a letter goes, and its sender. It is signed by a role of the job, and one of sender and
    /// receiver is the network: nobody else has anything to say to another.
    ///
    /// # Errors
    /// [`Code::UnknownJob`], [`Code::UnknownParty`], [`Code::BadSignature`].
    pub fn route(&self, letter: &Signed<Envelope>) -> Result<(Peer, Verified<Envelope>), Refusal> {
        let claimed = letter.peek()?;
        self.of_job(&claimed.job)?;
        let (_, key) = self.role(&claimed.from)?;
        let (to, _) = self.role(&claimed.to)?;
        let network = &self.job.network.party;
        if (claimed.from == *network) == (claimed.to == *network) {
            let why = "letters go from the network and to the network";
            return Err(Refusal::new(Code::UnknownParty, why));
        }
        Ok((to, letter.verify(&key)?))
    }

    /// Whose letters are asked for.
    ///
    /// # Errors
    /// As [`AggregatorJob::route`].
    pub fn collects(&self, collect: &Signed<Collect>) -> Result<Verified<Collect>, Refusal> {
        let claimed = collect.peek()?;
        self.of_job(&claimed.job)?;
        collect.verify(&self.role(&claimed.party)?.1)
    }

    /// The network ends the job; says why, if it does so early.
    ///
    /// # Errors
    /// [`Code::UnknownJob`], [`Code::BadSignature`], [`Code::TooLarge`].
    pub fn close(&self, close: &Signed<Close>) -> Result<Option<Refusal>, Refusal> {
        self.job.closed(close)
    }

    /// Logs an assignment: one per model version, ever.
    ///
    /// # Errors
    /// [`Code::BadSignature`], [`Code::UnknownJob`]; [`Code::LabelUsed`] for a second assignment.
    pub fn log(
        &mut self,
        cx: &Context<'_>,
        assigned: &Signed<Assigned>,
    ) -> Result<(Fact, Signed<Logged>), Refusal> {
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
        let fact = Fact::of("assignment.logged", version, 0, assigned.hash.to_string());
        Ok((fact, logged.signed().clone()))
    }

    /// The logged assignment of a version.
    #[must_use]
    pub fn logged(&self, version: u32) -> Option<Hash> {
        self.logged.get(&version).map(|logged| logged.hash)
    }
}
