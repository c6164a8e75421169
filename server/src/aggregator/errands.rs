//! What the machine of a job waits for: requests to authorities and work outside the machine, each a task
//! of its own while the stored machine still wants it.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use quorate_client::engine::now_ms;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_protocols::machine::{Output, Peer};
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::{Name, encode};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Longest sleep: the wall clock may be set meanwhile.
const LONGEST_SLEEP_MS: u64 = 1000;
/// An errand that ended although its request stands is not begun again at once.
const REST: Duration = Duration::from_millis(500);

/// Something a machine waits for.
pub(super) enum Errand<W> {
    /// An authority's answer.
    Ask {
        /// Which one.
        to: Name,
        /// What it is asked.
        request: Message,
    },
    /// Work outside the machine.
    Work(W),
}

/// Errands by a name that is the same after a restart.
pub(super) type Wanted<W> = HashMap<Hash, Errand<W>>;

/// The errands behind a machine's outputs.
pub(super) fn wanted<W: Serialize>(outputs: Vec<Output<Message, W>>) -> Wanted<W> {
    let errand = |output: Output<Message, W>| match output {
        Output::Send { to: Peer::Authority(to), message } => {
            let key = hash_parts("errand", &[to.as_str().as_bytes(), &message.to_wire()]);
            Some((key, Errand::Ask { to, request: message }))
        }
        // All of it: after a wrong share the same sum is opened with others.
        Output::Work(work) => Some((hash_parts("errand", &[&encode(&work)]), Errand::Work(work))),
        _ => None,
    };
    outputs.into_iter().filter_map(errand).collect()
}

/// The errands of one job under way; all end when this value is dropped.
#[derive(Default)]
pub(super) struct Errands {
    tasks: JoinSet<Hash>,
    running: HashMap<Hash, AbortHandle>,
}

impl Errands {
    /// Begins what is wanted and not under way, and stops what is not wanted any more.
    pub(super) fn turn_to<W, F>(&mut self, wanted: Wanted<W>, pursue: impl Fn(Errand<W>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.retain(|key, task| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for (key, errand) in wanted {
            self.running.entry(key).or_insert_with(|| {
                let errand = pursue(errand);
                self.tasks.spawn(async move {
                    errand.await;
                    tokio::time::sleep(REST).await;
                    key
                })
            });
        }
    }

    /// Waits until the machine changed, an errand ended, or some time passed; true when `deadline_ms`
    /// has come.
    pub(super) async fn wait(
        &mut self,
        changed: &mut watch::Receiver<()>,
        deadline_ms: Option<u64>,
    ) -> bool {
        let wait = deadline_ms.map_or(u64::MAX, |at| at.saturating_sub(now_ms()));
        tokio::select! {
            _ = changed.changed() => false,
            Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                if let Ok(key) = done {
                    self.running.remove(&key);
                }
                false
            }
            () = tokio::time::sleep(Duration::from_millis(wait.clamp(5, LONGEST_SLEEP_MS))) => {
                deadline_ms.is_some_and(|at| now_ms() >= at)
            }
        }
    }
}
