use super::*;
use crate::record::{Finish, RoundRecord, Totals};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tandem_speculation::TokenId;

pub(super) struct Scratch {
    pub store: Store,
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

pub(super) async fn scratch() -> Scratch {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tandem.db");
    Scratch { store: Store::open(&path).await.unwrap(), path, _folder: folder }
}

pub(super) fn round(number: u32) -> RoundRecord {
    RoundRecord {
        message: 0,
        round: number,
        mode: "dssd",
        scheme: "dssd",
        gamma: 4,
        drafted: 4,
        accepted: 2,
        ignored: 1,
        alternatives: 0,
        followed: 0,
        outcome: "sparse",
        draft_ms: 1.5,
        rtt_ms: 2.5,
        queue_ms: 0.25,
        verify_ms: 1.25,
        residual_ms: 0.125,
        uplink_bytes: 40,
        downlink_bytes: 30,
        started_at: 1_000 + i64::from(number),
        decision: None,
        pair: Default::default(),
        tokens: [7, 8, 300].map(TokenId).to_vec(),
        pieces: ["Three ", "", "tokens"].map(String::from).to_vec(),
    }
}

/// A question with a finished answer; their ids.
pub(super) async fn turn(
    store: &Store,
    conversation: i64,
    question: &str,
    answer: &str,
) -> [i64; 2] {
    let (q, a) = store.ask(conversation, question).await.unwrap();
    write(store, a.id, answer).await;
    [q.id, a.id]
}

async fn write(store: &Store, id: i64, text: &str) {
    let mut totals = Totals::default();
    totals.add(&round(0), 3, std::time::Instant::now());
    store.add_round(id, &round(0), text, &totals).await.unwrap();
    store.finish(id, Status::Done, Some(Finish::Stop), "", None).await.unwrap();
}

async fn texts(store: &Store, conversation: i64) -> Vec<String> {
    store.messages(conversation).await.unwrap().into_iter().map(|m| m.content).collect()
}

async fn found_in(store: &Store, query: &str) -> Vec<Option<i64>> {
    store.search(query, 50).await.unwrap().into_iter().map(|h| h.message_id).collect()
}

#[cfg(unix)]
#[tokio::test]
async fn conversations_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tandem.db");
    // As an earlier version left it.
    std::fs::write(&path, []).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = Store::open(&path).await.unwrap();
    store.create_conversation("private").await.unwrap();
    for name in ["tandem.db", "tandem.db-wal", "tandem.db-shm"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_file_of_the_first_version_becomes_one_branch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tandem.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    let mut first = sqlx::migrate!("./migrations");
    first.migrations = first.migrations[..1].to_vec().into();
    first.run(&mut old).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO conversations (title, session, created_at, updated_at)
         VALUES ('Wetter', zeroblob(16), 5, 6), ('Leer', zeroblob(16), 5, 6);
         INSERT INTO messages (conversation, role, content, status, created_at) VALUES
         (1, 'user', 'Wird es regnen?', 'done', 7), (1, 'assistant', 'Ja, in Köln.', 'done', 8),
         (1, 'user', 'Wann?', 'done', 9), (1, 'assistant', 'Um', 'streaming', 10);
         INSERT INTO rounds VALUES (2, 0, 'dssd', 'dssd', 4, 4, 2, 1, 'token', 1, 2, 3, 4, 5, 6, 7, 8);",
    )
    .execute(&mut old)
    .await
    .unwrap();
    old.close().await.unwrap();

    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.recover().await.unwrap(), 1);
    let messages = store.messages(1).await.unwrap();
    let seen: Vec<_> = messages.iter().map(|m| (m.id, m.parent, m.status)).collect();
    assert_eq!(
        seen,
        [
            (1, None, Status::Done),
            (2, Some(1), Status::Done),
            (3, Some(2), Status::Done),
            (4, Some(3), Status::Interrupted)
        ]
    );
    assert_eq!(messages[1].stats.as_ref().unwrap().drafted, 3);
    assert_eq!(messages[1].siblings, [2]);
    assert_eq!(found_in(&store, "koln").await, [Some(2)]);
    assert_eq!(found_in(&store, "wetter").await, [None]);
    store.ask(1, "Und morgen?").await.unwrap();
    store.ask(2, "Hallo").await.unwrap();
    assert_eq!(store.messages(1).await.unwrap()[4].parent, Some(4));
}

#[tokio::test]
async fn branches_stay_and_are_found_again_as_they_were_left() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    let [q1, a1] = turn(&s.store, c, "q1", "a1").await;
    let [_, a2] = turn(&s.store, c, "q2", "a2").await;

    let again = s.store.answer_again(a1).await.unwrap();
    write(&s.store, again.id, "a1 again").await;
    assert_eq!(texts(&s.store, c).await, ["q1", "a1 again"]);
    let shown = s.store.messages(c).await.unwrap();
    assert_eq!(shown[1].siblings, [a1, again.id]);

    let (edited, answer) = s.store.ask_after(c, None, "q1 edited").await.unwrap();
    write(&s.store, answer.id, "a1 edited").await;
    assert_eq!(texts(&s.store, c).await, ["q1 edited", "a1 edited"]);
    assert_eq!(edited.siblings, [q1, edited.id]);

    // Back to the first question: its second answer was the last one shown there.
    s.store.choose(q1).await.unwrap();
    assert_eq!(texts(&s.store, c).await, ["q1", "a1 again"]);
    s.store.choose(a1).await.unwrap();
    assert_eq!(texts(&s.store, c).await, ["q1", "a1", "q2", "a2"]);
    // A message deep in another branch brings its whole path.
    s.store.choose(again.id).await.unwrap();
    s.store.choose(answer.id).await.unwrap();
    assert_eq!(texts(&s.store, c).await, ["q1 edited", "a1 edited"]);
    s.store.choose(a2).await.unwrap();
    assert_eq!(texts(&s.store, c).await, ["q1", "a1", "q2", "a2"]);
    let path = s.store.path_to(again.id).await.unwrap();
    assert_eq!(path.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["q1", "a1 again"]);
}

#[tokio::test]
async fn a_message_of_another_conversation_is_no_parent() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    let other = s.store.create_conversation("other").await.unwrap().id;
    let [q, _] = turn(&s.store, c, "q", "a").await;
    let wrong = s.store.ask_after(other, Some(q), "x").await;
    assert!(matches!(wrong, Err(StoreError::Missing("message"))), "{wrong:?}");
    assert!(s.store.messages(other).await.unwrap().is_empty());
    assert!(matches!(s.store.answer_again(q).await, Err(StoreError::Missing("answer"))));
}

#[tokio::test]
async fn a_retry_replaces_only_an_answer_without_a_word() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    let (_, empty) = s.store.ask(c, "q").await.unwrap();
    s.store.finish(empty.id, Status::Failed, None, "", Some("no edge")).await.unwrap();
    let second = s.store.answer_again(empty.id).await.unwrap();
    assert_eq!(second.siblings, [second.id]);
    s.store.finish(second.id, Status::Failed, None, "half", Some("no edge")).await.unwrap();
    let third = s.store.answer_again(second.id).await.unwrap();
    assert_eq!(third.siblings, [second.id, third.id]);
}

#[tokio::test]
async fn only_an_unfinished_answer_is_resumed() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    let [q, a] = turn(&s.store, c, "q", "whole").await;
    assert!(s.store.resume(a, "whole").await.is_err());
    assert!(s.store.resume(q, "q").await.is_err());
    let (_, half) = s.store.ask(c, "q2").await.unwrap();
    s.store.finish(half.id, Status::Stopped, Some(Finish::Cancelled), "zebra", None).await.unwrap();
    let resumed = s.store.resume(half.id, "zebra").await.unwrap();
    assert_eq!((resumed.status, resumed.content.as_str()), (Status::Streaming, "zebra"));
    assert!(found_in(&s.store, "zebra").await.is_empty());
    s.store.finish(half.id, Status::Done, Some(Finish::Stop), " crossing", None).await.unwrap();
    assert_eq!(found_in(&s.store, "zebra crossing").await, [Some(half.id)]);
}

#[tokio::test]
async fn search_marks_its_words_and_takes_nothing_for_syntax() {
    let s = scratch().await;
    let c = s.store.create_conversation("About lighthouses").await.unwrap().id;
    let [q, a] =
        turn(&s.store, c, "Who keeps the light?", "A keeper \"keeps\" it, AND NOT you.").await;
    assert_eq!(found_in(&s.store, "keep light").await, [Some(q)], "all words, in any order");
    assert!(found_in(&s.store, "keep lighter").await.is_empty());
    let hits = s.store.search("KEEPS ligh", 50).await.unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!((hits[0].message_id, hits[0].title.as_str()), (Some(q), "About lighthouses"));
    let marked: Vec<_> =
        hits[0].snippet.iter().filter(|p| p.hit).map(|p| p.text.as_str()).collect();
    assert_eq!(marked, ["keeps", "ligh"]);
    let whole: String = hits[0].snippet.iter().map(|p| p.text.as_str()).collect();
    assert_eq!(whole, "Who keeps the light?");
    // Titles come first.
    assert_eq!(found_in(&s.store, "light").await, [None, Some(q)]);
    for hostile in [
        "\"",
        "\"\"",
        "\"keeps",
        "keeps\"",
        "*",
        "^",
        "()",
        "NEAR(",
        "content:keeps",
        "-keeps",
        "a AND",
        "NOT",
        "OR OR",
        "{",
        "keeps + ",
        "'; DROP TABLE messages; --",
        "\u{0}",
        "keeps\u{0}light",
    ] {
        s.store.search(hostile, 50).await.unwrap_or_else(|e| panic!("{hostile:?}: {e}"));
    }
    assert_eq!(found_in(&s.store, "AND NOT you").await, [Some(a)]);
    assert_eq!(found_in(&s.store, "\"keeps\" AND").await, [Some(a)]);
}

#[tokio::test]
async fn search_finds_every_script_and_every_sign() {
    let s = scratch().await;
    let c = s.store.create_conversation("天気").await.unwrap().id;
    let long = format!("{}今日の東京の天気は晴れです。{}", "あ".repeat(200), "い".repeat(200));
    let [weather, pizza] = turn(&s.store, c, &long, "I had 🍕 in C++ and c#").await;
    let [words, thai] =
        turn(&s.store, c, "Cafe\u{301} Ünïcode ß 100% a_b \"q\"", "วันนี้อากาศดี").await;
    let [arabic, russian] = turn(&s.store, c, "الطقس اليوم جميل", "Погода ХОРОШАЯ сегодня Й").await;
    let all: Vec<(&str, Vec<Option<i64>>)> = vec![
        ("天気", vec![None, Some(weather)]),
        ("気", vec![None, Some(weather)]),
        ("東京 天気", vec![Some(weather)]),
        ("東京天気", vec![]),
        ("大阪 天気", vec![]),
        ("です。", vec![Some(weather)]),
        ("🍕", vec![Some(pizza)]),
        ("C++", vec![Some(pizza)]),
        ("c++ 🍕", vec![Some(pizza)]),
        ("C#", vec![Some(pizza)]),
        ("#", vec![Some(pizza)]),
        ("c++#", vec![]),
        ("café", vec![Some(words)]),
        ("CAFE", vec![Some(words)]),
        ("é ünicode", vec![Some(words)]),
        ("%", vec![Some(words)]),
        ("0%", vec![Some(words)]),
        ("a_b", vec![Some(words)]),
        ("_", vec![Some(words)]),
        ("a%b", vec![]),
        ("\"q\"", vec![Some(words)]),
        ("\"", vec![Some(words)]),
        ("อากาศ", vec![Some(thai)]),
        ("ดี", vec![Some(thai)]),
        ("طقس", vec![Some(arabic)]),
        ("погода хорошая", vec![Some(russian)]),
        ("й", vec![Some(russian)]),
        ("x", vec![]),
        ("   ", vec![]),
    ];
    for (query, wanted) in all {
        assert_eq!(found_in(&s.store, query).await, wanted, "{query}");
    }
    for (query, marks) in [
        ("東京 天気", vec!["東京", "天気"]),
        ("cafe", vec!["Cafe\u{301}"]),
        ("UNI", vec!["Ünï"]),
        ("🍕 c++", vec!["🍕", "C++"]),
    ] {
        let hits = s.store.search(query, 50).await.unwrap();
        let snippet = &hits.last().unwrap().snippet;
        let marked: Vec<_> = snippet.iter().filter(|p| p.hit).map(|p| p.text.as_str()).collect();
        assert_eq!(marked, marks);
        assert!(snippet.iter().map(|p| p.text.chars().count()).sum::<usize>() < 100);
    }
}

/// A letter that begins very many groups of three is looked for in the texts themselves.
#[tokio::test]
async fn a_word_that_nearly_every_text_has_is_found_as_any_other() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    let letters: Vec<char> = ('a'..='z').chain('0'..='9').collect();
    let text: String =
        letters.iter().flat_map(|x| letters.iter().map(move |y| format!("q{x}{y} "))).collect();
    let [all, zebra] = turn(&s.store, c, &text, "a quiet zebra").await;
    assert_eq!(found_in(&s.store, "q").await, [Some(zebra), Some(all)]);
    assert_eq!(found_in(&s.store, "q zebra").await, [Some(zebra)]);
    assert_eq!(found_in(&s.store, "q zz").await, [Some(all)]);
}

#[tokio::test]
#[ignore = "a measurement: 100,000 messages"]
async fn search_in_many_messages() {
    let s = scratch().await;
    sqlx::raw_sql(
        "INSERT INTO conversations (title, session, created_at, updated_at) VALUES ('t', zeroblob(16), 1, 1);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
         INSERT INTO messages (conversation, role, content, status, created_at)
         SELECT 1, 'user', 'message ' || i || ' ' || hex(randomblob(40)) || ' the weather of tomorrow '
             || CASE WHEN i % 50000 = 7 THEN '天気 🍕' ELSE '' END || hex(randomblob(200)), 'done', i FROM n",
    )
    .execute(&s.store.pool)
    .await
    .unwrap();
    for query in
        ["weather", "天気", "🍕", "a", "a tomorrow", "99999", "zzz", "z", "e 天気", "ab cd ef"]
    {
        let begun = std::time::Instant::now();
        let hits = s.store.search(query, 50).await.unwrap().len();
        eprintln!("{query}: {hits} in {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn search_finds_words_in_scripts_without_spaces() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    let [q, _] = turn(&s.store, c, "今天天气怎么样？", "晴").await;
    let hits = s.store.search("天气", 50).await.unwrap();
    assert_eq!(hits[0].message_id, Some(q));
    assert_eq!(hits[0].snippet[1], Piece { text: "天气".into(), hit: true });
}

#[tokio::test]
async fn what_is_deleted_comes_back_or_goes_for_good() {
    let s = scratch().await;
    let c = s.store.create_conversation("Zebra").await.unwrap().id;
    // Deeper than a cascade through triggers could go.
    let mut end = None;
    for i in 0..1500 {
        let (_, a) = s.store.ask_after(c, end, &format!("question {i}")).await.unwrap();
        end = Some(a.id);
    }
    s.store.recover().await.unwrap();
    s.store.delete_conversation(c).await.unwrap();
    assert!(s.store.conversations().await.unwrap().is_empty());
    assert!(found_in(&s.store, "zebra").await.is_empty());
    assert!(found_in(&s.store, "1499").await.is_empty());
    assert!(s.store.ask(c, "more").await.is_err());
    assert_eq!(s.store.purge(60_000).await.unwrap(), 0);
    assert_eq!(s.store.restore_conversation(c).await.unwrap().title, "Zebra");
    assert_eq!(found_in(&s.store, "1499").await.len(), 1);
    assert_eq!(s.store.messages(c).await.unwrap().len(), 3000);

    s.store.delete_conversation(c).await.unwrap();
    assert_eq!(s.store.purge(0).await.unwrap(), 1);
    assert!(s.store.restore_conversation(c).await.is_err());
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM messages").fetch_one(&s.store.pool).await.unwrap();
    assert_eq!(left, 0);
    sqlx::raw_sql(
        "INSERT INTO message_text (message_text, rank) VALUES ('integrity-check', 1);
                   INSERT INTO title_text (title_text, rank) VALUES ('integrity-check', 1);",
    )
    .execute(&s.store.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_title_is_the_programs_until_a_person_gives_one() {
    let s = scratch().await;
    let c = s.store.create_conversation("first words").await.unwrap();
    assert!(c.auto_title);
    let mine = Change { title: Some("  Mine ".into()), ..Change::default() };
    let changed = s.store.change(c.id, &mine).await.unwrap();
    assert_eq!((changed.title.as_str(), changed.auto_title), ("Mine", false));
    let none = Change { title: Some("  ".into()), ..Change::default() };
    assert!(matches!(s.store.change(c.id, &none).await, Err(StoreError::Settings(_))));
}

#[tokio::test]
async fn a_file_that_may_only_be_read_is_named() {
    let s = scratch().await;
    let mut all = Vec::new();
    for _ in 0..4 {
        let mut one = s.store.pool.acquire().await.unwrap();
        sqlx::raw_sql("PRAGMA query_only = ON").execute(&mut *one).await.unwrap();
        all.push(one);
    }
    drop(all);
    let refused = s.store.create_conversation("c").await.unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly), "{refused}");
}

#[tokio::test]
async fn choices_are_kept_and_null_takes_them_back() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    let json = r#"{"pinned":true,"systemPrompt":"Be brief.","sampling":{"preset":"custom","temperature":0.5,"topK":5,"topP":0.9}}"#;
    let changed = s.store.change(c, &serde_json::from_str(json).unwrap()).await.unwrap();
    assert_eq!((changed.pinned, changed.system_prompt.as_deref()), (true, Some("Be brief.")));
    assert_eq!(changed.sampling, Some(Preset::Custom { temperature: 0.5, top_k: 5, top_p: 0.9 }));
    assert_eq!(changed, s.store.conversation(c).await.unwrap());
    let back =
        s.store.change(c, &serde_json::from_str(r#"{"sampling":null}"#).unwrap()).await.unwrap();
    assert_eq!(
        (back.sampling, back.system_prompt.as_deref(), back.pinned),
        (None, Some("Be brief."), true)
    );
    let wrong = r#"{"sampling":{"preset":"custom","temperature":-1,"topK":5,"topP":0.9}}"#;
    let wrong = s.store.change(c, &serde_json::from_str(wrong).unwrap()).await;
    assert!(matches!(wrong, Err(StoreError::Settings(_))), "{wrong:?}");
}

#[tokio::test]
async fn a_newer_file_and_one_that_is_no_database_are_refused_untouched() {
    let s = scratch().await;
    sqlx::raw_sql("UPDATE _sqlx_migrations SET version = 9999 WHERE version = 2")
        .execute(&s.store.pool)
        .await
        .unwrap();
    s.store.close().await;
    let newer = Store::open(&s.path).await.err().unwrap();
    assert!(matches!(newer, StoreError::Newer(_)), "{newer}");

    let other = s.path.with_file_name("letter.db");
    std::fs::write(&other, "Dear SQLite, ".repeat(200)).unwrap();
    let refused = Store::open(&other).await.err().unwrap().to_string();
    assert!(refused.contains("damaged"), "{refused}");
    assert!(std::fs::read_to_string(&other).unwrap().starts_with("Dear SQLite"));
}

#[tokio::test]
async fn a_file_without_its_beginning_is_no_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.db");
    for (file, log) in [(1, 0), (100, 0), (0, 200)] {
        std::fs::write(&path, vec![b'S'; file]).unwrap();
        std::fs::write(folder.path().join("cut.db-wal"), vec![1; log]).unwrap();
        let refused = Store::open(&path).await.err().unwrap().to_string();
        assert!(refused.contains("cut off"), "{file} and {log} bytes: {refused}");
    }
    std::fs::write(&path, "").unwrap();
    std::fs::write(folder.path().join("cut.db-wal"), "").unwrap();
    Store::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_half_written() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    turn(&s.store, c, "q", "a").await;
    limit(&s.store, 2).await;
    let full = s.store.ask(c, &"long ".repeat(100_000)).await.unwrap_err();
    assert!(matches!(full, StoreError::Full), "{full}");
    assert_eq!(texts(&s.store, c).await, ["q", "a"]);
    // With room again it goes on, on every connection.
    limit(&s.store, 10_000).await;
    turn(&s.store, c, "once more", "b").await;
    assert_eq!(texts(&s.store, c).await, ["q", "a", "once more", "b"]);
}

/// Lets the file grow by so many pages at most. The limit belongs to a connection, so each of the pool's
/// gets it.
async fn limit(store: &Store, more: i64) {
    let mut all = Vec::new();
    for _ in 0..4 {
        let mut one = store.pool.acquire().await.unwrap();
        let pages: i64 =
            sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut *one).await.unwrap();
        let limit = format!("PRAGMA max_page_count = {}", pages + more);
        sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(&mut *one).await.unwrap();
        all.push(one);
    }
}
