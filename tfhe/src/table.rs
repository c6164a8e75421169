//! What the network looks up: an answer for each pair of classes.

use quorate_protocols::pv4fad::forest::CLASSES;

use crate::parameters::{PAIRS, STEPS};

/// What is opened of a payment: fixed by the key, whose [`KeyId`](crate::wire::KeyId) binds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answers {
    /// Whether its score is at least a threshold: one bit.
    Labels,
    /// Which of its scores it is: four bits.
    Scores,
}

impl Answers {
    /// Answers that there are; masks are uniform below it.
    #[must_use]
    pub const fn count(self) -> u8 {
        1 << self.bits()
    }

    /// Bits that an answer tells: what limits count.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::Labels => 1,
            Self::Scores => 4,
        }
    }

    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Labels => 0,
            Self::Scores => 1,
        }
    }

    pub(crate) const fn of(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Labels),
            1 => Some(Self::Scores),
            _ => None,
        }
    }

    /// Units of 2^59 between neighbouring answers.
    ///
    /// Answers lie evenly around the whole torus, so that a bootstrap of a number beyond its range, whose
    /// outcome is the negative of a table's value, still gives an answer, and one masked as well.
    pub(crate) const fn step(self) -> u8 {
        STEPS / self.count()
    }
}

const _: () = assert!(PAIRS <= Answers::Scores.count() as usize);

/// The number of a pair of classes, below [`PAIRS`].
#[must_use]
pub const fn pair(ordering: usize, beneficiary: usize) -> usize {
    ordering * CLASSES + beneficiary
}

/// The scores of a forest that asks for the greater class of the two sides, pair by pair.
#[must_use]
pub fn of_greater(scores: &[u64; CLASSES]) -> [u64; PAIRS] {
    std::array::from_fn(|number| {
        let greater = (number / CLASSES).max(number % CLASSES);
        scores.get(greater).copied().unwrap_or_default()
    })
}

/// A payment's answer for each pair of classes: the network's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Table {
    answers: Answers,
    of: [u8; PAIRS],
}

impl Table {
    /// Whether each of `scores` is at least `threshold`.
    #[must_use]
    pub fn labels(scores: &[u64; PAIRS], threshold: u64) -> Self {
        Self { answers: Answers::Labels, of: scores.map(|score| u8::from(score >= threshold)) }
    }

    /// The index of each of `scores` among the distinct ones, and these in ascending order.
    #[must_use]
    pub fn scores(scores: &[u64; PAIRS]) -> (Self, Vec<u64>) {
        let mut distinct = scores.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let index = |score: u64| {
            let place = distinct.partition_point(|other| *other < score);
            u8::try_from(place).unwrap_or(u8::MAX)
        };
        (Self { answers: Answers::Scores, of: scores.map(index) }, distinct)
    }

    /// What is opened.
    #[must_use]
    pub const fn answers(&self) -> Answers {
        self.answers
    }

    /// The answer for a pair of classes; 0 for a number that is none.
    #[must_use]
    pub fn answer(&self, pair: usize) -> u8 {
        self.of.get(pair).copied().unwrap_or(0)
    }

    /// Whether the banks' classes make a difference.
    #[must_use]
    pub fn depends_on_banks(&self) -> bool {
        self.of.iter().any(|answer| *answer != self.answer(0))
    }
}
