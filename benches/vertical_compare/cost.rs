//! What a scheme costs, by role and link.

use std::collections::BTreeMap;

use quorate_server::bench::cpu_ns;
use serde::Serialize;

/// CPU time and bytes of one batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    ns: BTreeMap<&'static str, u64>,
    critical_ns: u64,
    bytes: BTreeMap<String, u64>,
}

impl Cost {
    /// Work of one role that everybody waits for.
    pub(crate) fn work<T>(&mut self, role: &'static str, work: impl FnOnce() -> T) -> T {
        let (out, ns) = measured(work);
        self.at_once(&[(role, ns)]);
        out
    }

    /// Work that several roles do at the same time, each with its CPU time.
    pub(crate) fn at_once(&mut self, work: &[(&'static str, u64)]) {
        for (role, ns) in work {
            *self.ns.entry(role).or_default() += ns;
        }
        self.critical_ns += work.iter().map(|(_, ns)| *ns).max().unwrap_or(0);
    }

    pub(crate) fn sent(&mut self, link: &str, bytes: usize) {
        *self.bytes.entry(link.to_owned()).or_default() += bytes as u64;
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    pub(crate) fn summary(self, name: &'static str) -> Summary {
        let ms = |ns: u64| (ns as f64 / 1e3).round() / 1e3;
        Summary {
            name,
            bytes_per_batch: self.total_bytes() as f64,
            ms_per_batch: ms(self.ns.values().sum()),
            critical_ms_per_batch: ms(self.critical_ns),
            bytes_by_link: self.bytes.into_iter().map(|(k, v)| (k, v as f64)).collect(),
            ms_by_role: self.ns.into_iter().map(|(k, v)| (k.to_owned(), ms(v))).collect(),
        }
    }
}

/// The result of some work with its CPU time.
pub(crate) fn measured<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let start = cpu_ns();
    let out = work();
    (out, cpu_ns() - start)
}

/// One scheme in the report. Names are stable.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) name: &'static str,
    #[serde(serialize_with = "whole")]
    pub(crate) bytes_per_batch: f64,
    /// CPU time of all roles.
    pub(crate) ms_per_batch: f64,
    /// CPU time along the longest chain of work that waits for other work.
    pub(crate) critical_ms_per_batch: f64,
    pub(crate) bytes_by_link: BTreeMap<String, f64>,
    pub(crate) ms_by_role: BTreeMap<String, f64>,
}

/// A count that was averaged, as a whole number.
pub(crate) fn whole<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    serializer.serialize_u64(value.max(0.0).ceil() as u64)
}
