//! Why a peer's message was refused: a stable code, a sentence for people, and who is to blame.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::Name;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal;)*) => {
        /// A stable refusal code. Codes are part of the wire format: added, never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code as it travels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The HTTP status it is sent with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),* }
            }
        }
    };
}

codes! {
    /// Bytes that are no message of the expected type.
    Malformed = "MALFORMED", 400;
    /// A version this build does not speak.
    UnsupportedVersion = "UNSUPPORTED_VERSION", 400;
    /// A length other than the one the job fixes.
    WrongLength = "WRONG_LENGTH", 400;
    /// Over a size limit.
    TooLarge = "TOO_LARGE", 413;
    /// y is not the 0/1 indicator of the frozen set.
    BadY = "BAD_Y", 400;
    /// The manifest is inconsistent or asks for what is not supported.
    BadManifest = "BAD_MANIFEST", 400;
    /// The manifest is below the minima of who was asked.
    BelowMinima = "MANIFEST_BELOW_MINIMA", 403;
    /// A signature does not verify.
    BadSignature = "BAD_SIGNATURE", 403;
    /// Fewer members than the floor.
    BelowFloor = "BELOW_FLOOR", 403;
    /// Fewer members than the floor of a threshold job.
    SetTooSmall = "SET_TOO_SMALL", 403;
    /// No frozen set was promised under this label.
    NotFrozen = "NOT_FROZEN", 403;
    /// Promises are missing, differ, or come from the wrong authorities.
    BadPromises = "BAD_PROMISES", 403;
    /// The roster is not sorted, not enrolled, too large, or not the one in the label.
    BadRoster = "BAD_ROSTER", 403;
    /// Not a party, authority or enrolment known here.
    UnknownParty = "UNKNOWN_PARTY", 404;
    /// No such job.
    UnknownJob = "UNKNOWN_JOB", 404;
    /// No such round or upload.
    UnknownRound = "UNKNOWN_ROUND", 404;
    /// The label, or its round, already serves another request.
    LabelUsed = "LABEL_USED", 409;
    /// The plaintext or nonce of this label is already fixed.
    LabelReuse = "LABEL_REUSE", 409;
    /// The label in the message is not the one its fields give.
    WrongLabel = "WRONG_LABEL", 409;
    /// The attempt was given up by a tombstone.
    Tombstoned = "TOMBSTONED", 409;
    /// The functional key of this attempt was released: it cannot be given up any more.
    Released = "RELEASED", 409;
    /// A retry without the tombstones of the attempt before.
    MissingTombstones = "MISSING_TOMBSTONES", 409;
    /// The round is not the next one.
    OutOfOrder = "OUT_OF_ORDER", 409;
    /// The model hash differs from the one computed from the last opened sum.
    ModelMismatch = "MODEL_MISMATCH", 409;
    /// The set is frozen or the deadline passed.
    Late = "LATE", 409;
    /// A member already submitted other bytes.
    Duplicate = "DUPLICATE", 409;
    /// A receipt was given, and the frozen set omits its holder.
    ReceiptBroken = "RECEIPT_BROKEN", 409;
    /// The job is not in a state where this message has a meaning.
    WrongState = "WRONG_STATE", 409;
    /// The label's time is over.
    Expired = "EXPIRED", 410;
    /// The opened sum fails its check slots or leaves its range.
    CheckSlot = "CHECK_SLOT", 422;
    /// A reply's form or proof is wrong: its sender is named.
    BadCiphertext = "BAD_CT", 422;
    /// A partial decryption's proof is wrong: its holder is named.
    BadShare = "BAD_SHARE", 422;
    /// A participant broke the making of the threshold key.
    BadKey = "BAD_KEY", 422;
    /// A second opening of one query over another set: the difference of two sums would show parties.
    Difference = "DIFFERENCE", 409;
    /// Too few key holders are left to open.
    QuorumLost = "QUORUM_LOST", 409;
    /// The opened sum is none that legal values add up to.
    Overflow = "OVERFLOW", 422;
    /// The noise of this round would pass the budget of its data set.
    BudgetSpent = "BUDGET_SPENT", 403;
    /// More was asked than one window of time allows.
    RateLimited = "RATE_LIMITED", 429;
    /// The service is not able to answer now; the same request may succeed later.
    Unavailable = "UNAVAILABLE", 503;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a message was refused; the refuser's state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Stable code.
    pub code: Code,
    /// What happened and what to do, without secrets or payloads.
    pub detail: String,
    /// Who sent provably wrong bytes, where signed bytes show it.
    pub culprits: Vec<Culprit>,
    /// Parties it is about, without blame.
    pub concerns: Vec<Name>,
}

/// Someone whose own signature stands under what was refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Culprit {
    /// A party.
    Party(Name),
    /// An authority.
    Authority(Name),
    /// The aggregator.
    Aggregator,
}

impl Refusal {
    /// A refusal that blames nobody.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), culprits: Vec::new(), concerns: Vec::new() }
    }

    /// The same, about a party that is not to blame.
    #[must_use]
    pub fn concerning(mut self, party: Name) -> Self {
        self.concerns.push(party);
        self
    }

    /// The same, with a culprit.
    #[must_use]
    pub fn blaming(mut self, culprit: Culprit) -> Self {
        self.culprits.push(culprit);
        self
    }
}
