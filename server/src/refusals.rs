//! How many refusals become facts: anybody who reaches a service can cause them, and each fact is a
//! write that stays.

use std::collections::BTreeMap;

use quorate_crypto::merkle::Hash;
use quorate_protocols::refusal::Code;

/// Stored refusals of one job and code in one window.
const MOST_ALIKE: u32 = 20;
/// Jobs and codes told apart in one window.
const MOST_KINDS: usize = 500;
/// Length of a window.
const WINDOW_MS: u64 = 60_000;

/// What to write for one refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// Whether the refusal itself is stored.
    pub(crate) stored: bool,
    /// By job and code, how many of the window that ended were not.
    pub(crate) suppressed: Vec<(Hash, Code, u32)>,
}

/// The refusals of the current window, by job and code.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    began_ms: u64,
    alike: BTreeMap<(Hash, Code), u32>,
    /// Those of further kinds, which are told apart by their code only.
    others: BTreeMap<Code, u32>,
}

impl Refusals {
    /// Takes note of a refusal at `now_ms`.
    pub(crate) fn log(&mut self, now_ms: u64, job: Hash, code: Code) -> Log {
        // Requests can name as many jobs as they like that do not exist.
        let job = if code == Code::UnknownJob { Hash([0; 32]) } else { job };
        let mut suppressed = Vec::new();
        if now_ms.abs_diff(self.began_ms) >= WINDOW_MS {
            let ended = core::mem::take(self);
            self.began_ms = now_ms;
            for ((job, code), count) in ended.alike {
                suppressed.push((job, code, count.saturating_sub(MOST_ALIKE)));
            }
            let others = ended.others.into_iter().map(|(code, count)| (Hash([0; 32]), code, count));
            suppressed.extend(others);
            suppressed.retain(|(_, _, count)| *count > 0);
        }
        let stored = if self.alike.len() < MOST_KINDS || self.alike.contains_key(&(job, code)) {
            let alike = self.alike.entry((job, code)).or_default();
            *alike = alike.saturating_add(1);
            *alike <= MOST_ALIKE
        } else {
            let other = self.others.entry(code).or_default();
            *other = other.saturating_add(1);
            false
        };
        Log { stored, suppressed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Hash = Hash([1; 32]);
    const CODE: Code = Code::BadSignature;

    #[test]
    fn the_first_alike_are_stored_and_the_rest_summed_up_in_the_next_window() {
        let mut refusals = Refusals::default();
        let start = 1_000_000u64;
        let mut log = |after, job, code| refusals.log(start + after, job, code);
        let stored = (0..100).filter(|i| log(*i, JOB, CODE).stored).count();
        assert_eq!(stored, 20);
        // A flood hides neither another code nor another job.
        assert!(log(200, JOB, Code::LabelUsed).stored);
        assert!(log(200, Hash([2; 32]), CODE).stored);
        assert_eq!(log(59_999, JOB, CODE), Log { stored: false, suppressed: Vec::new() });
        let next = log(60_000, JOB, CODE);
        assert_eq!(next, Log { stored: true, suppressed: vec![(JOB, CODE, 81)] });
        assert_eq!(log(60_001, JOB, CODE), Log { stored: true, suppressed: Vec::new() });
    }

    #[test]
    fn invented_jobs_fill_neither_the_log_nor_the_memory() {
        let mut refusals = Refusals::default();
        let unknown = Code::UnknownJob;
        let job = |i: u32| Hash(core::array::from_fn(|at| i.to_le_bytes()[at % 4]));
        let stored = (0..5000).filter(|i| refusals.log(60_000, job(*i), CODE).stored).count();
        assert_eq!((stored, refusals.alike.len()), (500, 500));
        let next = refusals.log(120_000, JOB, CODE);
        assert_eq!(next.suppressed, [(Hash([0; 32]), CODE, 4500)]);
        let stored = (0..5000).filter(|i| refusals.log(120_000, job(*i), unknown).stored).count();
        assert_eq!((stored, refusals.alike.len()), (20, 2));
    }
}
