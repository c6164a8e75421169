//! Chunks of vectors: files named by their hash, grouped in namespaces that are erased whole.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use quorate_crypto::merkle::{CHUNK_BYTES, Hash, leaf_hash};
use tokio::sync::Mutex;

use super::{StoreError, blocking, make_dir, sync_dir};

/// A folder of immutable chunks of at most [`CHUNK_BYTES`]; clones share it.
///
/// A namespace is a path such as `job7/round3`, of `/`-separated parts of letters, digits, `-`
/// and `_`: one per job at the top, so that a job is erased with one call.
#[derive(Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    files: LocalFileSystem,
    // Namespaces whose folders are known to be on the disk.
    durable: Mutex<HashSet<String>>,
}

impl Blobs {
    /// Opens the chunk store in `root`, creating the folder if needed.
    ///
    /// # Errors
    ///
    /// Failures of the file system.
    pub async fn open(root: PathBuf) -> Result<Self, StoreError> {
        let path = root.clone();
        blocking(move || make_dir(&path)).await?;
        // `with_fsync` syncs the staged file before and the folder after its rename.
        let files = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true);
        Ok(Self { inner: Arc::new(Inner { root, files, durable: Mutex::default() }) })
    }

    /// Stores a chunk under its leaf hash and returns when it would survive a loss of power.
    ///
    /// The caller has computed or checked the hash. A chunk already there is written again, since
    /// the one seen may still be on its way to the disk.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadNamespace`], failures of the file system.
    pub async fn put_chunk(
        &self,
        namespace: &str,
        hash: &Hash,
        bytes: Bytes,
    ) -> Result<(), StoreError> {
        let path = object_path(namespace, hash)?;
        self.ensure(namespace).await?;
        self.inner.files.put(&path, bytes.into()).await?;
        Ok(())
    }

    /// Reads a chunk and checks it against its hash.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoChunk`], [`StoreError::Damaged`], failures of the file system.
    pub async fn get_chunk(&self, namespace: &str, hash: &Hash) -> Result<Bytes, StoreError> {
        let path = object_path(namespace, hash)?;
        let found = match self.inner.files.get(&path).await {
            Err(object_store::Error::NotFound { .. }) => return Err(StoreError::NoChunk(*hash)),
            other => other?,
        };
        if found.meta.size > CHUNK_BYTES as u64 {
            return Err(StoreError::Damaged(*hash));
        }
        let (bytes, hash) = (found.bytes().await?, *hash);
        blocking(
            move || {
                if leaf_hash(&bytes) == hash { Ok(bytes) } else { Err(StoreError::Damaged(hash)) }
            },
        )
        .await
    }

    /// Whether a chunk of `len` bytes is there. It may not be durable yet: see
    /// [`Blobs::sync_namespace`].
    ///
    /// # Errors
    ///
    /// [`StoreError::BadNamespace`], failures of the file system.
    pub async fn has_chunk(
        &self,
        namespace: &str,
        hash: &Hash,
        len: usize,
    ) -> Result<bool, StoreError> {
        match self.inner.files.head(&object_path(namespace, hash)?).await {
            Ok(found) => Ok(found.size == len as u64),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes every chunk that is visible in a namespace durable.
    ///
    /// A process killed between the rename of a chunk and the sync of its folder leaves a chunk
    /// that is visible after the restart and gone after a later loss of power.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadNamespace`], failures of the file system.
    pub async fn sync_namespace(&self, namespace: &str) -> Result<(), StoreError> {
        check(namespace)?;
        let dir = self.inner.root.join(namespace);
        blocking(move || if dir.exists() { sync_dir(&dir) } else { Ok(()) }).await
    }

    /// Erases a namespace and those below it; no error if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadNamespace`], failures of the file system.
    pub async fn delete_namespace(&self, namespace: &str) -> Result<(), StoreError> {
        check(namespace)?;
        let mut durable = self.inner.durable.lock().await;
        durable.retain(|known| {
            known
                .strip_prefix(namespace)
                .is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/'))
        });
        let dir = self.inner.root.join(namespace);
        blocking(move || match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { path: dir, error })
            }
            Err(_) => Ok(()),
            Ok(()) => dir.parent().map_or(Ok(()), sync_dir),
        })
        .await
    }

    /// Creates a namespace's folder durably, once: two first chunks written at the same time must
    /// not return before the folder's own name is on the disk.
    async fn ensure(&self, namespace: &str) -> Result<(), StoreError> {
        let mut durable = self.inner.durable.lock().await;
        if durable.contains(namespace) {
            return Ok(());
        }
        let (root, name) = (self.inner.root.clone(), namespace.to_owned());
        blocking(move || {
            make_dir(&root.join(&name))?;
            // An earlier run may have been killed between creating a folder and syncing its parent.
            let mut dir = root;
            sync_dir(&dir)?;
            for part in name.split('/') {
                dir.push(part);
                sync_dir(&dir)?;
            }
            Ok(())
        })
        .await?;
        durable.insert(namespace.to_owned());
        Ok(())
    }
}

fn check(namespace: &str) -> Result<(), StoreError> {
    let good = |part: &str| {
        (1..=128).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if namespace.len() <= 512 && namespace.split('/').all(good) {
        Ok(())
    } else {
        Err(StoreError::BadNamespace)
    }
}

// `ab/cd/HASH` is a chunk of the namespace `ab/cd`; a hash could also name a nested namespace, so
// chunks carry a suffix that no namespace part can have.
fn object_path(namespace: &str, hash: &Hash) -> Result<ObjectPath, StoreError> {
    check(namespace)?;
    ObjectPath::parse(format!("{namespace}/{hash}.chunk")).map_err(|e| StoreError::Blob(e.into()))
}
