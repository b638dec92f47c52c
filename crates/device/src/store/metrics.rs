//! Figures over many rounds, summed up by SQLite.
//!
//! Three kinds of query, each over an index of its own: sums by what a round was (one pass, at most
//! some thousand groups, which are folded here), points in time (one short pass a bucket), and
//! percentiles (a step into an index that is sorted already).

use super::values::{LATEST, count, figure, ms, small, small_or_none, total, total_ms};
use super::{Store, StoreError};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};
use std::collections::BTreeMap;

/// Which rounds and answers are meant; what is absent does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Of one conversation.
    pub conversation: Option<i64>,
    /// Of one box, as [`crate::Pair::edge`] names it.
    pub edge: Option<String>,
    /// Of one mode. An answer counts when all its rounds had it.
    pub mode: Option<String>,
    /// Of one draft length. An answer counts when all its rounds had it.
    pub gamma: Option<u32>,
    /// Not before, in milliseconds since the epoch.
    pub from: Option<i64>,
    /// Before.
    pub until: Option<i64>,
}

/// All figures of the metrics view.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Answers.
    pub answers: u64,
    /// Rounds.
    pub rounds: u64,
    /// Width of the points in time, in milliseconds.
    pub width_ms: i64,
    /// Speed of answers over time; points without an answer are left out.
    pub speed: Vec<Speed>,
    /// Acceptance over time; points without a test are left out.
    pub acceptance: Vec<Acceptance>,
    /// Acceptance by place in the draft, from 1.
    pub positions: Vec<Position>,
    /// How many rounds gave so many tokens.
    pub tokens: Vec<Tokens>,
    /// Where a round's time goes, by mode.
    pub time: Vec<Time>,
    /// Round trips, by mode; the first round of an answer, which carries the prompt, left out.
    pub trips: Vec<Trips>,
    /// Bytes of speculative rounds, as sent and as other schemes would have sent.
    pub bytes: Bytes,
    /// Modes and draft lengths beside each other.
    pub compared: Vec<Compared>,
}

/// Answers that began at about one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Speed {
    /// Start of the point, in milliseconds since the epoch.
    pub at: i64,
    /// Answers.
    pub answers: u64,
    /// Tokens per second, of all their tokens together; `None` when all ended in one round.
    pub tokens_per_s: Option<f64>,
    /// Mean time to the first token.
    pub ttft_ms: Option<f64>,
}

/// Acceptance at about one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Acceptance {
    /// Start of the point, in milliseconds since the epoch.
    pub at: i64,
    /// Drafted tokens whose acceptance was tested.
    pub tested: u64,
    /// Accepted ones.
    pub accepted: u64,
}

/// Acceptance at one place in the draft.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// Which, from 1.
    pub position: u32,
    /// Rounds in which it was tested.
    pub tested: u64,
    /// Rounds in which it was accepted.
    pub accepted: u64,
}

/// Speculative rounds that gave so many tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    /// Accepted tokens and the one after them.
    pub tokens: u32,
    /// How many rounds.
    pub rounds: u64,
}

/// Mean times of a round, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Time {
    /// Which rounds.
    pub mode: String,
    /// How many.
    pub rounds: u64,
    /// Drafting.
    pub draft_ms: f64,
    /// Both ways on the network: the round trip without the edge's own times.
    pub link_ms: f64,
    /// Waiting on the edge, without the prompt.
    pub queue_ms: f64,
    /// What the first round of an answer waited for its prompt, spread over all rounds.
    pub prompt_ms: f64,
    /// Verifying.
    pub verify_ms: f64,
    /// Finishing the round on the device.
    pub residual_ms: f64,
}

/// Percentiles of round trips, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trips {
    /// Which rounds.
    pub mode: String,
    /// How many.
    pub rounds: u64,
    /// Half of them took no longer.
    pub p50: f64,
    /// 90 % of them.
    pub p90: f64,
    /// 95 % of them.
    pub p95: f64,
    /// 99 % of them.
    pub p99: f64,
}

/// Bytes of payload of speculative rounds.
///
/// The other schemes with an id, a count and a probability in 4 bytes each and a distribution in
/// 4 bytes a token of the vocabulary V, for γ drafted tokens a round:
/// - DSD (the whole q goes up): γ·(4 + 4·V) up, 8 down (accepted, token).
/// - DSSD as published (p comes down at a rejection): γ·8 up; 4 + 4·V down after a rejection,
///   8 otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bytes {
    /// Rounds that are counted: those whose vocabulary is known.
    pub rounds: u64,
    /// Sent.
    pub uplink: u64,
    /// Received.
    pub downlink: u64,
    /// What DSD would have sent.
    pub dsd_uplink: u64,
    /// What DSD would have received.
    pub dsd_downlink: u64,
    /// What DSSD would have sent.
    pub dssd_uplink: u64,
    /// What DSSD would have received.
    pub dssd_downlink: u64,
}

/// One mode with one draft length.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// The mode; of answers also `both` or `mixed`, see [`crate::Writer`].
    pub mode: String,
    /// The draft length; `None` for answers in which it varied.
    pub gamma: Option<u32>,
    /// Answers all of whose rounds were such.
    pub answers: u64,
    /// Tokens per second of these answers, all their tokens together.
    pub tokens_per_s: Option<f64>,
    /// Mean time to the first token of these answers.
    pub ttft_ms: Option<f64>,
    /// Rounds of this kind, also in other answers.
    pub rounds: u64,
    /// Tokens that these rounds gave.
    pub tokens: u64,
    /// Drafted tokens that were tested in them.
    pub tested: u64,
    /// Accepted ones.
    pub accepted: u64,
    /// Payload of these rounds, both ways.
    pub bytes: u64,
}

/// What there is to choose from in a filter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Choices {
    /// Boxes.
    pub edges: Vec<String>,
    /// Time of the first answer.
    pub first: Option<i64>,
    /// Time of the last one.
    pub last: Option<i64>,
}

/// Points in time at most.
const POINTS: i64 = 60;
/// Widths of a point that a reader can name.
const WIDTHS: &[i64] = &[
    1_000,
    5_000,
    15_000,
    60_000,
    300_000,
    900_000,
    3_600_000,
    10_800_000,
    21_600_000,
    43_200_000,
    86_400_000,
    604_800_000,
    2_592_000_000,
];
/// Of `rounds`, aggregated: what is summed for each kind of round.
const SUMS: &str = "count(*) AS n, total(r.outcome = 'continue') AS went_on, \
    total(r.followed) AS followed, \
    total(r.draft_ms) AS draft, total(r.rtt_ms) AS rtt, \
    total(r.queue_ms) AS queue, total(CASE WHEN r.round = 0 THEN r.queue_ms END) AS prompt, \
    total(r.verify_ms) AS verify, total(r.residual_ms) AS residual, \
    total(r.uplink_bytes) AS uplink, total(r.downlink_bytes) AS downlink";

/// Rounds that were alike.
struct Group {
    mode: String,
    gamma: u32,
    drafted: u64,
    accepted: u64,
    tested: u64,
    rounds: u64,
    /// Those that went on: without a token beyond the accepted ones.
    went_on: u64,
    /// Those with a token more, behind an alternative.
    followed: u64,
    draft: f64,
    rtt: f64,
    queue: f64,
    prompt: f64,
    verify: f64,
    residual: f64,
    uplink: u64,
    downlink: u64,
    vocab: u64,
}

impl Store {
    /// What a filter can name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn metrics_choices(&self) -> Result<Choices, StoreError> {
        let edges = sqlx::query("SELECT DISTINCT edge FROM pairs WHERE edge <> '' ORDER BY edge")
            .fetch_all(&self.pool)
            .await?;
        let edges = edges.iter().map(|r| r.try_get("edge")).collect::<Result<_, _>>()?;
        let span = self.span(&Filter::default()).await?;
        Ok(Choices { edges, first: span.map(|s| s.0), last: span.map(|s| s.1) })
    }

    /// All figures of the rounds and answers that are meant.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn metrics(&self, filter: &Filter) -> Result<Metrics, StoreError> {
        let groups = self.groups(filter).await?;
        let mut metrics =
            Metrics { rounds: groups.iter().map(|g| g.rounds).sum(), ..fold(&groups) };
        if let Some((from, until)) = self.span(filter).await? {
            metrics.width_ms = width(from, until);
            metrics.speed = self.speed(filter, metrics.width_ms).await?;
            metrics.acceptance = self.acceptance(filter, from, until, metrics.width_ms).await?;
        }
        for mode in ["dssd", "edge"] {
            metrics.trips.extend(self.trips(filter, mode).await?);
        }
        self.compare(filter, &groups, &mut metrics).await?;
        Ok(metrics)
    }

    /// Sums by kind of round.
    async fn groups(&self, filter: &Filter) -> Result<Vec<Group>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT x.*, p.vocab FROM (SELECT ");
        sql.push("r.pair, r.mode, r.gamma, r.drafted, r.accepted, r.ignored, ").push(SUMS);
        filter.rounds(&mut sql, "rounds_figures");
        sql.push(" GROUP BY r.pair, r.mode, r.gamma, r.drafted, r.accepted, r.ignored) x");
        sql.push(" JOIN pairs p ON p.id = x.pair");
        let rows = sql.build().fetch_all(&self.pool).await?;
        rows.iter().map(group).collect()
    }

    /// Times of the first and the last of answers and rounds.
    async fn span(&self, filter: &Filter) -> Result<Option<(i64, i64)>, StoreError> {
        let filter = &filter.that_a_clock_shows();
        let mut sql =
            QueryBuilder::new("SELECT min(m.created_at) AS first, max(m.created_at) AS last");
        filter.answers(&mut sql);
        let row = sql.build().fetch_one(&self.pool).await?;
        let mut times = vec![row.try_get::<Option<i64>, _>("first")?, row.try_get("last")?];
        for order in [" ORDER BY r.started_at LIMIT 1", " ORDER BY r.started_at DESC LIMIT 1"] {
            let mut sql = QueryBuilder::new("SELECT r.started_at");
            filter.rounds(&mut sql, "rounds_in_time");
            let row = sql.push(order).build().fetch_optional(&self.pool).await?;
            times.push(row.map(|r| r.try_get("started_at")).transpose()?);
        }
        let times = || times.iter().flatten().copied();
        Ok(times().min().zip(times().max()))
    }

    /// Speed of answers over time.
    async fn speed(&self, filter: &Filter, width: i64) -> Result<Vec<Speed>, StoreError> {
        let filter = &filter.that_a_clock_shows();
        let mut sql = QueryBuilder::new("SELECT m.created_at / ");
        sql.push_bind(width).push(" * ").push_bind(width).push(" AS at, ").push(OF_ANSWERS);
        filter.answers(&mut sql);
        sql.push(" GROUP BY 1 ORDER BY 1");
        let rows = sql.build().fetch_all(&self.pool).await?;
        let speed = |row: &SqliteRow| {
            let (answers, tokens_per_s, ttft_ms) = of_answers(row)?;
            Ok(Speed { at: row.try_get("at")?, answers, tokens_per_s, ttft_ms })
        };
        rows.iter().map(speed).collect()
    }

    /// Acceptance over time.
    async fn acceptance(
        &self,
        filter: &Filter,
        from: i64,
        until: i64,
        width: i64,
    ) -> Result<Vec<Acceptance>, StoreError> {
        let mut points = Vec::new();
        let mut connection = self.pool.acquire().await?;
        for at in (from / width * width..=until).step_by(width.max(1) as usize) {
            let (low, high) = (at.max(filter.from.unwrap_or(at)), at + width);
            let within = Filter {
                from: Some(low),
                until: Some(high.min(filter.until.unwrap_or(high))),
                ..filter.clone()
            };
            let mut sql = QueryBuilder::new(
                "SELECT total(r.drafted - r.ignored) AS tested, total(r.accepted) AS accepted",
            );
            within.rounds(&mut sql, "rounds_in_time");
            let row = sql.build().fetch_one(&mut *connection).await?;
            let (tested, accepted) = (total(&row, "tested")?, total(&row, "accepted")?);
            if tested > 0 {
                points.push(Acceptance { at, tested, accepted });
            }
        }
        Ok(points)
    }

    /// Percentiles of round trips (nearest rank).
    async fn trips(&self, filter: &Filter, mode: &str) -> Result<Option<Trips>, StoreError> {
        if filter.mode.as_ref().is_some_and(|wanted| wanted != mode) {
            return Ok(None);
        }
        let filter = Filter { mode: None, ..filter.clone() };
        let mut connection = self.pool.acquire().await?;
        let mut sql = QueryBuilder::new("SELECT count(*) AS n");
        let condition = |sql: &mut QueryBuilder<Sqlite>| {
            filter.rounds(sql, "rounds_trips");
            sql.push(" AND r.round > 0 AND r.mode = ").push_bind(mode.to_owned());
        };
        condition(&mut sql);
        let rounds = count(&sql.build().fetch_one(&mut *connection).await?, "n")?;
        if rounds == 0 {
            return Ok(None);
        }
        let mut values = [0.0; 4];
        for (value, percent) in values.iter_mut().zip([50, 90, 95, 99]) {
            let mut sql = QueryBuilder::new("SELECT r.rtt_ms");
            condition(&mut sql);
            let rank = (rounds * percent).div_ceil(100).max(1);
            sql.push(" ORDER BY r.rtt_ms LIMIT 1 OFFSET ").push_bind(rank as i64 - 1);
            *value = ms(&sql.build().fetch_one(&mut *connection).await?, "rtt_ms")?;
        }
        let [p50, p90, p95, p99] = values;
        Ok(Some(Trips { mode: mode.to_owned(), rounds, p50, p90, p95, p99 }))
    }

    /// Modes and draft lengths: rounds of a kind, and answers that are of one kind throughout.
    async fn compare(
        &self,
        filter: &Filter,
        groups: &[Group],
        metrics: &mut Metrics,
    ) -> Result<(), StoreError> {
        let mut kinds: BTreeMap<(String, Option<u32>), Compared> = BTreeMap::new();
        let empty = |mode: &str, gamma| Compared {
            mode: mode.to_owned(),
            gamma,
            answers: 0,
            tokens_per_s: None,
            ttft_ms: None,
            rounds: 0,
            tokens: 0,
            tested: 0,
            accepted: 0,
            bytes: 0,
        };
        for g in groups {
            let kind = kinds.entry((g.mode.clone(), Some(g.gamma)));
            let kind = kind.or_insert_with(|| empty(&g.mode, Some(g.gamma)));
            kind.rounds += g.rounds;
            kind.tokens += g.rounds * (g.accepted + 1) + g.followed - g.went_on;
            kind.tested += g.rounds * g.tested;
            kind.accepted += g.rounds * g.accepted;
            kind.bytes += g.uplink + g.downlink;
        }
        let mut sql = QueryBuilder::new("SELECT m.writer, m.gamma, ");
        sql.push(OF_ANSWERS);
        filter.answers(&mut sql);
        sql.push(" GROUP BY m.writer, m.gamma");
        for row in sql.build().fetch_all(&self.pool).await? {
            let (mode, gamma): (String, _) =
                (row.try_get("writer")?, small_or_none(&row, "gamma")?);
            let kind = kinds.entry((mode.clone(), gamma)).or_insert_with(|| empty(&mode, gamma));
            let (answers, tokens_per_s, ttft_ms) = of_answers(&row)?;
            metrics.answers += answers;
            kind.answers += answers;
            (kind.tokens_per_s, kind.ttft_ms) = (tokens_per_s, ttft_ms);
        }
        metrics.compared = kinds.into_values().collect();
        Ok(())
    }
}

/// Of `messages`, aggregated. The time after an answer's first round is what its speed was taken
/// over; all tokens by all such times weighs long answers more.
const OF_ANSWERS: &str = "count(*) AS n, avg(m.ttft_ms) AS ttft, \
    total(CASE WHEN m.tokens_per_s > 0 THEN m.tokens END) \
    / total(CASE WHEN m.tokens_per_s > 0 THEN m.tokens / m.tokens_per_s END) AS speed";

type OfAnswers = (u64, Option<f64>, Option<f64>);

fn of_answers(row: &SqliteRow) -> Result<OfAnswers, StoreError> {
    Ok((count(row, "n")?, figure(row, "speed")?, figure(row, "ttft")?))
}

impl Filter {
    /// Without what has an impossible time, which would draw out every line over time.
    fn that_a_clock_shows(&self) -> Self {
        Self {
            from: Some(self.from.unwrap_or(0).max(0)),
            until: Some(self.until.map_or(LATEST + 1, |until| until.min(LATEST + 1))),
            ..self.clone()
        }
    }

    /// `FROM … WHERE …` over rounds as `r`. Of one conversation there are few, found through its
    /// messages; otherwise `index` has all that is read.
    pub(super) fn rounds(&self, sql: &mut QueryBuilder<Sqlite>, index: &str) {
        if let Some(conversation) = self.conversation {
            sql.push(" FROM messages m CROSS JOIN rounds r ON r.message = m.id");
            sql.push(" WHERE m.conversation = ").push_bind(conversation);
        } else {
            sql.push(" FROM rounds r INDEXED BY ").push(index).push(" WHERE TRUE");
        }
        self.common(sql, ["r.started_at", "r.pair", "+r.mode", "+r.gamma"]);
    }

    /// `FROM … WHERE …` over answers as `m`.
    fn answers(&self, sql: &mut QueryBuilder<Sqlite>) {
        sql.push(" FROM messages m");
        if self.conversation.is_none() {
            sql.push(" INDEXED BY answers_in_time");
        }
        sql.push(" WHERE m.writer IS NOT NULL");
        if let Some(conversation) = self.conversation {
            sql.push(" AND m.conversation = ").push_bind(conversation);
        }
        self.common(sql, ["m.created_at", "m.pair", "m.writer", "m.gamma"]);
    }

    // A column with a plus before it is for comparing only: SQLite would otherwise leave a constant
    // out of the grouping, lose the index's order, and sort.
    fn common(&self, sql: &mut QueryBuilder<Sqlite>, [time, pair, mode, gamma]: [&str; 4]) {
        if let Some(from) = self.from {
            sql.push(" AND ").push(time).push(" >= ").push_bind(from);
        }
        if let Some(until) = self.until {
            sql.push(" AND ").push(time).push(" < ").push_bind(until);
        }
        if let Some(edge) = &self.edge {
            sql.push(" AND ").push(pair).push(" IN (SELECT id FROM pairs WHERE edge = ");
            sql.push_bind(edge.clone()).push(")");
        }
        if let Some(wanted) = &self.mode {
            sql.push(" AND ").push(mode).push(" = ").push_bind(wanted.clone());
        }
        if let Some(wanted) = self.gamma {
            sql.push(" AND ").push(gamma).push(" = ").push_bind(wanted);
        }
    }
}

/// The narrowest width that needs at most [`POINTS`] points.
fn width(from: i64, until: i64) -> i64 {
    let least = until.saturating_sub(from) / (POINTS - 1) + 1;
    WIDTHS.iter().copied().find(|w| *w >= least).unwrap_or(least)
}

fn group(row: &SqliteRow) -> Result<Group, StoreError> {
    let drafted = u64::from(small(row, "drafted")?);
    let rounds = count(row, "n")?;
    let went_on = total(row, "went_on")?.min(rounds);
    Ok(Group {
        mode: row.try_get("mode")?,
        gamma: small(row, "gamma")?,
        drafted,
        accepted: u64::from(small(row, "accepted")?).min(drafted),
        tested: drafted.saturating_sub(small(row, "ignored")?.into()),
        rounds,
        went_on,
        followed: total(row, "followed")?.min(rounds - went_on),
        draft: total_ms(row, "draft")?,
        rtt: total_ms(row, "rtt")?,
        queue: total_ms(row, "queue")?,
        prompt: total_ms(row, "prompt")?,
        verify: total_ms(row, "verify")?,
        residual: total_ms(row, "residual")?,
        uplink: total(row, "uplink")?,
        downlink: total(row, "downlink")?,
        vocab: small(row, "vocab")?.into(),
    })
}

/// Draft positions that are shown at most; a draft is never longer than this.
const LONGEST: usize = tandem_protocol::MAX_DRAFT;

/// Everything that follows from the groups alone.
fn fold(groups: &[Group]) -> Metrics {
    let mut metrics = Metrics::default();
    let (mut positions, mut tokens) = (vec![(0, 0); LONGEST], vec![0; LONGEST + 3]);
    let mut times: BTreeMap<&str, Time> = BTreeMap::new();
    for g in groups {
        let place = |n: u64| usize::try_from(n).unwrap_or(LONGEST).min(LONGEST);
        positions[..place(g.tested)].iter_mut().for_each(|p| p.0 += g.rounds);
        positions[..place(g.accepted)].iter_mut().for_each(|p| p.1 += g.rounds);
        if g.mode == "dssd" {
            tokens[place(g.accepted) + 1] += g.rounds - g.went_on - g.followed;
            tokens[place(g.accepted) + 2] += g.followed;
            tokens[place(g.accepted)] += g.went_on;
            metrics.bytes.add(g);
        }
        let time = times.entry(&g.mode).or_insert_with(|| Time {
            mode: g.mode.clone(),
            rounds: 0,
            draft_ms: 0.0,
            link_ms: 0.0,
            queue_ms: 0.0,
            prompt_ms: 0.0,
            verify_ms: 0.0,
            residual_ms: 0.0,
        });
        time.rounds += g.rounds;
        time.draft_ms += g.draft;
        time.link_ms += g.rtt - g.queue - g.verify;
        time.queue_ms += g.queue - g.prompt;
        time.prompt_ms += g.prompt;
        time.verify_ms += g.verify;
        time.residual_ms += g.residual;
    }
    let positions = positions.into_iter().zip(1..).take_while(|((tested, _), _)| *tested > 0);
    metrics.positions = positions
        .map(|((tested, accepted), position)| Position { position, tested, accepted })
        .collect();
    let most = tokens.iter().rposition(|n| *n > 0).unwrap_or(0);
    let tokens = tokens.into_iter().zip(0..).take(most + 1).skip(1);
    metrics.tokens = tokens.map(|(rounds, tokens)| Tokens { tokens, rounds }).collect();
    metrics.time = times
        .into_values()
        .map(|t| {
            let mean = |sum: f64| sum.max(0.0) / t.rounds.max(1) as f64;
            Time {
                draft_ms: mean(t.draft_ms),
                link_ms: mean(t.link_ms),
                queue_ms: mean(t.queue_ms),
                prompt_ms: mean(t.prompt_ms),
                verify_ms: mean(t.verify_ms),
                residual_ms: mean(t.residual_ms),
                ..t
            }
        })
        .collect();
    metrics
}

impl Bytes {
    fn add(&mut self, g: &Group) {
        if g.vocab == 0 {
            return;
        }
        let distribution = 4 * g.vocab;
        let drafted = g.rounds.saturating_mul(g.drafted);
        // The last tested token of a round is the only one that can have been rejected.
        let rejected = if g.tested > g.accepted { g.rounds } else { 0 };
        self.rounds += g.rounds;
        self.uplink += g.uplink;
        self.downlink += g.downlink;
        self.dsd_uplink += drafted.saturating_mul(4 + distribution);
        self.dsd_downlink += g.rounds * 8;
        self.dssd_uplink += drafted.saturating_mul(8);
        self.dssd_downlink += rejected * (4 + distribution) + (g.rounds - rejected) * 8;
    }
}
