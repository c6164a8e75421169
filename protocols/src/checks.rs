//! The named checks. With the feature `mutants` a test can switch one off and must then see its
//! suite fail: a check whose loss nobody notices is not tested. `make mutant CHECK=Floor` runs the
//! suites with one check off, by the variable `QUORATE_MUTANT`.

/// A check that the safety of a round rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Check {
    /// Every signature of a peer verifies.
    Signature = 1,
    /// The label is the hash of the fields beside it.
    Label = 2,
    /// The frozen set has at least r_min members.
    Floor = 3,
    /// y is the indicator of the frozen set.
    Indicator = 4,
    /// One attempt of a round is promised at a time, and none after one was released.
    OneOpening = 5,
    /// A retry carries every authority's tombstone of the attempt before.
    Tombstones = 6,
    /// A functional key leaves only against all promises for the same frozen set.
    AllPromises = 7,
    /// Every roster entry is enrolled at the authority with these keys.
    Enrolled = 8,
    /// A party trains only on the model it computed itself from the last opened sum.
    ModelHash = 9,
    /// A party never puts a second plaintext or nonce under a label.
    LabelOnce = 10,
    /// A submission after the freeze is refused.
    Late = 11,
    /// The check slots of an opened sum are zero.
    CheckSlot = 12,
    /// A party refuses a manifest below its minima.
    Minima = 13,
    /// No model is opened twice in a job.
    ModelOnce = 14,
    /// A charge past the budget of a data set is refused.
    Budget = 15,
    /// A holder answers for one frozen set per round.
    OneShare = 16,
    /// A threshold key's posts are signed by its participants and pass the scheme's checks.
    KeyPosts = 17,
}

impl Check {
    /// All checks.
    pub const ALL: [Self; 17] = [
        Self::Signature,
        Self::Label,
        Self::Floor,
        Self::Indicator,
        Self::OneOpening,
        Self::Tombstones,
        Self::AllPromises,
        Self::Enrolled,
        Self::ModelHash,
        Self::LabelOnce,
        Self::Late,
        Self::CheckSlot,
        Self::Minima,
        Self::ModelOnce,
        Self::Budget,
        Self::OneShare,
        Self::KeyPosts,
    ];
}

/// Number of the check that is off: 0 for none, [`UNSET`] before the first use.
#[cfg(feature = "mutants")]
static DISABLED: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(UNSET);
#[cfg(feature = "mutants")]
const UNSET: u8 = u8::MAX;

/// The check named by `QUORATE_MUTANT`, as in [`Check`]'s `Debug`.
#[cfg(feature = "mutants")]
fn from_environment() -> u8 {
    let Ok(name) = std::env::var("QUORATE_MUTANT") else {
        return 0;
    };
    let named = |check: &&Check| format!("{check:?}").eq_ignore_ascii_case(&name);
    match Check::ALL.iter().find(named) {
        Some(check) => *check as u8,
        None => panic!("QUORATE_MUTANT={name} is none of {:?}", Check::ALL),
    }
}

/// Switches one check off, or all on again, for the whole process. Tests only.
#[cfg(feature = "mutants")]
pub fn disable(check: Option<Check>) {
    DISABLED.store(check.map_or(0, |check| check as u8), core::sync::atomic::Ordering::SeqCst);
}

/// Whether `check`, whose condition came out as `condition`, lets its message pass.
#[inline]
#[must_use]
pub fn holds(check: Check, condition: bool) -> bool {
    #[cfg(feature = "mutants")]
    {
        use core::sync::atomic::Ordering::SeqCst;
        if DISABLED.load(SeqCst) == UNSET {
            DISABLED.store(from_environment(), SeqCst);
        }
        if DISABLED.load(SeqCst) == check as u8 {
            return true;
        }
    }
    let _ = check;
    condition
}
