//! A file of records, each on disk before its promise is kept: what was answered survives the process.
//!
//! A record is its length in four bytes, eight bytes that check the length, itself, and eight bytes that check
//! all that. A last record that ends before its checked length does, or of which nothing but zeros got to the
//! disk, was never answered and is removed; whatever else does not add up is refused and left as it is.
//!
//! The first record is the name of the secret beside which the journal lies. A journal that is not there is
//! refused like another secret's: without it nobody knows what is left to spend. The file is locked, so that two
//! processes cannot spend one budget, and its user alone reads it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Most bytes of a record.
const MAX_RECORD: usize = 1 << 20;

/// Bytes of a record's length and of its check.
const HEAD: usize = 12;

pub(crate) struct Journal {
    file: File,
    /// Bytes of whole records.
    end: u64,
    /// Whether a write failed: then nobody knows what is on disk.
    broken: bool,
}

impl Journal {
    /// Makes the journal of the secret `name` at `path`.
    ///
    /// # Errors
    /// The system's; `AlreadyExists` when there is one.
    pub(crate) fn create(path: &Path, name: &[u8]) -> io::Result<()> {
        write_new(path, &framed(name)?, 0o600)
    }

    /// Opens the journal of the secret `name` at `path`, and hands every record to `replay`.
    ///
    /// # Errors
    /// The system's, among them `NotFound`; `WouldBlock` when another process has it; `InvalidData` when it is
    /// damaged or of another secret, or `replay` refuses a record.
    pub(crate) fn open(
        path: &Path,
        name: &[u8],
        mut replay: impl FnMut(&[u8]) -> Option<()>,
    ) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let (_, mut rest) = next(&bytes)?
            .filter(|(first, _)| *first == name)
            .ok_or_else(|| invalid("the journal of another secret"))?;
        while let Some((record, left)) = next(rest)? {
            replay(record).ok_or_else(|| invalid("a record of another kind"))?;
            rest = left;
        }
        let end = (bytes.len() - rest.len()) as u64;
        file.set_len(end)?;
        file.sync_all()?;
        Ok(Self { file, end, broken: false })
    }

    /// Adds a record and returns when it is on disk.
    ///
    /// # Errors
    /// The system's; then, and ever after, nothing may be answered until the journal is opened again.
    pub(crate) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed; start again"));
        }
        let bytes = framed(record)?;
        self.broken = true;
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.end += bytes.len() as u64;
        self.broken = false;
        Ok(())
    }
}

/// Writes a file that there was not, to the disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// A record as it lies in the file.
fn framed(record: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(record.len()).ok().filter(|_| record.len() <= MAX_RECORD);
    let length = length.ok_or_else(|| io::Error::other("a record that is too long"))?;
    let mut bytes = Vec::with_capacity(HEAD + record.len() + 8);
    bytes.extend(length.to_le_bytes());
    bytes.extend(check(&bytes));
    bytes.extend(record);
    bytes.extend(check(&bytes));
    Ok(bytes)
}

/// The first record of `bytes` and what follows; `None` where nothing follows but what a write that was cut
/// short leaves.
///
/// # Errors
/// `InvalidData` for anything else.
fn next(bytes: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the journal is damaged");
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let Some((head, _)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
    let (length, sum) = head.split_first_chunk().ok_or_else(damaged)?;
    let whole = HEAD + u32::from_le_bytes(*length) as usize;
    if sum != check(length) || whole > HEAD + MAX_RECORD {
        return Err(damaged());
    }
    let Some((framed, left)) = bytes.split_at_checked(whole) else { return Ok(None) };
    let Some((sum, left)) = left.split_first_chunk() else { return Ok(None) };
    if *sum != check(framed) {
        return Err(damaged());
    }
    Ok(framed.get(HEAD..).map(|record| (record, left)))
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    hash.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
        let mut records = Vec::new();
        Journal::open(path, b"key", |record| {
            records.push(record.to_vec());
            Some(())
        })?;
        Ok(records)
    }

    fn refused(path: &Path) -> io::ErrorKind {
        read(path).unwrap_err().kind()
    }

    #[test]
    fn records_survive_and_a_cut_one_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        // One that was lost, or is another's, is no fresh budget.
        assert_eq!(refused(&path), io::ErrorKind::NotFound);
        std::fs::write(&path, []).unwrap();
        assert_eq!(refused(&path), io::ErrorKind::InvalidData);
        std::fs::remove_file(&path).unwrap();
        Journal::create(&path, b"other").unwrap();
        assert_eq!(refused(&path), io::ErrorKind::InvalidData);
        let again = Journal::create(&path, b"key").unwrap_err().kind();
        assert_eq!(again, io::ErrorKind::AlreadyExists);
        std::fs::remove_file(&path).unwrap();

        Journal::create(&path, b"key").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut journal = Journal::open(&path, b"key", |_| None).unwrap();
        journal.append(b"one").unwrap();
        journal.append(b"two").unwrap();
        // Nobody else may spend from it meanwhile.
        assert_eq!(refused(&path), io::ErrorKind::WouldBlock);
        drop(journal);
        assert_eq!(read(&path).unwrap(), [b"one", b"two"]);

        let whole = std::fs::read(&path).unwrap();
        let two = whole.len() / 3 * 2;
        for cut in two..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path).unwrap(), [b"one"], "{cut}");
            assert_eq!(std::fs::read(&path).unwrap(), &whole[..two]);
        }
        for hole in [1, 11, 12, 23, 5_000] {
            std::fs::write(&path, [&whole[..two], &vec![0; hole]].concat()).unwrap();
            assert_eq!(read(&path).unwrap(), [b"one"], "{hole}");
            assert_eq!(std::fs::read(&path).unwrap(), &whole[..two]);
        }
        // What was cut is written anew.
        Journal::open(&path, b"key", |_| Some(())).unwrap().append(b"three").unwrap();
        assert_eq!(read(&path).unwrap(), [&b"one"[..], b"three"]);
    }

    #[test]
    fn a_damaged_record_is_refused_and_nothing_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        Journal::create(&path, b"key").unwrap();
        let mut journal = Journal::open(&path, b"key", |_| None).unwrap();
        journal.append(b"one").unwrap();
        journal.append(&[0; 40]).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let refuse = |bytes: &[u8], what: usize| {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(refused(&path), io::ErrorKind::InvalidData, "{what}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
        };
        // Any bit, of lengths, checks and content, of the last record as well.
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            refuse(&bytes, bit);
        }
        // A record that is whole but for zeros at its end, and more than a record.
        for zeros in 1..=8 {
            let mut bytes = whole.clone();
            let end = bytes.len();
            bytes[end - zeros..].fill(0);
            refuse(&bytes, zeros);
        }
        refuse(&[&whole[..], &[0xff; 20]].concat(), whole.len());
    }
}
