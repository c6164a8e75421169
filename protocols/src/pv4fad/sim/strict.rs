//! Strict jobs in the simulator.

use super::{Cells, Name, Payment, Refusal, Sim};
use crate::pv4fad::forest::PooledRule;
use crate::pv4fad::network::Reaching;

impl Sim {
    /// What a strict query says of a payment in these leaves, one in each tree, with the network's own
    /// score of it.
    #[must_use]
    pub fn reaching(payment: &Payment, leaves: impl Iterator<Item = u16>, own: u64) -> Reaching {
        let leaves = leaves.map(|leaf| [2 * leaf + 1, 2 * leaf]).collect();
        Reaching { accounts: payment.accounts.clone(), leaves, own }
    }

    /// Gives a bank up that does not answer, and runs.
    pub fn lose(&mut self, bank: &Name) {
        self.network_step(|network, _, _| network.lose(bank).unwrap());
        self.advance();
        self.run();
    }

    /// Asks for scores in a strict job and runs.
    ///
    /// # Errors
    /// As [`NetworkJob::query_pooled`](crate::pv4fad::network::NetworkJob::query_pooled).
    pub fn query_pooled(
        &mut self,
        query: u64,
        banks: [&Name; 2],
        asked: Vec<Reaching>,
        rule: PooledRule,
    ) -> Result<Option<Vec<f64>>, Refusal> {
        let mut failed = None;
        self.network_step(|network, cx, world| {
            match network.clone().query_pooled(cx, world, query, banks, asked, rule) {
                Ok(done) => done,
                Err(refusal) => {
                    failed = Some(refusal);
                    (network, Vec::new())
                }
            }
        });
        failed.map_or(Ok(()), Err)?;
        self.run();
        Ok(self.network.scores(query).map(<[f64]>::to_vec))
    }
}

impl Cells {
    /// The leaves of a training payment, tree by tree.
    pub fn leaves_of(&self, payment: usize) -> impl Iterator<Item = u16> + '_ {
        self.leaves.iter().map(move |tree| tree[payment])
    }
}
