//! A payments job once its key is made: letters are carried, assignments are logged, and the network
//! says when it is over. See [`pv4fad`](crate::pv4fad).

use super::{AggregatorJob, AggregatorOutput, Outcome, Phase};
use crate::machine::{Context, Fact, Output, Peer};
use crate::pv4fad::aggregator::AggregatorJob as Carrier;
use crate::pv4fad::letters::PaymentsMessage;
use crate::refusal::{Code, Refusal};
use crate::round::messages::Message;

impl AggregatorJob {
    /// Who carries letters and logs assignments, while the job does.
    #[must_use]
    pub const fn carrier(&self) -> Option<&Carrier> {
        match &self.phase {
            Phase::Carrying(carrier) => Some(carrier),
            _ => None,
        }
    }

    /// From now on letters are carried.
    pub(super) fn carry(&mut self) -> Vec<AggregatorOutput> {
        let job = self.key.as_ref().map(|key| crate::pv4fad::Job::of(&self.manifest, key));
        match job {
            Some(Ok(job)) => {
                self.phase = Phase::Carrying(Carrier::new(job));
                vec![Output::Log(Fact::job("letters.carried", "the key is made"))]
            }
            Some(Err(refusal)) => self.finish(Outcome::Failed(refusal)),
            None => Vec::new(),
        }
    }

    /// What the aggregator itself handles of a payments job.
    pub(super) fn payments(
        &mut self,
        cx: &Context<'_>,
        message: &PaymentsMessage,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let over = self.outcome().is_some();
        let Phase::Carrying(carrier) = &mut self.phase else {
            let why = if over { "the job is over" } else { "the job's key is not made yet" };
            return Err(Refusal::new(Code::WrongState, why));
        };
        match message {
            PaymentsMessage::Assigned(assigned) => {
                let (fact, logged) = carrier.log(cx, assigned)?;
                let to = Peer::Party(carrier.job().network.party.clone());
                let message = Message::Payments(PaymentsMessage::Logged(logged));
                Ok(vec![Output::Log(fact), Output::Send { to, message }])
            }
            PaymentsMessage::Close(close) => {
                let outcome = carrier.close(close)?.map_or(Outcome::Done, Outcome::Failed);
                Ok(self.finish(outcome))
            }
            _ => Err(Refusal::new(Code::WrongState, "no message for an aggregator's machine")),
        }
    }
}
