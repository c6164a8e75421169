//! What a job waits for.

use super::{AggregatorJob, AggregatorOutput, OpenSum, Phase};
use crate::machine::{Output, Peer};
use crate::round::messages::{KeyRequest, Message, PromiseRequest};
use crate::wire::Name;

impl AggregatorJob {
    /// What this state still waits for: requests to authorities without an answer, or the work of
    /// opening. A driver sends these after every change and again after a restart: the stored state
    /// is its own outbox.
    #[must_use]
    pub fn requests(&self) -> Vec<AggregatorOutput> {
        let unanswered = |answered: &dyn Fn(&Name) -> bool, message: Message| {
            self.manifest
                .authorities
                .iter()
                .filter(|authority| !answered(&authority.name))
                .map(|authority| Output::Send {
                    to: Peer::Authority(authority.name.clone()),
                    message: message.clone(),
                })
                .collect()
        };
        match &self.phase {
            Phase::Registering => unanswered(
                &|name| self.approvals.contains_key(name),
                Message::Register(Box::new(self.manifest.clone())),
            ),
            Phase::Promising(frozen) => unanswered(
                &|name| frozen.promises.contains_key(name),
                Message::PromiseRequest(PromiseRequest {
                    freeze: frozen.freeze.signed().clone(),
                    y: frozen.y.clone(),
                }),
            ),
            Phase::Releasing(bound) => unanswered(
                &|name| bound.keys.contains_key(name),
                Message::KeyRequest(KeyRequest {
                    manifest: self.hash,
                    label: bound.frozen.attempt.label,
                    promises: bound.frozen.promises.values().map(|p| p.signed().clone()).collect(),
                }),
            ),
            Phase::Tombstoning(giving_up) => unanswered(
                &|name| giving_up.tombstones.contains_key(name),
                Message::TombstoneRequest(giving_up.request.signed().clone()),
            ),
            Phase::Opening(bound) => {
                let attempt = &bound.frozen.attempt;
                let ciphertexts =
                    attempt.headers.iter().map(|(name, h)| (name.clone(), h.ciphertext)).collect();
                vec![Output::Work(OpenSum {
                    round: attempt.open.fields.round,
                    label: attempt.label,
                    ciphertexts,
                    keys: bound.keys.iter().map(|(name, key)| (name.clone(), key.key)).collect(),
                    partials: self.chosen_partials(bound),
                })]
            }
            Phase::Keying(keying) => self.key_requests(keying),
            Phase::Gathering(_)
            | Phase::Collecting(_)
            | Phase::Carrying(_)
            | Phase::Finished(_) => Vec::new(),
        }
    }
}
