//! The metrics view's figures: against plain loops over the same file, and with a million rounds.

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_device::store::{Filter, Format, Metrics, Origin, Store};
use tandem_device::{Benchmark, BenchmarkRun, Pair, RoundRecord, Totals};
use tandem_speculation::TokenId;

/// A database of its own, gone with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let name = format!("tandem-metrics-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder.join("tandem.db"))
    }

    async fn sql(&self) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(&self.0);
        SqlitePool::connect_with(options).await.expect("the file")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().expect("a folder"));
    }
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) % u64::from(n)) as u32
    }

    fn ms(&mut self, most: u32) -> f64 {
        f64::from(self.below(most * 1000)) / 1000.0
    }
}

fn pair(edge: &str) -> Arc<Pair> {
    let verifier = if edge.is_empty() { "" } else { "large" };
    let (edge, verifier) = (edge.to_owned(), verifier.to_owned());
    Arc::new(Pair { edge, verifier, drafter: "small".into(), vocab: 1000 })
}

fn record(n: &mut Numbers, mode: &'static str, gamma: u32, round: u32, edge: &str) -> RoundRecord {
    let drafted = if mode == "dssd" && gamma > 0 { gamma - n.below(2).min(gamma - 1) } else { 0 };
    let accepted = n.below(drafted + 1);
    let ignored = drafted.saturating_sub(accepted + 1);
    let outcome = match mode {
        "dssd" if accepted < drafted => ["token", "sparse", "sampled", "full"][n.below(4) as usize],
        "device" => "token",
        "dssd" if drafted > 0 && n.below(3) == 0 => "continue",
        _ => "bonus",
    };
    let alternatives = n.below(drafted + 1);
    let followed = u32::from(accepted < drafted && alternatives > 0 && n.below(2) == 0);
    let known = accepted + followed + u32::from(outcome != "continue");
    let (queue_ms, verify_ms) = (n.ms(5), n.ms(50));
    let rtt_ms = if mode == "device" { 0.0 } else { queue_ms + verify_ms + n.ms(9) };
    RoundRecord {
        message: 0,
        round,
        mode,
        scheme: mode,
        gamma,
        drafted,
        accepted,
        ignored,
        alternatives,
        followed,
        outcome,
        draft_ms: if mode == "edge" { 0.0 } else { n.ms(40) },
        rtt_ms,
        queue_ms,
        verify_ms,
        residual_ms: n.ms(1),
        uplink_bytes: u64::from(16 + 8 * drafted),
        downlink_bytes: 24,
        started_at: 0,
        decision: None,
        pair: pair(if mode == "device" { "" } else { edge }),
        tokens: (0..known).map(TokenId).collect(),
        pieces: (0..known).map(|i| format!("{i} ")).collect(),
    }
}

/// Answers of all kinds over two boxes, two conversations and three days; returns the ids of the
/// conversations.
async fn fill(store: &Store) -> [i64; 2] {
    let mut n = Numbers(7);
    let mut ids = [0; 2];
    for (i, id) in ids.iter_mut().enumerate() {
        *id = store.create_conversation("a conversation").await.expect("a row").id;
        let kinds =
            [("dssd", 4), ("dssd", 8), ("edge", 0), ("device", 0), ("dssd", 0), ("mixed", 4)];
        for (k, (mode, gamma)) in kinds.into_iter().cycle().take(18).enumerate() {
            let (_, message) = store.ask(*id, "?").await.expect("a message");
            let (mut totals, started) = (Totals::default(), Instant::now());
            for round in 0..3 + n.below(9) {
                let mode = match (mode, round % 2) {
                    ("mixed", 0) => "device",
                    ("mixed", _) => "dssd",
                    _ => mode,
                };
                // 0 stands for a draft length that is chosen each time.
                let gamma = if mode == "dssd" && gamma == 0 { 1 + n.below(6) } else { gamma };
                let mut r = record(&mut n, mode, gamma, round, ["local", "ws://box:1"][i]);
                let at = 1_700_000_000_000 + i64::from(k as u32) * 14_000_000;
                r.started_at = at + i64::from(round) * 90;
                totals.add(&r, r.tokens.len(), started);
                totals.ttft_ms = Some(n.ms(900));
                totals.tokens_per_s = Some(1.0 + n.ms(30));
                store.add_round(message.id, &r, &r.pieces.concat(), &totals).await.expect("kept");
            }
        }
    }
    ids
}

/// A round as the file has it.
struct Plain {
    conversation: i64,
    edge: String,
    vocab: f64,
    mode: String,
    gamma: u32,
    round: u32,
    drafted: u64,
    accepted: u64,
    ignored: u64,
    tokens: u64,
    at: i64,
    times: [f64; 5],
    uplink: u64,
    downlink: u64,
}

fn plain(row: &SqliteRow) -> Plain {
    let count = |name| row.get::<i64, _>(name) as u64;
    Plain {
        conversation: row.get("conversation"),
        edge: row.get("edge"),
        vocab: row.get::<i64, _>("vocab") as f64,
        mode: row.get("mode"),
        gamma: row.get("gamma"),
        round: row.get("round"),
        drafted: count("drafted"),
        accepted: count("accepted"),
        ignored: count("ignored"),
        tokens: count("accepted")
            + count("followed")
            + u64::from(row.get::<String, _>("outcome") != "continue"),
        at: row.get("started_at"),
        times: ["draft_ms", "rtt_ms", "queue_ms", "verify_ms", "residual_ms"].map(|c| row.get(c)),
        uplink: count("uplink_bytes"),
        downlink: count("downlink_bytes"),
    }
}

fn near(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0), "{what}: {a} and {b}");
}

/// Compares everything that comes from rounds with loops over them.
fn agree(m: &Metrics, rounds: &[&Plain]) {
    assert_eq!(m.rounds, rounds.len() as u64, "rounds");
    let dssd: Vec<&&Plain> = rounds.iter().filter(|r| r.mode == "dssd").collect();
    for (i, p) in m.positions.iter().enumerate() {
        let at = i as u64 + 1;
        let tested = rounds.iter().filter(|r| r.drafted - r.ignored >= at).count() as u64;
        let accepted = rounds.iter().filter(|r| r.accepted >= at).count() as u64;
        assert_eq!((p.position as u64, p.tested, p.accepted), (at, tested, accepted));
    }
    let longest = rounds.iter().map(|r| r.drafted - r.ignored).max().unwrap_or(0);
    assert_eq!(m.positions.len() as u64, longest, "positions");
    let counted: u64 = m.tokens.iter().map(|t| t.rounds).sum();
    assert_eq!(counted, dssd.len() as u64, "tokens a round");
    for t in &m.tokens {
        let same = dssd.iter().filter(|r| r.tokens == u64::from(t.tokens)).count();
        assert_eq!(t.rounds, same as u64, "{} tokens", t.tokens);
    }
    for t in &m.time {
        let of: Vec<_> = rounds.iter().filter(|r| r.mode == t.mode).collect();
        let mean = |f: &dyn Fn(&Plain) -> f64| {
            of.iter().map(|r| f(r)).sum::<f64>().max(0.0) / of.len() as f64
        };
        let prompt = |r: &Plain| if r.round == 0 { r.times[2] } else { 0.0 };
        assert_eq!(t.rounds, of.len() as u64);
        near(t.draft_ms, mean(&|r| r.times[0]), "draft");
        near(t.link_ms, mean(&|r| r.times[1] - r.times[2] - r.times[3]), "link");
        near(t.queue_ms, mean(&|r| r.times[2] - prompt(r)), "queue");
        near(t.prompt_ms, mean(&prompt), "prompt");
        near(t.verify_ms, mean(&|r| r.times[3]), "verify");
        near(t.residual_ms, mean(&|r| r.times[4]), "residual");
    }
    for t in &m.trips {
        let mut all: Vec<f64> =
            rounds.iter().filter(|r| r.mode == t.mode && r.round > 0).map(|r| r.times[1]).collect();
        all.sort_by(f64::total_cmp);
        let rank = |p: f64| all[((all.len() as f64 * p).ceil() as usize).max(1) - 1];
        assert_eq!(t.rounds, all.len() as u64, "{}", t.mode);
        assert_eq!([t.p50, t.p90, t.p95, t.p99], [0.5, 0.9, 0.95, 0.99].map(rank), "{}", t.mode);
    }
    let sum = |f: &dyn Fn(&Plain) -> f64| dssd.iter().map(|r| f(r)).sum::<f64>() as u64;
    let b = m.bytes;
    assert_eq!(b.rounds, dssd.len() as u64);
    assert_eq!((b.uplink, b.downlink), (sum(&|r| r.uplink as f64), sum(&|r| r.downlink as f64)));
    assert_eq!(b.dsd_uplink, sum(&|r| r.drafted as f64 * (4.0 + 4.0 * r.vocab)));
    assert_eq!(b.dsd_downlink, 8 * b.rounds);
    assert_eq!(b.dssd_uplink, sum(&|r| r.drafted as f64 * 8.0));
    let down = sum(&|r| if r.accepted < r.drafted { 4.0 + 4.0 * r.vocab } else { 8.0 });
    assert_eq!(b.dssd_downlink, down);
    for c in m.compared.iter().filter(|c| c.gamma.is_some() && c.mode != "mixed") {
        let of: Vec<_> =
            rounds.iter().filter(|r| r.mode == c.mode && Some(r.gamma) == c.gamma).collect();
        let sum = |f: &dyn Fn(&Plain) -> u64| of.iter().map(|r| f(r)).sum::<u64>();
        let name = format!("{} {:?}", c.mode, c.gamma);
        assert_eq!((c.rounds, c.tokens), (of.len() as u64, sum(&|r| r.tokens)), "{name}");
        assert_eq!(c.tested, sum(&|r| r.drafted - r.ignored), "{name}");
        assert_eq!(c.accepted, sum(&|r| r.accepted), "{name}");
        assert_eq!(c.bytes, sum(&|r| r.uplink + r.downlink), "{name}");
    }
    let accepted = |at: i64| {
        let of = rounds.iter().filter(|r| r.at / m.width_ms * m.width_ms == at);
        of.fold((0, 0), |(t, a), r| (t + r.drafted - r.ignored, a + r.accepted))
    };
    for p in &m.acceptance {
        assert_eq!((p.tested, p.accepted), accepted(p.at), "at {}", p.at);
    }
    let tested: u64 = rounds.iter().map(|r| r.drafted - r.ignored).sum();
    assert_eq!(m.acceptance.iter().map(|p| p.tested).sum::<u64>(), tested, "all tests in time");
    assert!(m.speed.len() <= 61 && m.acceptance.len() <= 61, "bounded");
}

#[tokio::test]
async fn every_figure_agrees_with_plain_loops() {
    let file = File::new("small");
    let store = Store::open(&file.0).await.expect("a database");
    let [one, _] = fill(&store).await;
    let sql = file.sql().await;
    // `ask` takes the time of day: the answers are moved to where their rounds are.
    sqlx::query(
        "UPDATE messages SET created_at = (SELECT min(started_at) FROM rounds WHERE message = id)
         WHERE writer IS NOT NULL",
    )
    .execute(&sql)
    .await
    .expect("moved");
    let rows = sqlx::query(
        "SELECT r.*, m.conversation, p.edge, p.vocab FROM rounds r JOIN messages m ON m.id = r.message
         JOIN pairs p ON p.id = r.pair",
    )
    .fetch_all(&sql)
    .await
    .expect("rounds");
    let all: Vec<Plain> = rows.iter().map(plain).collect();
    let (from, until) =
        (Some(1_700_000_000_000 + 50_000_000), Some(1_700_000_000_000 + 140_000_045));
    let none = Filter::default;
    let text = |t: &str| Some(t.to_owned());
    let filters = [
        none(),
        Filter { conversation: Some(one), ..none() },
        Filter { edge: text("local"), ..none() },
        Filter { edge: text("ws://box:1"), mode: text("dssd"), ..none() },
        Filter { mode: text("edge"), ..none() },
        Filter { gamma: Some(4), ..none() },
        Filter { from, until, ..none() },
        Filter { conversation: Some(one), from, mode: text("dssd"), gamma: Some(8), ..none() },
    ];
    for filter in filters {
        let meant = |r: &&Plain| {
            filter.conversation.is_none_or(|c| c == r.conversation)
                && filter.edge.as_ref().is_none_or(|e| *e == r.edge)
                && filter.mode.as_ref().is_none_or(|m| *m == r.mode)
                && filter.gamma.is_none_or(|g| g == r.gamma)
                && filter.from.is_none_or(|t| r.at >= t)
                && filter.until.is_none_or(|t| r.at < t)
        };
        let rounds: Vec<&Plain> = all.iter().filter(meant).collect();
        assert!(rounds.len() > 5, "{filter:?} is no test");
        let metrics = store.metrics(&filter).await.expect("figures");
        agree(&metrics, &rounds);
        answers_agree(&sql, &metrics, &filter).await;
    }
    let choices = store.metrics_choices().await.expect("choices");
    assert_eq!(choices.edges, ["local", "ws://box:1"]);
}

/// Compares what comes from answers with loops over them.
async fn answers_agree(sql: &SqlitePool, m: &Metrics, filter: &Filter) {
    let rows = sqlx::query(
        "SELECT m.*, p.edge, (SELECT group_concat(DISTINCT mode) FROM rounds WHERE message = m.id) AS modes,
           (SELECT group_concat(DISTINCT gamma) FROM rounds WHERE message = m.id) AS gammas
         FROM messages m JOIN pairs p ON p.id = m.pair WHERE m.tokens > 0",
    )
    .fetch_all(sql)
    .await
    .expect("answers");
    let modes = |r: &SqliteRow| r.get::<String, _>("modes");
    let gammas = |r: &SqliteRow| r.get::<String, _>("gammas");
    let rows: Vec<&SqliteRow> = rows
        .iter()
        .filter(|r| {
            let at: i64 = r.get("created_at");
            filter.conversation.is_none_or(|c| c == r.get::<i64, _>("conversation"))
                && filter.edge.as_ref().is_none_or(|e| *e == r.get::<String, _>("edge"))
                && filter.mode.as_ref().is_none_or(|m| *m == modes(r))
                && filter.gamma.is_none_or(|g| g.to_string() == gammas(r))
                && filter.from.is_none_or(|t| at >= t)
                && filter.until.is_none_or(|t| at < t)
        })
        .collect();
    assert_eq!(m.answers, rows.len() as u64, "answers");
    let figures = |rows: &[&SqliteRow]| {
        let (mut tokens, mut seconds, mut ttft) = (0.0, 0.0, 0.0);
        for r in rows {
            tokens += r.get::<i64, _>("tokens") as f64;
            seconds += r.get::<i64, _>("tokens") as f64 / r.get::<f64, _>("tokens_per_s");
            ttft += r.get::<f64, _>("ttft_ms");
        }
        (tokens / seconds, ttft / rows.len() as f64)
    };
    for s in &m.speed {
        let of: Vec<&SqliteRow> = rows
            .iter()
            .copied()
            .filter(|r| r.get::<i64, _>("created_at") / m.width_ms * m.width_ms == s.at)
            .collect();
        let (speed, ttft) = figures(&of);
        assert_eq!(s.answers, of.len() as u64);
        near(s.tokens_per_s.expect("a speed"), speed, "speed");
        near(s.ttft_ms.expect("a time"), ttft, "ttft");
    }
    for c in &m.compared {
        let of: Vec<&SqliteRow> = rows
            .iter()
            .copied()
            .filter(|r| {
                let mode = if modes(r).contains(',') { "mixed".into() } else { modes(r) };
                mode == c.mode && gammas(r).parse().ok() == c.gamma
            })
            .collect();
        assert_eq!(c.answers, of.len() as u64, "{} {:?}", c.mode, c.gamma);
        if !of.is_empty() {
            near(c.tokens_per_s.expect("a speed"), figures(&of).0, "speed");
            near(c.ttft_ms.expect("a time"), figures(&of).1, "ttft");
        }
    }
}

#[tokio::test]
async fn an_empty_file_has_no_figures_and_no_error() {
    let file = File::new("empty");
    let store = Store::open(&file.0).await.expect("a database");
    let metrics = store.metrics(&Filter::default()).await.expect("figures");
    assert_eq!((metrics.rounds, metrics.answers, metrics.speed.len()), (0, 0, 0));
    let nowhere = Filter { conversation: Some(99), edge: Some("x".into()), ..Filter::default() };
    assert_eq!(store.metrics(&nowhere).await.expect("figures").rounds, 0);
    assert_eq!(store.metrics_choices().await.expect("choices").first, None);
}

#[tokio::test]
async fn each_token_knows_its_origin_and_a_deleted_conversation_leaves_nothing() {
    let file = File::new("split");
    let store = Store::open(&file.0).await.expect("a database");
    let [one, two] = fill(&store).await;
    let mut seen = Vec::new();
    for message in store.messages(one).await.expect("messages") {
        if message.role == "user" {
            continue;
        }
        let split = store.split(message.id).await.expect("rounds");
        let text: String = split.rounds.iter().flat_map(|r| &r.tokens).map(|t| &*t.text).collect();
        assert_eq!(text, message.content);
        for r in &split.rounds {
            let went_on = r.outcome == "continue";
            assert_eq!(r.tokens.len() as u32, r.accepted + r.followed + u32::from(!went_on));
            if went_on {
                assert!(r.tokens.iter().all(|t| t.origin == Origin::Accepted));
                continue;
            }
            let (first, rest) = r.tokens.split_at(r.accepted as usize);
            assert!(first.iter().all(|t| t.origin == Origin::Accepted));
            let (last, further) = rest.split_first().expect("a token");
            // What follows an alternative came from the edge.
            assert!(further.iter().all(|t| t.origin == Origin::Bonus));
            let wanted = match (&*r.mode, &*r.outcome) {
                ("edge", _) => Origin::Edge,
                ("device", _) => Origin::Device,
                (_, "bonus") => Origin::Bonus,
                (_, "token") => Origin::Token,
                _ => Origin::Residual,
            };
            assert_eq!(last.origin, wanted, "{} {}", r.mode, r.outcome);
            seen.push(last.origin);
        }
    }
    for origin in [Origin::Edge, Origin::Device, Origin::Bonus, Origin::Token, Origin::Residual] {
        assert!(seen.contains(&origin), "{origin:?}");
    }
    let sql = file.sql().await;
    sqlx::query("PRAGMA foreign_keys = ON").execute(&sql).await.expect("keys");
    sqlx::query("DELETE FROM conversations WHERE id IN (?, ?)")
        .bind(one)
        .bind(two)
        .execute(&sql)
        .await
        .expect("gone");
    for table in ["rounds", "round_tokens", "messages"] {
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT count(*) AS n FROM {table}")));
        let n: i64 = rows.fetch_one(&sql).await.expect("a number").get("n");
        assert_eq!(n, 0, "{table}");
    }
}

#[tokio::test]
async fn exports_have_every_round_that_is_meant_and_no_text() {
    let file = File::new("export");
    let store = Store::open(&file.0).await.expect("a database");
    let [one, _] = fill(&store).await;
    for filter in [
        Filter::default(),
        Filter { conversation: Some(one), mode: Some("dssd".into()), ..Filter::default() },
    ] {
        let metrics = store.metrics(&filter).await.expect("figures");
        let (mut csv, mut json) = (Vec::new(), Vec::new());
        let n = store.export_rounds(&filter, Format::Csv, &mut csv).await.expect("written");
        assert_eq!(n, metrics.rounds);
        let csv = String::from_utf8(csv).expect("text");
        let mut lines = csv.lines();
        let head: Vec<&str> = lines.next().expect("a head").split(',').collect();
        let column = head.iter().position(|c| *c == "accepted").expect("a column");
        // No text has a comma here.
        let accepted = lines.map(|l| l.split(',').nth(column).expect("a cell"));
        let accepted: u64 = accepted.map(|c| c.parse::<u64>().expect("a number")).sum();
        assert_eq!(accepted, metrics.compared.iter().map(|c| c.accepted).sum::<u64>());
        store.export_rounds(&filter, Format::Json, &mut json).await.expect("written");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json["rounds"].as_array().expect("rounds").len() as u64, n);
        assert_eq!(json["metrics"]["rounds"], n);
        assert!(!csv.contains("a conversation") && !csv.contains('?'), "text went out");
    }
}

#[tokio::test]
async fn a_benchmark_is_kept_as_it_was() {
    let file = File::new("benchmark");
    let store = Store::open(&file.0).await.expect("a database");
    let run = |mode: &str, gamma, same| BenchmarkRun {
        mode: mode.into(),
        gamma,
        prompt: "code".into(),
        tokens: 33,
        later_tokens: 30,
        later_ms: 1234.5,
        ttft_ms: Some(321.0),
        rounds: 11,
        tested: 40,
        accepted: 22,
        bytes: 999,
        same,
    };
    let runs = vec![run("edge", None, None), run("dssd", Some(4), Some(true))];
    let mut kept = Benchmark {
        id: 0,
        started_at: 5,
        pair: (*pair("local")).clone(),
        version: "1".into(),
        max_tokens: 64,
        runs,
    };
    kept.id = store.add_benchmark(&kept).await.expect("kept");
    let later = Benchmark { started_at: 6, ..kept.clone() };
    let second = store.add_benchmark(&later).await.expect("kept");
    let all = store.benchmarks().await.expect("a list");
    assert_eq!(all, [Benchmark { id: second, ..later }, kept.clone()]);
    store.delete_benchmark(second).await.expect("deleted");
    assert_eq!(store.benchmarks().await.expect("a list"), [kept]);
    assert!(store.delete_benchmark(second).await.is_err());
}

/// Of one query, on a machine that does other things too.
const BUDGET: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_million_rounds_are_summed_in_time() {
    let file = File::new("million");
    let store = Store::open(&file.0).await.expect("a database");
    let conversation = store.create_conversation("long").await.expect("a row").id;
    million(&file, conversation).await;
    let day = 86_400_000;
    let none = Filter::default;
    for (name, filter) in [
        ("all", none()),
        ("a day", Filter { from: Some(3 * day), until: Some(4 * day), ..none() }),
        ("a box", Filter { edge: Some("ws://box:1".into()), ..none() }),
        ("a mode", Filter { mode: Some("dssd".into()), ..none() }),
        ("a draft length", Filter { gamma: Some(4), ..none() }),
    ] {
        let start = Instant::now();
        let metrics = store.metrics(&filter).await.expect("figures");
        let took = start.elapsed();
        eprintln!("{name}: {} rounds in {} ms", metrics.rounds, took.as_millis());
        assert!(metrics.rounds > 50_000 && metrics.speed.len() <= 61, "{name}: {}", metrics.rounds);
        if cfg!(not(debug_assertions)) {
            assert!(took < BUDGET, "{name} took {took:?}");
        }
    }
    let start = Instant::now();
    let split = store.split(20_000).await.expect("rounds");
    assert_eq!(split.rounds.len(), 40);
    assert!(start.elapsed() < BUDGET, "one answer took {:?}", start.elapsed());
}

/// 25,000 answers of 40 rounds over 17 days, written without the indices, which are then made anew.
async fn million(file: &File, conversation: i64) {
    let sql = file.sql().await;
    let rows = sqlx::query(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL
         AND tbl_name IN ('rounds', 'messages')",
    );
    let indices: Vec<(String, String)> = rows
        .fetch_all(&sql)
        .await
        .expect("indices")
        .iter()
        .map(|r| (r.get("name"), r.get("sql")))
        .collect();
    assert!(indices.len() >= 4);
    let mut all = vec!["BEGIN".to_owned()];
    all.extend(indices.iter().map(|(name, _)| format!("DROP INDEX {name}")));
    all.push("INSERT INTO pairs VALUES (2, 'local', 'v', 'd', 151936), (3, 'ws://box:1', 'v', 'd', 151936)".into());
    all.push(format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000)
         INSERT INTO messages (id, conversation, role, content, status, created_at, tokens, ttft_ms,
             tokens_per_s, writer, gamma, pair)
         SELECT i, {conversation}, 'assistant', 'text', 'done', i * 60000, 120, 200 + i % 77,
             5 + i % 13, CASE WHEN i % 10 < 8 THEN 'dssd' ELSE 'edge' END,
             CASE WHEN i % 10 < 8 THEN 1 + i % 8 ELSE 0 END, 2 + i % 2 FROM n"
    ));
    all.push(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999),
         x AS (SELECT i, 1 + i / 40 AS m, (i * 7919) % 104729 AS h FROM n),
         y AS (SELECT *, CASE WHEN m % 10 < 8 THEN 1 + m % 8 ELSE 0 END AS g FROM x)
         INSERT INTO rounds (message, round, mode, scheme, gamma, drafted, accepted, ignored, outcome,
             draft_ms, rtt_ms, queue_ms, verify_ms, residual_ms, uplink_bytes, downlink_bytes,
             started_at, pair)
         SELECT m, i % 40, CASE WHEN g > 0 THEN 'dssd' ELSE 'edge' END, 'dssd', g, g, h % (g + 1),
             max(g - h % (g + 1) - 1, 0), 'token', h % 97 / 3.0, 40 + h % 1013 / 7.0, h % 11 / 10.0,
             30 + h % 23, 0.02, 16 + 8 * g, 24, m * 60000 + i % 40 * 1500, 2 + m % 2 FROM y"
            .into(),
    );
    all.extend(indices.into_iter().map(|(_, sql)| sql));
    all.push("COMMIT".into());
    sqlx::raw_sql(AssertSqlSafe(all.join(";\n"))).execute(&sql).await.expect("a million rounds");
}
