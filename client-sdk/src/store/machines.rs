//! Table `machines`: serialised protocol state, with a version that detects lost updates.

use sqlx::SqliteConnection;

use super::{Store, StoreError, from_db, to_db};

impl Store {
    /// Version and state of a machine.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn load_machine(
        &self,
        kind: &str,
        id: &str,
    ) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let row: Option<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT version, state FROM machines WHERE kind = $1 AND id = $2")
                .bind(kind)
                .bind(id)
                .fetch_optional(self.pool())
                .await?;
        row.map(|(version, state)| Ok((from_db(version)?, state))).transpose()
    }

    /// Names of all machines of a kind, sorted.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn list_machines(&self, kind: &str) -> Result<Vec<String>, StoreError> {
        let ids = sqlx::query_scalar("SELECT id FROM machines WHERE kind = $1 ORDER BY id")
            .bind(kind)
            .fetch_all(self.pool())
            .await?;
        Ok(ids)
    }
}

pub(super) async fn put(
    db: &mut SqliteConnection,
    kind: String,
    id: String,
    expected: u64,
    state: Vec<u8>,
) -> Result<(), StoreError> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT version FROM machines WHERE kind = $1 AND id = $2")
            .bind(&kind)
            .bind(&id)
            .fetch_optional(&mut *db)
            .await?;
    let found = from_db(found.unwrap_or(0))?;
    if found != expected {
        return Err(StoreError::Conflict { kind, id, expected, found });
    }
    let version = expected.checked_add(1).ok_or(StoreError::BadNumber)?;
    sqlx::query(
        "INSERT INTO machines (kind, id, version, state) VALUES ($1, $2, $3, $4)
         ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, state = excluded.state",
    )
    .bind(kind)
    .bind(id)
    .bind(to_db(version)?)
    .bind(state)
    .execute(db)
    .await?;
    Ok(())
}
