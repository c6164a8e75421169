//! A list of writes that happen together or not at all.

use sqlx::SqliteConnection;

use super::{Fact, Store, StoreError, facts, machines, records};

/// Writes to be committed as one transaction, in the order they were added.
#[derive(Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    ops: Vec<Op>,
}

enum Op {
    PutMachine { kind: String, id: String, expected: u64, state: Vec<u8> },
    Fact(Fact),
    PutRecord { kind: String, key: String, value: Vec<u8> },
    InsertRecord { kind: String, key: String, value: Vec<u8> },
    DelRecord { kind: String, key: String },
    DelRecords { kind: String, prefix: String },
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Stores a machine's state as version `expected_version` + 1, provided the stored version is
    /// `expected_version` (0: the machine must be new).
    pub fn put_machine(self, kind: &str, id: &str, expected_version: u64, state: Vec<u8>) -> Self {
        let (kind, id) = (kind.to_owned(), id.to_owned());
        self.with(Op::PutMachine { kind, id, expected: expected_version, state })
    }

    /// Appends a fact to the log.
    pub fn fact(self, fact: Fact) -> Self {
        self.with(Op::Fact(fact))
    }

    /// Stores a record, replacing an older value.
    pub fn put_record(self, kind: &str, key: &str, value: Vec<u8>) -> Self {
        self.with(Op::PutRecord { kind: kind.to_owned(), key: key.to_owned(), value })
    }

    /// Stores a record that must not exist yet: the commit fails with [`StoreError::Exists`].
    pub fn insert_new_record(self, kind: &str, key: &str, value: Vec<u8>) -> Self {
        self.with(Op::InsertRecord { kind: kind.to_owned(), key: key.to_owned(), value })
    }

    /// Erases a record, if it exists.
    pub fn del_record(self, kind: &str, key: &str) -> Self {
        self.with(Op::DelRecord { kind: kind.to_owned(), key: key.to_owned() })
    }

    /// Erases all records of a kind whose key starts with `prefix`.
    pub fn del_records(self, kind: &str, prefix: &str) -> Self {
        self.with(Op::DelRecords { kind: kind.to_owned(), prefix: prefix.to_owned() })
    }

    /// Appends the writes of another batch.
    pub fn and(mut self, other: Self) -> Self {
        self.ops.extend(other.ops);
        self
    }

    fn with(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    async fn apply(self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        for op in self.ops {
            match op {
                Op::PutMachine { kind, id, expected, state } => {
                    machines::put(db, kind, id, expected, state).await?;
                }
                Op::Fact(fact) => facts::append(db, fact).await?,
                Op::PutRecord { kind, key, value } => records::put(db, kind, key, value).await?,
                Op::InsertRecord { kind, key, value } => {
                    records::insert(db, kind, key, value).await?;
                }
                Op::DelRecord { kind, key } => records::delete(db, kind, key).await?,
                Op::DelRecords { kind, prefix } => records::delete_all(db, kind, prefix).await?,
            }
        }
        Ok(())
    }
}

impl Store {
    /// Writes a batch as one transaction and returns once it is on the disk.
    ///
    /// The commit runs to its end even if the returned future is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`], [`StoreError::Exists`], or a failure of the database. On these
    /// nothing is stored, but for a failure of the disk itself, which leaves the outcome unknown:
    /// load again before going on.
    pub async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let store = self.clone();
        // A task of its own: an HTTP handler is dropped when its peer hangs up.
        let task = tokio::spawn(async move {
            let mut tx = store.pool().begin_with("BEGIN IMMEDIATE").await?;
            batch.apply(&mut tx).await?;
            tx.commit().await?;
            Ok(())
        });
        task.await.map_err(|_| StoreError::Interrupted)?
    }
}
