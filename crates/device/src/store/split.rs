//! One answer, token by token: who made each, and what its round cost.

use super::rounds::tokens;
use super::values::{count, figure, ms, small};
use super::{Store, StoreError};
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::cmp::Ordering;
use tandem_speculation::TokenId;

/// Where a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Drafted on the device and accepted by the edge.
    Accepted,
    /// Drawn on the device from what the edge sent after a rejection.
    Residual,
    /// The edge's own choice after a rejection.
    Token,
    /// The edge's next token after a whole draft was accepted.
    Bonus,
    /// The edge alone.
    Edge,
    /// The drafter alone.
    Device,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitToken {
    /// Its id in the vocabulary.
    pub id: u32,
    /// The text that it completed.
    pub text: String,
    /// Who made it.
    pub origin: Origin,
}

/// A round of an answer, as [`crate::RoundRecord`] has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct SplitRound {
    pub round: u32,
    pub mode: String,
    pub gamma: u32,
    pub drafted: u32,
    pub accepted: u32,
    pub ignored: u32,
    pub alternatives: u32,
    pub followed: u32,
    pub outcome: String,
    pub draft_ms: f64,
    pub rtt_ms: f64,
    pub queue_ms: f64,
    pub verify_ms: f64,
    pub residual_ms: f64,
    pub uplink_bytes: u64,
    pub downlink_bytes: u64,
    pub decision: Option<String>,
    pub tokens: Vec<SplitToken>,
}

/// An answer's rounds, and what is needed to judge whether speculation helped.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// All rounds, in order. Rounds from before tokens were kept have none.
    pub rounds: Vec<SplitRound>,
    /// The box, as [`crate::Pair::edge`] names it.
    pub edge: String,
    /// Its model.
    pub verifier: String,
    /// The device's model.
    pub drafter: String,
    /// Milliseconds a token took in the speculative rounds of this answer, the first round left
    /// out: drafting, round trip and finishing.
    pub split_ms: Option<f64>,
    /// Milliseconds a token takes when the same box streams to the same device, over all streamed
    /// rounds.
    pub stream_ms: Option<f64>,
    /// How many streamed rounds that is the mean of.
    pub stream_rounds: u64,
}

impl Store {
    /// The rounds of an answer with their tokens.
    ///
    /// # Errors
    /// If there is no such message, or the database fails.
    pub async fn split(&self, message: i64) -> Result<Split, StoreError> {
        let pair = sqlx::query(
            "SELECT m.pair, coalesce(p.edge, '') AS edge, coalesce(p.verifier, '') AS verifier,
                 coalesce(p.drafter, '') AS drafter
             FROM messages m LEFT JOIN pairs p ON p.id = m.pair WHERE m.id = ?",
        )
        .bind(message)
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::Missing("message"))?;
        let rows = self.rounds(message).await?;
        let rounds: Vec<SplitRound> = rows.iter().map(round).collect::<Result<_, _>>()?;
        let stream = sqlx::query(
            "SELECT avg(rtt_ms) AS ms, count(*) AS n FROM rounds INDEXED BY rounds_figures
             WHERE pair = ? AND mode = 'edge' AND round > 0",
        )
        .bind(pair.try_get::<Option<i64>, _>("pair")?)
        .fetch_one(&self.pool)
        .await?;
        Ok(Split {
            split_ms: split_ms(&rounds),
            rounds,
            edge: pair.try_get("edge")?,
            verifier: pair.try_get("verifier")?,
            drafter: pair.try_get("drafter")?,
            stream_ms: figure(&stream, "ms")?,
            stream_rounds: count(&stream, "n")?,
        })
    }
}

fn split_ms(rounds: &[SplitRound]) -> Option<f64> {
    let rounds = rounds.iter().filter(|r| r.mode == "dssd" && r.round > 0);
    let (ms, tokens) = rounds.fold((0.0, 0.0), |(ms, tokens), r| {
        let new = r.accepted + r.followed + u32::from(r.outcome != "continue");
        (ms + r.draft_ms + r.rtt_ms + r.residual_ms, tokens + f64::from(new))
    });
    (tokens > 0.0).then(|| ms / tokens)
}

fn round(row: &SqliteRow) -> Result<SplitRound, StoreError> {
    let (mode, outcome): (String, String) = (row.try_get("mode")?, row.try_get("outcome")?);
    let accepted = small(row, "accepted")?;
    let (ids, pieces) = tokens(row)?;
    let token = |((i, id), text): ((u32, TokenId), String)| SplitToken {
        id: id.0,
        text,
        origin: origin(&mode, i.cmp(&accepted), &outcome),
    };
    Ok(SplitRound {
        tokens: (0..).zip(ids).zip(pieces).map(token).collect(),
        round: small(row, "round")?,
        gamma: small(row, "gamma")?,
        drafted: small(row, "drafted")?,
        accepted,
        ignored: small(row, "ignored")?,
        alternatives: small(row, "alternatives")?,
        followed: small(row, "followed")?,
        draft_ms: ms(row, "draft_ms")?,
        rtt_ms: ms(row, "rtt_ms")?,
        queue_ms: ms(row, "queue_ms")?,
        verify_ms: ms(row, "verify_ms")?,
        residual_ms: ms(row, "residual_ms")?,
        uplink_bytes: count(row, "uplink_bytes")?,
        downlink_bytes: count(row, "downlink_bytes")?,
        decision: row.try_get("decision")?,
        mode,
        outcome,
    })
}

/// Of the token that stands where `place` is among the accepted ones and what follows them.
fn origin(mode: &str, place: Ordering, outcome: &str) -> Origin {
    match (mode, outcome) {
        ("device", _) => Origin::Device,
        ("edge", _) => Origin::Edge,
        _ if place.is_lt() => Origin::Accepted,
        // After an alternative that was right.
        _ if place.is_gt() => Origin::Bonus,
        (_, "bonus") => Origin::Bonus,
        (_, "token") => Origin::Token,
        _ => Origin::Residual,
    }
}
