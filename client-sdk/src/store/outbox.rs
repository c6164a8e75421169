//! Table `outbox`: messages that were decided and have to arrive.

use sqlx::SqliteConnection;

use super::batch::next_seq;
use super::{Store, StoreError, from_db, to_db};

/// A message waiting to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its number: grows over the life of the store, never given twice.
    pub seq: u64,
    /// Kind of the machine that sends it.
    pub kind: String,
    /// Name of the machine that sends it.
    pub id: String,
    /// The message, as the sender encoded it.
    pub body: Vec<u8>,
}

impl Store {
    /// The undelivered messages of one machine, oldest first.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn pending_outbox(&self, kind: &str, id: &str) -> Result<Vec<Outgoing>, StoreError> {
        let rows: Vec<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT seq, body FROM outbox WHERE kind = $1 AND id = $2 ORDER BY seq")
                .bind(kind)
                .bind(id)
                .fetch_all(self.pool())
                .await?;
        rows.into_iter()
            .map(|(seq, body)| {
                let (kind, id) = (kind.to_owned(), id.to_owned());
                Ok(Outgoing { seq: from_db(seq)?, kind, id, body })
            })
            .collect()
    }
}

pub(super) async fn push(
    db: &mut SqliteConnection,
    kind: String,
    id: String,
    body: Vec<u8>,
) -> Result<u64, StoreError> {
    let seq = next_seq(db, "outbox").await?;
    sqlx::query("INSERT INTO outbox (seq, kind, id, body) VALUES ($1, $2, $3, $4)")
        .bind(seq)
        .bind(kind)
        .bind(id)
        .bind(body)
        .execute(db)
        .await?;
    from_db(seq)
}

pub(super) async fn pop(db: &mut SqliteConnection, seq: u64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM outbox WHERE seq = $1").bind(to_db(seq)?).execute(db).await?;
    Ok(())
}
