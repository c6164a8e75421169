//! A file of records, each on disk before its promise is kept: what was answered survives the process.
//!
//! A record is its length in four bytes, itself, and the first eight bytes of the SHA-256 of both. A
//! last record that is cut short was never answered and is removed; anything else that does not add up is
//! refused. The file is locked, so that two processes cannot spend one budget.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Most bytes of a record.
const MAX_RECORD: usize = 1 << 20;

pub(crate) struct Journal {
    file: File,
    /// Bytes of whole records.
    end: u64,
    /// Whether a write failed: then nobody knows what is on disk.
    broken: bool,
}

impl Journal {
    /// Opens the journal at `path`, making it if there is none, and hands every record to `replay`.
    ///
    /// # Errors
    /// The system's; `WouldBlock` when another process has it; `InvalidData` when it is not a journal or
    /// `replay` refuses a record.
    pub(crate) fn open(
        path: &Path,
        mut replay: impl FnMut(&[u8]) -> Option<()>,
    ) -> io::Result<Self> {
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut rest = &*bytes;
        while let Some((record, left)) = next(rest)? {
            let refused = || io::Error::new(io::ErrorKind::InvalidData, "a record of another kind");
            replay(record).ok_or_else(refused)?;
            rest = left;
        }
        let end = (bytes.len() - rest.len()) as u64;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
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
        let length = u32::try_from(record.len()).ok().filter(|_| record.len() <= MAX_RECORD);
        let length = length.ok_or_else(|| io::Error::other("a record that is too long"))?;
        let mut bytes = Vec::with_capacity(record.len() + 12);
        bytes.extend(length.to_le_bytes());
        bytes.extend(record);
        bytes.extend(check(&bytes));
        self.broken = true;
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.end += bytes.len() as u64;
        self.broken = false;
        Ok(())
    }
}

/// The first record of `bytes` and what follows; `None` at the end and where the last one is cut short.
///
/// # Errors
/// `InvalidData` for a whole record with a wrong checksum that is not the last, or an impossible length.
fn next(bytes: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the journal is damaged");
    let Some((length, _)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_RECORD {
        return Err(damaged());
    }
    let Some((framed, left)) = bytes.split_at_checked(4 + length) else { return Ok(None) };
    let Some((sum, left)) = left.split_first_chunk::<8>() else { return Ok(None) };
    if *sum != check(framed) {
        // A write that power cut short may leave a hole of the right size, at the very end only.
        return if left.is_empty() { Ok(None) } else { Err(damaged()) };
    }
    Ok(framed.get(4..).map(|record| (record, left)))
}

fn check(framed: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(framed).into();
    hash.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
        let mut records = Vec::new();
        Journal::open(path, |record| {
            records.push(record.to_vec());
            Some(())
        })?;
        Ok(records)
    }

    #[test]
    fn records_survive_and_a_cut_one_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path, |_| None).unwrap();
        journal.append(b"one").unwrap();
        journal.append(b"two").unwrap();
        // Nobody else may spend from it meanwhile.
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(journal);
        assert_eq!(read(&path).unwrap(), [b"one", b"two"]);

        let whole = std::fs::read(&path).unwrap();
        for cut in 16..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path).unwrap(), [b"one"], "{cut}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 15);
        }
        // What was cut is written anew, and a record that was damaged before others is not passed over.
        Journal::open(&path, |_| Some(())).unwrap().append(b"three").unwrap();
        assert_eq!(read(&path).unwrap(), [&b"one"[..], b"three"]);
        let mut damaged = std::fs::read(&path).unwrap();
        damaged[5] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(&path, [0xff; 20]).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
