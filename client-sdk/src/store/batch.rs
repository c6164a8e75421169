//! A list of writes that happen together or not at all.

use sqlx::SqliteConnection;

use super::{Fact, Store, StoreError, facts, machines, outbox, records};

/// Writes to be committed as one transaction, in the order they were added.
#[derive(Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    ops: Vec<Op>,
}

enum Op {
    PutMachine { kind: String, id: String, expected: u64, state: Vec<u8> },
    DelMachine { kind: String, id: String },
    PushOutbox { kind: String, id: String, body: Vec<u8> },
    PopOutbox { seq: u64 },
    Fact(Fact),
    PutRecord { kind: String, key: String, value: Vec<u8> },
    InsertRecord { kind: String, key: String, value: Vec<u8> },
    DelRecord { kind: String, key: String },
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

    /// Erases a machine, if it exists.
    pub fn del_machine(self, kind: &str, id: &str) -> Self {
        self.with(Op::DelMachine { kind: kind.to_owned(), id: id.to_owned() })
    }

    /// Adds a message of a machine to the outbox; [`Store::commit`] returns its number.
    pub fn push_outbox(self, kind: &str, id: &str, body: Vec<u8>) -> Self {
        self.with(Op::PushOutbox { kind: kind.to_owned(), id: id.to_owned(), body })
    }

    /// Removes a delivered message; no error if it is gone already.
    pub fn pop_outbox(self, seq: u64) -> Self {
        self.with(Op::PopOutbox { seq })
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

    /// Appends the writes of another batch.
    pub fn and(mut self, other: Self) -> Self {
        self.ops.extend(other.ops);
        self
    }

    fn with(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    async fn apply(self, db: &mut SqliteConnection) -> Result<Vec<u64>, StoreError> {
        let mut pushed = Vec::new();
        for op in self.ops {
            match op {
                Op::PutMachine { kind, id, expected, state } => {
                    machines::put(db, kind, id, expected, state).await?;
                }
                Op::DelMachine { kind, id } => machines::delete(db, kind, id).await?,
                Op::PushOutbox { kind, id, body } => {
                    pushed.push(outbox::push(db, kind, id, body).await?);
                }
                Op::PopOutbox { seq } => outbox::pop(db, seq).await?,
                Op::Fact(fact) => facts::append(db, fact).await?,
                Op::PutRecord { kind, key, value } => records::put(db, kind, key, value).await?,
                Op::InsertRecord { kind, key, value } => {
                    records::insert(db, kind, key, value).await?;
                }
                Op::DelRecord { kind, key } => records::delete(db, kind, key).await?,
            }
        }
        Ok(pushed)
    }
}

impl Store {
    /// Writes a batch as one transaction and returns, once it is on the disk, the outbox numbers
    /// of its pushed messages in order.
    ///
    /// The commit runs to its end even if the returned future is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`], [`StoreError::Exists`], or a failure of the database. On these
    /// nothing is stored, but for a failure of the disk itself, which leaves the outcome unknown:
    /// load again before going on.
    pub async fn commit(&self, batch: Batch) -> Result<Vec<u64>, StoreError> {
        let store = self.clone();
        // A task of its own: an HTTP handler is dropped when its peer hangs up.
        let task = tokio::spawn(async move {
            let mut tx = store.pool().begin_with("BEGIN IMMEDIATE").await?;
            let pushed = batch.apply(&mut tx).await?;
            tx.commit().await?;
            Ok(pushed)
        });
        task.await.map_err(|_| StoreError::Interrupted)?
    }
}

/// The next number of a named counter.
pub(super) async fn next_seq(
    db: &mut SqliteConnection,
    counter: &'static str,
) -> Result<i64, StoreError> {
    let next =
        sqlx::query_scalar("UPDATE counters SET last = last + 1 WHERE name = $1 RETURNING last")
            .bind(counter)
            .fetch_one(db)
            .await?;
    Ok(next)
}
