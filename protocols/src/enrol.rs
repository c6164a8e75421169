//! Enrolment of a party's keys at an authority, and rotation to a new epoch.

use quorate_crypto::keys::{ExchangeKey, Identity, VerifyKey};
use serde::{Deserialize, Serialize};

use crate::job::RosterEntry;
use crate::postcard_body;
use crate::refusal::{Code, Refusal};
use crate::wire::{Body, Name, Signature, Signed, Verified};

/// A party's request to be known by these keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enroll {
    /// Tenant of the deployment.
    pub tenant: Name,
    /// The keys.
    pub entry: RosterEntry,
}
postcard_body!(Enroll, "quorate/enroll/1");

/// [`Enroll`] signed with the new key, and with the old one when there is one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// Signed with the key it names.
    pub enroll: Signed<Enroll>,
    /// Signature of the same body by the previous epoch's key.
    pub previous: Option<Signature>,
}

/// An authority's certificate: it knows this party by these keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The authority.
    pub authority: Name,
    /// Its signature key, for a party that meets it first.
    pub verify: VerifyKey,
    /// Its exchange key.
    pub exchange: ExchangeKey,
    /// Epoch of the authority's keys.
    pub authority_epoch: u32,
    /// Tenant.
    pub tenant: Name,
    /// The party's keys.
    pub entry: RosterEntry,
}
postcard_body!(Enrolled, "quorate/enrolled/1");

impl EnrollRequest {
    /// A party's request for `epoch` of its keys; `previous` holds the keys being replaced.
    #[must_use]
    pub fn new(enroll: Enroll, keys: &Identity, previous: Option<&Identity>) -> Self {
        let body = enroll.to_bytes();
        let previous = previous.map(|old| Signature(old.sign(Enroll::DOMAIN, &body)));
        Self { enroll: Signed::sign(enroll, keys).signed().clone(), previous }
    }

    /// Checks a request against what is enrolled for this party so far.
    ///
    /// # Errors
    /// [`Code::BadSignature`] without the signatures of new and old key,
    /// [`Code::LabelReuse`] when the epoch does not grow or a key of the old epoch returns.
    ///
    /// # Security
    /// The first enrolment of a name is accepted on first use: enrolment tokens guard it in
    /// deployments that have them.
    pub fn check(
        &self,
        tenant: &Name,
        known: Option<&RosterEntry>,
    ) -> Result<Verified<Enroll>, Refusal> {
        let claimed = self.enroll.peek()?;
        let enroll = self.enroll.verify(&claimed.entry.verify)?;
        if enroll.entry.exchange.is_small_order() {
            return Err(Refusal::new(
                Code::Malformed,
                "the exchange key is of small order: no key can be agreed with it",
            ));
        }
        if enroll.tenant != *tenant {
            return Err(Refusal::new(Code::UnknownParty, "another tenant"));
        }
        let Some(known) = known else {
            return Ok(enroll);
        };
        if *known == enroll.entry {
            return Ok(enroll);
        }
        if enroll.entry.epoch <= known.epoch
            || enroll.entry.exchange == known.exchange
            || enroll.entry.verify == known.verify
        {
            return Err(Refusal::new(
                Code::LabelReuse,
                "this party is enrolled with other keys; rotate to a new epoch",
            ));
        }
        let by_old_key = self
            .previous
            .is_some_and(|sig| known.verify.verify(Enroll::DOMAIN, self.enroll.body(), &sig.0));
        if !by_old_key {
            return Err(Refusal::new(
                Code::BadSignature,
                "a new epoch must be signed by the key of the epoch before",
            ));
        }
        Ok(enroll)
    }
}
