//! A loss of power, simulated: run a process under the shim, then build its folder as a disk that
//! had only done what it was told to sync would hold it.
//!
//! The model is the harsh one that POSIX allows. A file's bytes are safe after `fsync` of the file,
//! its name after `fsync` of the folder; syncing one does nothing for the other. Of what was not
//! synced, nothing survives, or everything, or any subset down to single sectors of a write.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const SECTOR: usize = 512;

/// The compiled shim.
pub(crate) struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Compiles the shim into `dir`.
    pub(crate) fn build(dir: &Path) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("durability/shim.c");
        let library = dir.join("powerloss.so");
        let done = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("this test needs `cc`: install build-essential");
        assert!(done.success(), "the shim does not compile");
        Self { library }
    }

    /// Makes `command` journal what it does below `root`, and what it writes to `ack`.
    pub(crate) fn watch(&self, command: &mut Command, root: &Path, journal: &Path, ack: &Path) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("POWERLOSS_ROOT", root)
            .env("POWERLOSS_JOURNAL", journal)
            .env("POWERLOSS_ACK", ack);
    }
}

#[derive(Debug)]
enum Record {
    Open { path: String, inode: u64, created: bool },
    Write { inode: u64, offset: u64, data: Vec<u8> },
    Truncate { inode: u64, len: u64 },
    Sync { inode: u64 },
    SyncDir { path: String },
    Rename { from: String, to: String },
    Unlink { path: String },
    Link { from: String, to: String },
    MakeDir { path: String },
    RemoveDir { path: String },
    Ack { data: Vec<u8> },
    Sent { data: Vec<u8> },
}

/// What a process, or several in turn, did to a folder.
pub(crate) struct Journal {
    records: Vec<Record>,
}

/// What becomes of writes that were not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unsynced {
    /// None survives.
    Lost,
    /// All survive: the process died, the power stayed.
    Kept,
    /// Each survives, is torn or is lost, by this seed.
    Random(u64),
}

/// A loss of power.
#[derive(Clone, Copy)]
pub(crate) struct Loss {
    /// Number of journal records before it.
    pub(crate) cut: usize,
    /// What happens to the rest.
    pub(crate) unsynced: Unsynced,
    /// Syncs that the disk claims to have done and has not, by the name a file was created with or
    /// by the folder (with a `/` at its end).
    pub(crate) lies: fn(&str) -> bool,
}

impl Journal {
    /// Reads a journal; a record cut short by a kill ends it.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("the journal exists: did the shim load?");
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while let Some(record) = next_record(&mut rest) {
            records.push(record);
        }
        Self { records }
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// What was acknowledged before record `cut`.
    pub(crate) fn acks(&self, cut: usize) -> String {
        let acks = self.records[..cut].iter().filter_map(|record| match record {
            Record::Ack { data } => Some(String::from_utf8(data.clone()).unwrap()),
            _ => None,
        });
        acks.collect()
    }

    /// The start of each message that left by a socket before record `cut`; the process must have
    /// been watched with `POWERLOSS_SOCKETS` set.
    pub(crate) fn sent(&self, cut: usize) -> impl Iterator<Item = &[u8]> {
        self.records[..cut].iter().filter_map(|record| match record {
            Record::Sent { data } => Some(data.as_slice()),
            _ => None,
        })
    }

    /// Positions right after each acknowledgement.
    pub(crate) fn after_acks(&self) -> Vec<usize> {
        let records = self.records.iter().enumerate();
        records.filter(|(_, r)| matches!(r, Record::Ack { .. })).map(|(i, _)| i + 1).collect()
    }

    /// Positions right before each sync: something is visible there that may not be on the disk.
    pub(crate) fn before_syncs(&self) -> Vec<usize> {
        let sync = |r: &Record| matches!(r, Record::Sync { .. } | Record::SyncDir { .. });
        let records = self.records.iter().enumerate();
        records.filter(|(_, record)| sync(record)).map(|(i, _)| i).collect()
    }

    /// The first `cut` records, and then those of a process that ran on the folder as
    /// [`Unsynced::Kept`] builds it: what was not synced before is still not synced.
    pub(crate) fn then(mut self, cut: usize, next: Self) -> Self {
        self.records.truncate(cut);
        self.records.extend(next.records);
        self
    }

    /// Builds the folder in `into`, which must not exist; `base` is what it held before the
    /// journal began, all of it safe.
    pub(crate) fn rebuild(&self, base: Option<&Path>, loss: Loss, into: &Path) {
        let mut disk = Disk::new(base, loss.lies);
        for record in &self.records[..loss.cut] {
            disk.apply(record);
        }
        disk.settle(loss.unsynced);
        disk.write_to(into);
    }
}

fn next_record(rest: &mut &[u8]) -> Option<Record> {
    let (head, tail) = rest.split_first_chunk::<24>()?;
    let number = |range: std::ops::Range<usize>| {
        head[range].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))
    };
    let length = |range| usize::try_from(number(range)).unwrap();
    let (path_len, data_len) = (length(2..4), length(4..8));
    let (inode, offset) = (number(8..16), number(16..24));
    let (path, tail) = tail.split_at_checked(path_len)?;
    let (data, tail) = tail.split_at_checked(data_len)?;
    *rest = tail;
    let path = String::from_utf8(path.to_vec()).unwrap();
    let to = || String::from_utf8(data.to_vec()).unwrap();
    Some(match head[0] {
        1 => Record::Open { path, inode, created: head[1] == 1 },
        2 => Record::Write { inode, offset, data: data.to_vec() },
        3 => Record::Truncate { inode, len: offset },
        4 => Record::Sync { inode },
        5 => Record::SyncDir { path },
        6 => Record::Rename { from: path, to: to() },
        7 => Record::Unlink { path },
        8 => Record::Link { from: path, to: to() },
        9 => Record::MakeDir { path },
        10 => Record::RemoveDir { path },
        11 => Record::Ack { data: data.to_vec() },
        12 => Record::Sent { data: data.to_vec() },
        kind => panic!("call outside the model ({kind}): {path} {}", to()),
    })
}

#[derive(Clone, Copy)]
enum Node {
    Dir,
    File(usize),
}

/// A change of one folder's entries that happens as a whole.
type Change = Vec<(String, Option<Node>)>;

enum DataOp {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Default)]
struct File {
    name: String,
    bytes: Vec<u8>,
    pending: Vec<DataOp>,
}

struct Disk {
    lies: fn(&str) -> bool,
    files: Vec<File>,
    inodes: HashMap<u64, usize>,
    /// The names processes see.
    seen: BTreeMap<String, Node>,
    /// The names on the disk.
    durable: BTreeMap<String, Node>,
    pending: Vec<Change>,
}

impl Disk {
    fn new(base: Option<&Path>, lies: fn(&str) -> bool) -> Self {
        let mut disk = Self {
            lies,
            files: Vec::new(),
            inodes: HashMap::new(),
            seen: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
        };
        for (path, bytes) in base.map(tree).unwrap_or_default() {
            let node = match bytes {
                None => Node::Dir,
                Some(bytes) => {
                    disk.files.push(File { name: path.clone(), bytes, pending: Vec::new() });
                    Node::File(disk.files.len() - 1)
                }
            };
            disk.seen.insert(path.clone(), node);
            disk.durable.insert(path, node);
        }
        disk
    }

    fn file(&mut self, inode: u64) -> &mut File {
        &mut self.files[self.inodes[&inode]]
    }

    fn change(&mut self, change: Change) {
        for (path, node) in &change {
            match node {
                Some(node) => self.seen.insert(path.clone(), *node),
                None => self.seen.remove(path),
            };
        }
        assert!(change.iter().all(|(p, _)| parent(p) == parent(&change[0].0)), "across folders");
        self.pending.push(change);
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Open { path, inode, created: true } => {
                self.files.push(File { name: path.clone(), ..File::default() });
                self.inodes.insert(*inode, self.files.len() - 1);
                self.change(vec![(path.clone(), Some(Node::File(self.files.len() - 1)))]);
            }
            Record::Open { path, inode, created: false } => match self.seen[path] {
                Node::File(file) => drop(self.inodes.insert(*inode, file)),
                Node::Dir => panic!("{path} is a folder"),
            },
            Record::Write { inode, offset, data } => {
                self.file(*inode).pending.push(DataOp::Write(*offset, data.clone()));
            }
            Record::Truncate { inode, len } => {
                self.file(*inode).pending.push(DataOp::Truncate(*len));
            }
            Record::Sync { inode } => {
                let lies = self.lies;
                let file = self.file(*inode);
                if !lies(&file.name) {
                    let ops = std::mem::take(&mut file.pending);
                    ops.into_iter().for_each(|op| op.apply(&mut file.bytes));
                }
            }
            Record::SyncDir { path } => {
                if !(self.lies)(&format!("{path}/")) {
                    let ours = |change: &mut Change| parent(&change[0].0) == path;
                    let done: Vec<Change> = self.pending.extract_if(.., ours).collect();
                    done.into_iter().for_each(|change| self.make_durable(change));
                }
            }
            Record::Rename { from, to } => {
                let node = self.seen[from];
                assert!(matches!(node, Node::File(_)), "folders do not move");
                self.change(vec![(from.clone(), None), (to.clone(), Some(node))]);
            }
            Record::Link { from, to } => self.change(vec![(to.clone(), Some(self.seen[from]))]),
            Record::Unlink { path } | Record::RemoveDir { path } => {
                self.change(vec![(path.clone(), None)]);
            }
            Record::MakeDir { path } => self.change(vec![(path.clone(), Some(Node::Dir))]),
            Record::Ack { .. } | Record::Sent { .. } => {}
        }
    }

    fn make_durable(&mut self, change: Change) {
        for (path, node) in change {
            match node {
                Some(node) => self.durable.insert(path, node),
                None => self.durable.remove(&path),
            };
        }
    }

    fn settle(&mut self, unsynced: Unsynced) {
        let mut rng =
            ChaCha8Rng::seed_from_u64(if let Unsynced::Random(s) = unsynced { s } else { 0 });
        let mut survives = || match unsynced {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Random(_) => rng.next_u32() & 1 == 1,
        };
        for change in std::mem::take(&mut self.pending) {
            if survives() {
                self.make_durable(change);
            }
        }
        for file in &mut self.files {
            for op in std::mem::take(&mut file.pending) {
                match op {
                    op if survives() => op.apply(&mut file.bytes),
                    DataOp::Write(offset, data) => {
                        for (i, sector) in (0u64..).zip(data.chunks(SECTOR)) {
                            if survives() {
                                let at = offset + i * SECTOR as u64;
                                DataOp::Write(at, sector.to_vec()).apply(&mut file.bytes);
                            }
                        }
                    }
                    DataOp::Truncate(_) => {}
                }
            }
        }
    }

    /// Writes what is on the disk. An entry below a folder that was lost is lost with it.
    fn write_to(&self, into: &Path) {
        fs::create_dir(into).unwrap();
        // Sorted, so that folders come before what is in them.
        for (path, node) in &self.durable {
            let target = into.join(path);
            if !target.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match node {
                Node::Dir => fs::create_dir(target).unwrap(),
                // Shared memory does not outlive its machine.
                Node::File(_) if path.ends_with("-shm") => {}
                Node::File(file) => fs::write(target, &self.files[*file].bytes).unwrap(),
            }
        }
    }
}

impl DataOp {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Truncate(len) => bytes.resize(usize::try_from(len).unwrap(), 0),
            Self::Write(offset, data) => {
                let start = usize::try_from(offset).unwrap();
                let end = start + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(&data);
            }
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Everything below a folder: `None` for folders, the bytes of files; without shared memory.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                found.insert(name, None);
                todo.push(path);
            } else if !name.ends_with("-shm") {
                found.insert(name, Some(fs::read(path).unwrap()));
            }
        }
    }
    found
}
