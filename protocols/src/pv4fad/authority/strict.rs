//! Strict mode at the authority: a version is frozen and not opened, and the table of every query is
//! made again.

use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::elgamal::choice::CIPHERTEXT_BYTES;

use super::{AuthorityJob, AuthorityOutput, AuthorityWorld};
use crate::machine::{Context, Fact, Output};
use crate::pv4fad::messages::{Message, QueryTable};
use crate::pv4fad::strict::{Closed, Frozen, Reached, table_of};
use crate::pv4fad::{Keep, ciphers_hash};
use crate::refusal::{Code, Refusal};
use crate::wire::{Name, Signed, Verified};

impl AuthorityJob {
    /// S1: the noised sums of a version are fixed, once and for all, and nothing of them is released.
    pub(super) fn close(
        &mut self,
        cx: &Context<'_>,
        version: u32,
        summed: Hash,
        shares: Vec<(Name, Hash)>,
        keep: Keep,
        asked: Hash,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let missing = || Refusal::new(Code::NotFrozen, "no such sums were signed here");
        let known = self.versions.get_mut(&version).ok_or_else(missing)?;
        let rows = known.rows.ok_or_else(missing)?;
        let note = format!("{} noise shares", shares.len());
        let sums = ciphers_hash(&keep.bytes);
        let record = Frozen { job: self.job.id(), version, summed, shares, sums };
        let record = Signed::sign(record, cx.identity);
        let answer = Message::Frozen(record.signed().clone());
        known.closed = Some((asked, Closed { record, sums: keep.hash, rows }));
        let mut outputs: Vec<_> =
            self.job.charge(version).map(Output::Charge).into_iter().collect();
        outputs.push(Output::Log(Fact::of("cells.frozen", version, 0, note)));
        outputs.push(Output::Work(keep));
        outputs.push(self.to_network(answer));
        Ok(outputs)
    }

    /// S4: every entry of the table is what the named cells make of the frozen sums.
    pub(super) fn check_table(
        &self,
        world: &AuthorityWorld<'_>,
        table: &Verified<QueryTable>,
        signed: &Signed<Reached>,
    ) -> Result<(), Refusal> {
        let reached = self.job.by_network(signed)?;
        if reached.table != table.hash() || reached.version != table.version {
            return Err(self.blame(Code::WrongLabel, "cells of another table"));
        }
        let closed = self.versions.get(&table.version).and_then(|known| known.closed.as_ref());
        let (_, closed) = closed
            .ok_or_else(|| Refusal::new(Code::WrongState, "no such model version is frozen"))?;
        let pairs = closed.pairs(&self.job, &world.world, &reached.cells).map_err(|refusal| {
            let own = refusal.code == Code::WrongLength;
            if own { refusal.blaming(self.job.network_culprit()) } else { refusal }
        })?;
        let fields = &table.fields;
        if pairs.rows.len() != fields.rows.len() {
            return Err(self.blame(Code::WrongLength, "cells of more or fewer rows"));
        }
        let own = table_of(&self.job, world.world.key, fields, &pairs.ciphers, &reached.seed);
        if own.len() != table.reply.len() {
            return Err(self.blame(Code::WrongLength, "a table of more or fewer entries"));
        }
        let [own, theirs] = [&own, &table.reply].map(|bytes| bytes.chunks(CIPHERTEXT_BYTES));
        if let Some(wrong) = own.zip(theirs).position(|(own, theirs)| own != theirs) {
            let row = self.job.classes().saturating_mul(2);
            let at = (wrong.checked_div(row), wrong.checked_rem(row).map(|at| at / 2));
            let (row, class) = (at.0.unwrap_or(0), at.1.unwrap_or(0));
            let why = format!("row {row}, class {class}: not what the named cells hold");
            return Err(self.blame(Code::BadCiphertext, why));
        }
        Ok(())
    }
}
