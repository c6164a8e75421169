//! A loss of power at any moment loses nothing that the store acknowledged, and leaves nothing half
//! done: the real store, run as a process of its own under a file layer that notes which writes
//! were synced.

mod powerloss;
mod workload;

use std::io::{IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use powerloss::{Journal, Loss, Shim, Unsynced, tree};
use quorate_client::store::Store;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const CHILD: &str = "POWERLOSS_CHILD";

/// The watched process: this binary again. Does nothing in an ordinary run.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    if task == "socket" {
        let (mut here, _there) = UnixStream::pair().unwrap();
        here.write_all(b"before").unwrap();
        std::fs::write(Path::new(&std::env::var("POWERLOSS_ROOT").unwrap()).join("f"), "x")
            .unwrap();
        assert_eq!(here.write_vectored(&[IoSlice::new(b"after")]).unwrap(), 5);
        return;
    }
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
    /// Steps that the base holds.
    based: u64,
}

impl Bench {
    fn new() -> Self {
        // The model decides what is on the disk; real syncs would only cost time.
        let memory = Path::new("/dev/shm");
        let temp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let temp = temp.unwrap();
        let shim = Shim::build(temp.path());
        std::fs::create_dir(temp.path().join("0")).unwrap();
        Self { temp, shim, generation: 0, base: None, based: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join(format!("{}{name}", self.generation))
    }

    /// This binary as the watched process.
    fn child(&self, task: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).stdout(Stdio::null()).env(CHILD, task);
        let (root, ack) = (self.path(""), self.path(".ack"));
        self.shim.watch(&mut command, &root, &self.path(".journal"), &ack);
        command
    }

    /// Runs the workload to step `until`, or kills it after `kill_at` records of the journal.
    fn run(&self, until: u64, kill_at: Option<u64>) {
        let mut command = self.child(&format!("{until} {}", self.path("").display()));
        if let Some(records) = kill_at {
            command.env("POWERLOSS_KILL_AT", records.to_string());
        }
        let status = command.status().unwrap();
        assert!(status.success() || (kill_at.is_some() && status.signal() == Some(9)), "{status}");
    }

    fn journal(&self) -> Journal {
        Journal::read(&self.path(".journal"))
    }

    /// Builds the folder after `loss` and says whether its store holds what it must.
    fn check(&self, journal: &Journal, loss: Loss) -> Result<u64, String> {
        let into = self.temp.path().join("rebuilt");
        journal.rebuild(self.base.as_deref(), loss, &into);
        let acked = journal.acks(loss.cut);
        let acked: u64 = acked.lines().last().map_or(self.based, |line| line.parse().unwrap());
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

    /// Lets the next run start from what `loss` leaves, which holds `based` steps.
    fn restart_from(&mut self, journal: &Journal, loss: Loss, based: u64) {
        let old = self.base.take();
        self.generation += 1;
        let (base, root) = (self.path(".base"), self.path(""));
        journal.rebuild(old.as_deref(), loss, &base);
        journal.rebuild(old.as_deref(), loss, &root);
        self.base = Some(base);
        self.based = based;
    }
}

fn honest(cut: usize, unsynced: Unsynced) -> Loss {
    Loss { cut, unsynced, lies: |_| false }
}

#[test]
fn what_leaves_by_a_socket_is_in_order_with_writes() {
    let bench = Bench::new();
    assert!(bench.child("socket").env("POWERLOSS_SOCKETS", "1").status().unwrap().success());
    let journal = bench.journal();
    assert!(journal.sent(journal.len()).eq([&b"before"[..], b"after"]));
    let cut = (0..).find(|cut| journal.sent(*cut).count() == 2).unwrap() - 1;
    let into = bench.temp.path().join("rebuilt");
    journal.rebuild(None, honest(cut, Unsynced::Kept), &into);
    assert_eq!(tree(&into)["f"].as_deref(), Some(&b"x"[..]));
}

#[test]
fn no_cut_loses_what_was_acknowledged() {
    let bench = Bench::new();
    // Killed with the power on, so that a later process sees, and builds on, unsynced writes.
    bench.run(80, Some(511));
    bench.run(80, Some(742));
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
    type Lies = fn(&str) -> bool;
    let liars: [(&str, Lies); 3] = [
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
fn a_kill_before_a_sync_and_then_a_loss_of_power() {
    let mut bench = Bench::new();
    bench.run(25, None);
    let path = bench.path(".journal");
    let syncs = Journal::read(&path).before_syncs();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..40 {
        let cut = syncs[usize::try_from(rng.next_u64() % syncs.len() as u64).unwrap()];
        // The next process sees everything the killed one wrote, tells what it found and goes on.
        bench.generation += 1;
        let first = Journal::read(&path);
        first.rebuild(None, honest(cut, Unsynced::Kept), &bench.path(""));
        bench.run(26, None);
        let both = first.then(cut, bench.journal());
        for at in both.after_acks().into_iter().filter(|at| *at > cut) {
            if let Err(error) = bench.check(&both, honest(at, Unsynced::Lost)) {
                panic!("killed at {cut}, power lost at {at}: {error}");
            }
        }
    }
}

#[test]
fn generations_of_losses_build_on_each_other() {
    let mut bench = Bench::new();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut reached = 0;
    for generation in 0..8u64 {
        bench.run(reached + 1000, Some(150 + u64::from(rng.next_u32() % 500)));
        let journal = bench.journal();
        let cut = usize::try_from(rng.next_u64() % (journal.len() as u64 + 1)).unwrap();
        // Mostly late, so that the chain gets somewhere.
        let cut = if generation % 3 == 2 { cut } else { journal.len() - cut / 20 };
        let loss = honest(cut, Unsynced::Random(generation));
        reached = bench.check(&journal, loss).unwrap();
        bench.restart_from(&journal, loss, reached);
    }
    assert!(reached > 20, "only {reached} steps survived");
}
