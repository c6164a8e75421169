//! A loss of power at any moment loses nothing that the store acknowledged, and leaves nothing half
//! done: the real store, run as a process of its own under a file layer that notes which writes
//! were synced.

mod powerloss;
mod workload;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use powerloss::{Journal, Loss, Shim, Unsynced, tree};
use quorate_client::store::Store;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const CHILD: &str = "POWERLOSS_CHILD";

/// The watched process: this binary again. Does nothing in an ordinary run.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (until, dir) = task.split_once(' ').unwrap();
    let ack = std::env::var("POWERLOSS_ACK").unwrap();
    runtime().block_on(workload::run(Path::new(dir), Path::new(&ack), until.parse().unwrap()));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A folder with a store, watched.
struct Bench {
    temp: tempfile::TempDir,
    shim: Shim,
    generation: u64,
    base: Option<PathBuf>,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let shim = Shim::build(temp.path());
        std::fs::create_dir(temp.path().join("0")).unwrap();
        Self { temp, shim, generation: 0, base: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join(format!("{}{name}", self.generation))
    }

    /// Runs the workload to step `until`, or kills it once it has acknowledged `kill_at`.
    fn run(&self, until: u64, kill_at: Option<u64>) {
        let (root, ack) = (self.path(""), self.path(".ack"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).stdout(Stdio::null());
        command.env(CHILD, format!("{until} {}", root.display()));
        self.shim.watch(&mut command, &root, &self.path(".journal"), &ack);
        let mut child = command.spawn().unwrap();
        match kill_at {
            None => assert!(child.wait().unwrap().success()),
            Some(step) => kill_after(&mut child, &ack, step),
        }
    }

    fn journal(&self) -> Journal {
        Journal::read(&self.path(".journal"))
    }

    /// Builds the folder after `loss` and says whether its store holds what it must.
    fn check(&self, journal: &Journal, loss: Loss) -> Result<u64, String> {
        let into = self.temp.path().join("rebuilt");
        journal.rebuild(self.base.as_deref(), loss, &into);
        let acked = journal.acks(loss.cut);
        let acked: u64 = acked.lines().last().map_or(0, |line| line.parse().unwrap());
        let runtime = runtime();
        let result = runtime.block_on(async {
            let store = Store::open(&into).await.map_err(|e| e.to_string())?;
            let done = workload::verify(&store).await?;
            store.close().await;
            // One commit may be on the disk before it is acknowledged, none may be missing.
            if done == acked || done == acked + 1 {
                Ok(done)
            } else {
                Err(format!("acknowledged {acked}, found {done}"))
            }
        });
        drop(runtime);
        std::fs::remove_dir_all(into).unwrap();
        result
    }

    /// Lets the next run start from what `loss` leaves.
    fn restart_from(&mut self, journal: &Journal, loss: Loss) {
        let old = self.base.take();
        self.generation += 1;
        let (base, root) = (self.path(".base"), self.path(""));
        journal.rebuild(old.as_deref(), loss, &base);
        journal.rebuild(old.as_deref(), loss, &root);
        self.base = Some(base);
    }
}

fn kill_after(child: &mut Child, ack: &Path, step: u64) {
    let reached = || {
        let mut text = String::new();
        std::fs::File::open(ack).and_then(|mut f| f.read_to_string(&mut text)).is_ok()
            && text.lines().any(|line| line.parse::<u64>().is_ok_and(|done| done >= step))
    };
    while !reached() {
        assert!(child.try_wait().unwrap().is_none(), "ended before step {step}");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn honest(cut: usize, unsynced: Unsynced) -> Loss {
    Loss { cut, unsynced, lies: |_| false }
}

#[test]
fn no_cut_loses_what_was_acknowledged() {
    let bench = Bench::new();
    // Killed with the power on, so that a later process sees, and builds on, unsynced writes.
    bench.run(80, Some(25));
    bench.run(80, Some(50));
    bench.run(80, None);
    let journal = bench.journal();

    // The journal is complete: with all of it kept, it gives the folder as it is.
    let whole = bench.temp.path().join("whole");
    journal.rebuild(None, honest(journal.len(), Unsynced::Kept), &whole);
    assert!(tree(&whole) == tree(&bench.path("")), "the shim missed a call");

    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut draw = |n: usize| usize::try_from(rng.next_u64() % n as u64).unwrap();
    let mut cuts = journal.after_acks();
    assert!(cuts.len() >= 80);
    cuts.extend((0..240).map(|_| draw(journal.len() + 1)));
    for (seed, cut) in (0..).zip(cuts) {
        for unsynced in [Unsynced::Lost, Unsynced::Random(seed)] {
            if let Err(error) = bench.check(&journal, honest(cut, unsynced)) {
                panic!("cut {cut} of {}, {unsynced:?}: {error}", journal.len());
            }
        }
    }

    // The same harness sees each kind of missing sync.
    let liars: [(&str, fn(&str) -> bool); 3] = [
        ("synchronous = OFF", |name| name.contains(".sqlite")),
        ("chunks without fsync", |name| name.contains(".chunk")),
        ("folders without fsync", |name| name.ends_with('/')),
    ];
    for (what, lies) in liars {
        let lost = |cut: &usize| {
            let loss = Loss { cut: *cut, unsynced: Unsynced::Lost, lies };
            bench.check(&journal, loss).is_err()
        };
        assert!(journal.after_acks().iter().any(lost), "{what} goes unnoticed");
    }
}

#[test]
fn generations_of_losses_build_on_each_other() {
    let mut bench = Bench::new();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut reached = 0;
    for generation in 0..8u64 {
        bench.run(reached + 1000, Some(reached + 5 + u64::from(rng.next_u32() % 20)));
        let journal = bench.journal();
        let cut = usize::try_from(rng.next_u64() % (journal.len() as u64 + 1)).unwrap();
        // Mostly late, so that the chain gets somewhere.
        let cut = if generation % 3 == 2 { cut } else { journal.len() - cut / 20 };
        let loss = honest(cut, Unsynced::Random(generation));
        reached = bench.check(&journal, loss).unwrap();
        bench.restart_from(&journal, loss);
    }
    assert!(reached > 20, "only {reached} steps survived");
}
