//! The durable store of every service: one SQLite file for small state, a folder of chunks for
//! vectors.
//!
//! A driver loads a machine's state, runs it, and commits the new state and the facts it established
//! as one [`Batch`]; only then does it send. What has to arrive follows from the stored state, which
//! repeats it until the peer has answered: there is no queue beside it. Vectors go to [`Blobs`] first, which returns when they are
//! on the disk, so a committed row never names a chunk that a power loss can take away.
//!
//! # Security
//!
//! The folder has mode 0700 and the database 0600. Deleted rows are overwritten inside the
//! database (`secure_delete`); the write-ahead log keeps old pages until [`Store::scrub`]. Neither
//! reaches copies which the file system or the device keeps: encrypt the volume.

mod batch;
mod blobs;
mod facts;
mod machines;
mod records;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

pub use batch::Batch;
pub use blobs::Blobs;
pub use facts::{Fact, LoggedFact};

/// File name of the database inside the store's folder.
pub const DATABASE: &str = "store.sqlite";

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another handle of this one, has the folder open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// A machine was written by someone else since it was loaded; nothing of the batch is stored.
    #[error("{kind} {id}: expected version {expected}, stored is {found}")]
    Conflict {
        /// Kind of the machine.
        kind: String,
        /// Name of the machine.
        id: String,
        /// The version the batch was computed from; 0 for a machine that must be new.
        expected: u64,
        /// The stored version; 0 if there is none.
        found: u64,
    },
    /// A record that had to be new exists; nothing of the batch is stored.
    #[error("{kind} {key} exists already")]
    Exists {
        /// Kind of the record.
        kind: String,
        /// Key of the record.
        key: String,
    },
    /// A namespace is not made of `/`-separated parts of 1 to 128 letters, digits, `-`, `_`.
    #[error("bad namespace")]
    BadNamespace,
    /// The chunk is not stored.
    #[error("chunk {0} is not stored")]
    NoChunk(quorate_crypto::merkle::Hash),
    /// A stored chunk does not have the length or the hash of its name.
    #[error("chunk {0} is damaged on disk")]
    Damaged(quorate_crypto::merkle::Hash),
    /// A stored number does not fit its type: the file was edited or is damaged.
    #[error("stored number out of range")]
    BadNumber,
    /// The file system failed.
    #[error("{}: {error}", .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// The system's answer.
        #[source]
        error: io::Error,
    },
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migration: {0}")]
    Migration(#[from] MigrateError),
    /// The chunk store failed.
    #[error("chunk store: {0}")]
    Blob(#[from] object_store::Error),
    /// A background task ended early (the runtime is shutting down).
    #[error("interrupted")]
    Interrupted,
}

impl StoreError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::Io { path: path.to_owned(), error }
    }
}

/// An open store; clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    pool: SqlitePool,
    blobs: Blobs,
    dir: PathBuf,
    // Held for as long as any clone lives; the kernel frees it when the process dies.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, creating both if needed, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if it is open elsewhere; failures of the file system or database.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.to_owned();
        let (dir, lock) = blocking(move || prepare(&path)).await?;
        let database = dir.join(DATABASE);
        let options = SqliteConnectOptions::new()
            .filename(&database)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma("secure_delete", "ON");
        // One connection: writers queue here instead of failing on SQLite's lock, and a commit of
        // one synchronous write is shorter than a round trip on any network.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        MIGRATOR.run(&pool).await?;
        let blobs = Blobs::open(dir.join("blobs")).await?;
        let store = Self { inner: Arc::new(Inner { pool, blobs, dir, _lock: lock }) };
        // A process killed between the write and the sync of a commit leaves one that is visible
        // now and gone after a later loss of power: nothing may be done on the strength of it.
        store.scrub().await?;
        Ok(store)
    }

    /// The chunks stored beside the database.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// The folder of this store.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Moves the write-ahead log into the database and empties it, so that rows deleted before
    /// are no longer in either.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn scrub(&self) -> Result<(), StoreError> {
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(self.pool()).await?;
        Ok(())
    }

    /// Closes the database after the running commit; later calls on any clone fail.
    pub async fn close(self) {
        self.inner.pool.close().await;
    }

    fn pool(&self) -> &SqlitePool {
        &self.inner.pool
    }
}

/// Creates and locks the folder, and makes its name and that of the database durable.
fn prepare(dir: &Path) -> Result<(PathBuf, File), StoreError> {
    make_dir(dir)?;
    let dir = dir.canonicalize().map_err(StoreError::io(dir))?;
    let path = dir.join("lock");
    let lock = open_private(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(dir)),
        Err(TryLockError::Error(error)) => return Err(StoreError::Io { path, error }),
    }
    // SQLite gives its companion files the mode of the database, so the mode is set before it.
    drop(open_private(&dir.join(DATABASE))?);
    sync_dir(&dir)?;
    Ok((dir, lock))
}

/// Creates `dir` and its parents with mode 0700 and fsyncs every folder that got a new entry.
fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).collect();
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(StoreError::io(dir))?;
    // Also the parent of a folder that exists: the process that made it may not have got this far.
    for new in missing.into_iter().chain([dir]) {
        match new.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent)?,
            Some(_) => sync_dir(Path::new("."))?,
            None => {}
        }
    }
    Ok(())
}

fn open_private(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(StoreError::io(path))
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io(dir))
}

/// Runs `work` on the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Interrupted)?
}

fn to_db(n: u64) -> Result<i64, StoreError> {
    i64::try_from(n).map_err(|_| StoreError::BadNumber)
}

fn from_db(n: i64) -> Result<u64, StoreError> {
    u64::try_from(n).map_err(|_| StoreError::BadNumber)
}

#[cfg(test)]
mod tests;
