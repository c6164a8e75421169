//! Table `records`: small keyed values.

use sqlx::SqliteConnection;

use super::{Store, StoreError};

impl Store {
    /// The value of a record.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn get_record(&self, kind: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value = sqlx::query_scalar("SELECT value FROM records WHERE kind = $1 AND key = $2")
            .bind(kind)
            .bind(key)
            .fetch_optional(self.pool())
            .await?;
        Ok(value)
    }

    /// Keys and values of all records of a kind whose key starts with `prefix`, sorted by key.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn list_records(
        &self,
        kind: &str,
        prefix: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT key, value FROM records
             WHERE kind = $1 AND substr(key, 1, length($2)) = $2 ORDER BY key",
        )
        .bind(kind)
        .bind(prefix)
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Keys of all records of a kind whose key starts with `prefix`, sorted.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn list_keys(&self, kind: &str, prefix: &str) -> Result<Vec<String>, StoreError> {
        let keys = sqlx::query_scalar(
            "SELECT key FROM records
             WHERE kind = $1 AND substr(key, 1, length($2)) = $2 ORDER BY key",
        )
        .bind(kind)
        .bind(prefix)
        .fetch_all(self.pool())
        .await?;
        Ok(keys)
    }
}

pub(super) async fn put(
    db: &mut SqliteConnection,
    kind: String,
    key: String,
    value: Vec<u8>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO records (kind, key, value) VALUES ($1, $2, $3)
         ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
    )
    .bind(kind)
    .bind(key)
    .bind(value)
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn insert(
    db: &mut SqliteConnection,
    kind: String,
    key: String,
    value: Vec<u8>,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "INSERT INTO records (kind, key, value) VALUES ($1, $2, $3)
         ON CONFLICT (kind, key) DO NOTHING",
    )
    .bind(&kind)
    .bind(&key)
    .bind(value)
    .execute(db)
    .await?;
    if done.rows_affected() == 0 { Err(StoreError::Exists { kind, key }) } else { Ok(()) }
}

pub(super) async fn delete(
    db: &mut SqliteConnection,
    kind: String,
    key: String,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM records WHERE kind = $1 AND key = $2")
        .bind(kind)
        .bind(key)
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn delete_all(
    db: &mut SqliteConnection,
    kind: String,
    prefix: String,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM records WHERE kind = $1 AND substr(key, 1, length($2)) = $2")
        .bind(kind)
        .bind(prefix)
        .execute(db)
        .await?;
    Ok(())
}
