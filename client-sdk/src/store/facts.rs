//! Table `facts`: the append-only log of what happened, for operators and auditors.

use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use super::{Store, StoreError, from_db, to_db};

/// One thing that happened. It never holds secrets or payloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// When, by this service's clock, in ms since 1970.
    pub at_ms: u64,
    /// The job it belongs to; empty if to none.
    pub job: String,
    /// Who did it.
    pub actor: String,
    /// What was done: a stable word.
    pub predicate: String,
    /// Details.
    pub body: serde_json::Value,
}

/// A fact and its place in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedFact {
    /// Its number: 1, 2, 3, ... without gaps.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

type Row = (i64, i64, String, String, String, String);

impl Store {
    /// At most `limit` facts with numbers above `seq`, oldest first.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn facts_since(&self, seq: u64, limit: u32) -> Result<Vec<LoggedFact>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT seq, at_ms, job, actor, predicate, body FROM facts
             WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(to_db(seq)?)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.into_iter().map(logged).collect()
    }

    /// As [`Store::facts_since`], for one job.
    ///
    /// # Errors
    ///
    /// Failures of the database.
    pub async fn job_facts_since(
        &self,
        job: &str,
        seq: u64,
        limit: u32,
    ) -> Result<Vec<LoggedFact>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT seq, at_ms, job, actor, predicate, body FROM facts
             WHERE job = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(job)
        .bind(to_db(seq)?)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.into_iter().map(logged).collect()
    }
}

fn logged((seq, at_ms, job, actor, predicate, body): Row) -> Result<LoggedFact, StoreError> {
    let body =
        serde_json::from_str(&body).map_err(|e| StoreError::Database(sqlx::Error::decode(e)))?;
    let fact = Fact { at_ms: from_db(at_ms)?, job, actor, predicate, body };
    Ok(LoggedFact { seq: from_db(seq)?, fact })
}

pub(super) async fn append(db: &mut SqliteConnection, fact: Fact) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO facts (seq, at_ms, job, actor, predicate, body)
         SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4, $5 FROM facts",
    )
    .bind(to_db(fact.at_ms)?)
    .bind(fact.job)
    .bind(fact.actor)
    .bind(fact.predicate)
    .bind(fact.body.to_string())
    .execute(db)
    .await?;
    Ok(())
}
