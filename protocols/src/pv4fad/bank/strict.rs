//! Strict mode at a bank: what was frozen is known before anything is picked from it.

use super::{BankJob, BankOutput};
use crate::checks::{Check, holds};
use crate::machine::{Fact, Output};
use crate::pv4fad::strict::Frozen;
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::Signed;

impl BankJob {
    /// S2: the authority froze this version, once, with this bank's own noise share if with any of its
    /// name.
    pub(super) fn frozen(&mut self, signed: &Signed<Frozen>) -> Result<Vec<BankOutput>, Refusal> {
        let record = self.job.by_authority(signed)?;
        let authority = Culprit::Authority(self.job.authority.name.clone());
        if !self.job.strict {
            let why = "this job opens its counts: nothing in it is frozen unopened";
            return Err(Refusal::new(Code::WrongState, why).blaming(authority));
        }
        self.honours(record.version, &record.summed, &record.shares)?;
        let known = self.versions.entry(record.version).or_default();
        let hash = record.hash();
        if !holds(Check::OneShare, known.released.is_none_or(|known| known == hash)) {
            let why = "other sums of this version were frozen before";
            return Err(Refusal::new(Code::Difference, why).blaming(authority));
        }
        if known.released.is_some() {
            return Ok(Vec::new());
        }
        known.released = Some(hash);
        let note = format!("{} noise shares", record.shares.len());
        Ok(vec![Output::Log(Fact::of("version.frozen", record.version, 0, note))])
    }

    /// S3: in strict mode a query is of a version that is known to be frozen.
    pub(super) fn is_frozen(&self, version: u32) -> Result<(), Refusal> {
        let known = self.versions.get(&version).and_then(|version| version.released);
        if self.job.strict && known.is_none() {
            return Err(Refusal::new(Code::WrongState, "the model version is not frozen here"));
        }
        Ok(())
    }
}
