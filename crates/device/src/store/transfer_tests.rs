use super::tests::{Scratch, round, scratch, turn};
use super::*;
use crate::record::{Finish, Pair, RoundRecord, Totals};
use proptest::prelude::*;

#[tokio::test]
async fn json_gives_the_same_tree_back() {
    let s = scratch().await;
    let c = s.store.create_conversation("Round trip").await.unwrap().id;
    let [q, a] =
        turn(&s.store, c, "q1", "a1 with \"quotes\"\n\n```\n<!-- tandem:user -->\n```").await;
    turn(&s.store, c, "q2", "a2").await;
    let again = s.store.answer_again(a).await.unwrap();
    s.store.finish(again.id, Status::Failed, None, "half", Some("lost")).await.unwrap();
    s.store.ask_after(c, None, "another beginning").await.unwrap();
    s.store.recover().await.unwrap();
    s.store.choose(q).await.unwrap();
    let choice = r#"{"pinned":true,"systemPrompt":"Be kind.","sampling":{"preset":"precise"}}"#;
    s.store.change(c, &serde_json::from_str(choice).unwrap()).await.unwrap();

    let saved = s.store.export(Some(c)).await.unwrap();
    let json = serde_json::to_vec(&saved).unwrap();
    let other = scratch().await;
    let new = other.store.import(&Saved::from_json(&json).unwrap()).await.unwrap();
    let new = new.added;
    assert_eq!(other.store.export(Some(new[0])).await.unwrap(), saved);
    let (mine, theirs) =
        (s.store.messages(c).await.unwrap(), other.store.messages(new[0]).await.unwrap());
    let shown = |m: &Message| {
        (m.content.clone(), m.status, m.error.clone(), m.stats.clone(), m.siblings.len())
    };
    assert_eq!(
        mine.iter().map(shown).collect::<Vec<_>>(),
        theirs.iter().map(shown).collect::<Vec<_>>()
    );
    let split = s.store.split(a).await.unwrap();
    assert!(!split.rounds[0].tokens.is_empty());
    let there = theirs[1].siblings[0];
    assert_eq!(other.store.split(there).await.unwrap().rounds, split.rounds, "who made what");
    assert_eq!(other.store.search("a2", 9).await.unwrap().len(), 1);
}

/// Every value of a table's rows, row numbers and names of sessions aside, as SQLite writes it.
async fn all_values(store: &Store, table: &str) -> Vec<String> {
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pragma_table_info(?) ORDER BY cid")
            .bind(table)
            .fetch_all(&store.pool)
            .await
            .unwrap();
    let own = ["id", "session", "message", "conversation", "parent", "active_child", "active_root"];
    let pair = "(SELECT edge || verifier || drafter || vocab FROM pairs WHERE id = pair)";
    let values = columns.iter().filter(|c| !own.contains(&c.as_str())).map(|c| {
        let value = if c == "pair" { pair } else { c };
        format!("'{c} ' || quote({value})")
    });
    let values: Vec<String> = values.collect();
    assert!(values.len() > 1, "{table}");
    let sql = format!("SELECT concat_ws(', ', {}) FROM {table} ORDER BY rowid", values.join(", "));
    let sql = if table.starts_with("round") { sql.replace("rowid", "message, round") } else { sql };
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&store.pool).await.unwrap()
}

#[tokio::test]
async fn an_import_has_every_column_of_what_was_exported() {
    let s = scratch().await;
    let c = s.store.create_conversation("Whole").await.unwrap().id;
    turn(&s.store, c, "q1", "a1").await;
    let (_, answer) = s.store.ask(c, "q2").await.unwrap();
    let mut totals = Totals::default();
    let pairs = [("", ""), ("box:7470", "large"), ("box:7470", "larger")];
    for (i, ((edge, verifier), mode)) in
        pairs.into_iter().zip(["device", "dssd", "edge"]).enumerate()
    {
        let pair = Pair {
            edge: edge.into(),
            verifier: verifier.into(),
            drafter: "small".into(),
            vocab: 9,
        };
        let record = RoundRecord {
            mode,
            alternatives: 1,
            followed: 1,
            decision: Some(format!("turns {i}")),
            pair: pair.into(),
            ..round(i as u32)
        };
        totals.add(&record, 3, std::time::Instant::now());
        s.store.add_round(answer.id, &record, "text", &totals).await.unwrap();
    }
    s.store.finish(answer.id, Status::Done, Some(Finish::Length), "", None).await.unwrap();
    let choice = r#"{"pinned":true,"systemPrompt":"Be kind.","sampling":{"preset":"precise"}}"#;
    s.store.change(c, &serde_json::from_str(choice).unwrap()).await.unwrap();

    let saved = s.store.export(None).await.unwrap();
    let json = serde_json::to_vec(&saved).unwrap();
    let other = scratch().await;
    other.store.import(&Saved::from_json(&json).unwrap()).await.unwrap();
    for table in ["conversations", "messages", "rounds", "round_tokens"] {
        let (here, there) =
            (all_values(&s.store, table).await, all_values(&other.store, table).await);
        assert!(!here.is_empty());
        assert_eq!(here, there, "{table}");
    }
}

#[tokio::test]
async fn what_is_here_already_is_not_imported_again() {
    let s = scratch().await;
    let c = s.store.create_conversation("One").await.unwrap().id;
    turn(&s.store, c, "q", "a").await;
    let saved = s.store.export(None).await.unwrap();
    let other = scratch().await;
    let first = other.store.import(&saved).await.unwrap();
    assert_eq!((first.added.len(), first.known), (1, 0));
    // Also under another name, and continued.
    let mine = Change { title: Some("Mine".into()), ..Change::default() };
    other.store.change(first.added[0], &mine).await.unwrap();
    turn(&other.store, first.added[0], "more", "of it").await;
    let again = other.store.import(&saved).await.unwrap();
    assert_eq!((again.added.len(), again.known), (0, 1));
    assert_eq!(other.store.metrics(&Filter::default()).await.unwrap().rounds, 2);
    // One that went on elsewhere is another.
    turn(&s.store, c, "other", "way").await;
    let longer = s.store.export(None).await.unwrap();
    assert_eq!(other.store.import(&longer).await.unwrap().added.len(), 1);
    // Deleted ones come back.
    let rows: Vec<i64> = other.store.conversations().await.unwrap().iter().map(|c| c.id).collect();
    for row in rows {
        other.store.delete_conversation(row).await.unwrap();
    }
    assert_eq!(other.store.import(&saved).await.unwrap().added.len(), 1);
    // Two alike in one file are two.
    let mut twice = Saved::from_json(GOOD.as_bytes()).unwrap();
    twice.conversations.push(twice.conversations[0].clone());
    assert_eq!(other.store.import(&twice).await.unwrap().added.len(), 2);
    assert_eq!(other.store.import(&twice).await.unwrap().known, 2);
    // Markdown knows no times: name and text tell.
    let text = s.store.export(None).await.unwrap().to_markdown();
    let markdown = Saved::from_markdown(text.as_bytes()).unwrap();
    let third = scratch().await;
    assert_eq!(third.store.import(&markdown).await.unwrap().added.len(), 1);
    let later = Saved::from_markdown(text.as_bytes()).unwrap();
    assert_eq!(third.store.import(&later).await.unwrap().known, 1);
}

#[tokio::test]
async fn figures_and_lists_survive_whatever_the_database_holds() {
    let s = scratch().await;
    let c = s.store.create_conversation("c").await.unwrap().id;
    let [_, good] = turn(&s.store, c, "q", "a").await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, type FROM pragma_table_info('rounds') WHERE name NOT IN ('message', 'round', 'pair')",
    )
    .fetch_all(&s.store.pool)
    .await
    .unwrap();
    let odd = |kind: &str| match kind {
        "INTEGER" => &["-9223372036854775808", "9223372036854775807", "-1"][..],
        "REAL" => &["9e999", "-9e999", "1e308", "5e-324", "-1.0"][..],
        _ => &["''", "'who knows'", "x'ff'"][..2],
    };
    let mut changes = vec![String::new()];
    for (column, kind) in &columns {
        changes.extend(odd(kind).iter().map(|v| format!("UPDATE rounds SET {column} = {v}")));
    }
    for column in ["created_at", "tokens", "gamma", "pair"] {
        changes
            .extend(odd("INTEGER").iter().map(|v| format!("UPDATE messages SET {column} = {v}")));
    }
    for column in ["ttft_ms", "tokens_per_s"] {
        changes.extend(odd("REAL").iter().map(|v| format!("UPDATE messages SET {column} = {v}")));
    }
    changes.push("UPDATE messages SET writer = 'who knows' WHERE writer IS NOT NULL".into());
    changes.push("UPDATE messages SET ttft_ms = NULL, tokens_per_s = NULL, gamma = NULL".into());
    changes.push("UPDATE rounds SET pair = 99".into());
    changes.push("UPDATE pairs SET vocab = -1".into());
    for column in ["created_at", "updated_at"] {
        changes.extend(
            odd("INTEGER").iter().map(|v| format!("UPDATE conversations SET {column} = {v}")),
        );
    }
    // A second round, so that sums are of several.
    let record = round(1);
    s.store.add_round(good, &record, "", &Totals::default()).await.unwrap();
    for change in &changes {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("copy.db");
        sqlx::query("VACUUM INTO ?").bind(target.to_str()).execute(&s.store.pool).await.unwrap();
        let odd = Store::open(&target).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(change.clone())).execute(&odd.pool).await.unwrap();
        for filter in [
            Filter::default(),
            Filter { conversation: Some(c), ..Filter::default() },
            Filter { from: Some(i64::MIN), until: Some(i64::MAX), ..Filter::default() },
            Filter { from: Some(i64::MAX), until: Some(i64::MIN), ..Filter::default() },
        ] {
            let metrics = odd.metrics(&filter).await.unwrap_or_else(|e| panic!("{change}: {e}"));
            for at in metrics.speed.iter().map(|s| s.at) {
                assert!((-86_400_000_000..=253_402_300_800_000).contains(&at), "{change}: {at}");
            }
            // A number that is none becomes null, where the window expects one.
            let json = serde_json::to_value(&metrics.time).unwrap().to_string();
            assert!(!json.contains("null"), "{change}: {json}");
            odd.export_rounds(&filter, Format::Csv, std::io::sink())
                .await
                .unwrap_or_else(|e| panic!("{change}: {e}"));
            odd.export_rounds(&filter, Format::Json, std::io::sink())
                .await
                .unwrap_or_else(|e| panic!("{change}: {e}"));
        }
        let said = |e: StoreError| -> ! { panic!("{change}: {e}") };
        odd.metrics_choices().await.unwrap_or_else(|e| said(e));
        odd.messages(c).await.unwrap_or_else(|e| said(e));
        odd.split(good).await.unwrap_or_else(|e| said(e));
        odd.export(None).await.unwrap_or_else(|e| said(e));
        odd.search("q", 9).await.unwrap_or_else(|e| said(e));
        for c in odd.conversations().await.unwrap_or_else(|e| said(e)) {
            assert!((0..=253_402_300_799_999).contains(&c.updated_at), "{change}");
        }
    }
}

#[tokio::test]
async fn markdown_gives_the_active_branch_back() {
    let s = scratch().await;
    let c = s.store.create_conversation("# A title").await.unwrap().id;
    let tricky = "text\n<!-- tandem:user -->\n## You\n\\<!-- tandem:assistant -->\n\nend\n";
    turn(&s.store, c, "## heading\nq", tricky).await;
    turn(&s.store, c, " q2 ", "").await;
    let text = s.store.export(None).await.unwrap().to_markdown();
    let new = s.store.import(&Saved::from_markdown(text.as_bytes()).unwrap()).await.unwrap();
    let texts =
        |messages: Vec<Message>| messages.into_iter().map(|m| m.content).collect::<Vec<_>>();
    // The name and the text are here already, so it is not added.
    assert_eq!((new.added.len(), new.known), (0, 1));
    s.store.delete_conversation(c).await.unwrap();
    let new = s.store.import(&Saved::from_markdown(text.as_bytes()).unwrap()).await.unwrap().added;
    s.store.restore_conversation(c).await.unwrap();
    let (old, back) = (s.store.messages(c).await.unwrap(), s.store.messages(new[0]).await.unwrap());
    assert_eq!(texts(old), texts(back));
    assert_eq!(s.store.conversation(new[0]).await.unwrap().title, "# A title");
}

const GOOD: &str = r#"{"format":"tandem-conversations","version":1,"conversations":[{"title":"t",
    "createdAt":1,"updatedAt":1,"activeRoot":0,"messages":[
    {"role":"user","content":"q","status":"done","createdAt":1,"activeChild":1},
    {"role":"assistant","content":"a","status":"done","createdAt":1,"parent":0}]}]}"#;

const ROUND: &str = r#""round":0,"mode":"device","scheme":"drafter","gamma":0,"drafted":0,"accepted":0,
    "ignored":0,"outcome":"token","draft_ms":1,"rtt_ms":0,"queue_ms":0,"verify_ms":0,"residual_ms":0,
    "uplink_bytes":0,"downlink_bytes":0,"started_at":1"#;

#[tokio::test]
async fn a_damaged_file_is_refused_whole_and_says_what_is_wrong() {
    let s = scratch().await;
    let good = Saved::from_json(GOOD.as_bytes()).unwrap();
    assert_eq!(s.store.import(&good).await.unwrap().added.len(), 1);
    for (from, to, said) in [
        ("\"parent\":0", "\"parent\":1", "not before it"),
        ("\"parent\":0", "\"parent\":99999", "not before it"),
        ("\"parent\":0", "\"parent\":-1", "missing or was changed"),
        ("\"parent\":0", "\"parent\":null", "should be the user's"),
        ("\"activeChild\":1", "\"activeChild\":0", "does not exist"),
        ("\"activeRoot\":0", "\"activeRoot\":1", "begins nowhere"),
        ("\"role\":\"assistant\"", "\"role\":\"system\"", "should be the assistant's"),
        ("\"status\":\"done\"", "\"status\":\"streaming\"", "status"),
        ("\"content\":\"q\"", "\"content\":7", "missing or was changed"),
        ("\"createdAt\":1", "\"createdAt\":\"now\"", "missing or was changed"),
        ("\"createdAt\":1", "\"createdAt\":1e99", "missing or was changed"),
        ("\"createdAt\":1", "\"createdAt\":-9000000000000000000", "no clock"),
        ("\"createdAt\":1", "\"createdAt\":9223372036854775807", "no clock"),
        ("\"updatedAt\":1", "\"updatedAt\":253402300800000", "no clock"),
        ("\"createdAt\":1,\"activeChild\"", "\"createdAt\":-1,\"activeChild\"", "no clock"),
        ("\"version\":1", "\"version\":2", "newer"),
        ("tandem-conversations", "shopping", "no file of conversations"),
        (
            "\"title\":\"t\"",
            "\"title\":\"t\",\"sampling\":{\"preset\":\"wild\"}",
            "missing or was changed",
        ),
        ("}]}]}", "}]}", "missing or was changed"),
        (
            "\"parent\":0",
            r#""parent":0,"rounds":[{ROUND,"ids":[5],"pieces":[]}]"#,
            "impossible round",
        ),
        (
            "\"parent\":0",
            r#""parent":0,"rounds":[{ROUND,"ids":[5,6],"pieces":["a","b"]}]"#,
            "impossible round",
        ),
        ("\"parent\":0", r#""parent":0,"rounds":[{ROUND,"ids":[-5],"pieces":["a"]}]"#, "changed"),
        ("\"parent\":0", r#""parent":0,"rounds":[{ROUND,"pair":0}]"#, "impossible round"),
        ("\"parent\":0", r#""parent":0,"rounds":[{ROUND,"mode":"x"}]"#, "changed"),
    ] {
        let file = GOOD.replacen(from, &to.replace("ROUND", ROUND), 1);
        assert_ne!(file, GOOD);
        let refused = Saved::from_json(file.as_bytes()).unwrap_err().to_string();
        assert!(refused.contains(said), "{to}: {refused}");
    }
    let deep = "[".repeat(100_000);
    assert!(Saved::from_json(deep.as_bytes()).is_err());
    assert!(matches!(
        Saved::from_json(&vec![b' '; FILE_LIMIT as usize + 1]),
        Err(ImportError::TooLarge)
    ));
    assert!(Saved::from_markdown(b"# Just a letter\n").is_err());
    assert!(Saved::from_markdown(&[0xff, 0xfe]).is_err());

    // The second conversation breaks a rule of the database: the first is not kept either.
    let mut two = Saved::from_json(GOOD.as_bytes()).unwrap();
    two.conversations.push(two.conversations[0].clone());
    two.conversations[1].messages[1].status = "no such status".into();
    assert!(matches!(s.store.import(&two).await, Err(ImportError::Damaged(2, _))));
    assert_eq!(s.store.conversations().await.unwrap().len(), 1);
}

proptest! {
    #[test]
    fn changed_bytes_never_panic_and_what_passes_can_be_written(
        at in 0..GOOD.len(), with in any::<u8>(), cut in 0..GOOD.len()
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = with;
        let _ = Saved::from_json(&bytes[..cut]);
        let _ = Saved::from_markdown(&bytes);
        if let Ok(saved) = Saved::from_json(&bytes) {
            prop_assert_eq!(Saved::from_json(&serde_json::to_vec(&saved).unwrap()).unwrap(), saved);
        }
    }

    #[test]
    fn any_text_survives_markdown(texts in prop::collection::vec("(<!-- tandem:user -->|\\\\|## |\n|a| ){0,12}", 2..5)) {
        let now = 1;
        let mut saved = Saved::from_json(GOOD.as_bytes()).unwrap();
        let c = &mut saved.conversations[0];
        let like = c.messages[1].clone();
        c.messages = texts.iter().enumerate().map(|(i, text)| SavedMessage {
            parent: i.checked_sub(1),
            active_child: (i + 1 < texts.len()).then_some(i + 1),
            role: if i % 2 == 0 { "user".into() } else { "assistant".into() },
            content: text.clone(),
            created_at: now,
            ..like.clone()
        }).collect();
        let back = Saved::from_markdown(saved.to_markdown().as_bytes()).unwrap();
        let back: Vec<_> = back.conversations[0].messages.iter().map(|m| m.content.clone()).collect();
        prop_assert_eq!(back, texts);
    }
}

/// All places in a tree, as pointers of JSON.
fn places(value: &serde_json::Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        serde_json::Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), all));
        }
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(k, v)| places(v, &format!("{at}/{k}"), all));
        }
        _ => {}
    }
}

/// Values that no file of ours has in most places.
fn odd() -> impl Strategy<Value = String> {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    prop::sample::select(vec![
        "null".to_owned(),
        "true".into(),
        "0".into(),
        "-1".into(),
        "1".into(),
        "7".into(),
        "9223372036854775807".into(),
        "99999999999999999999".into(),
        "1e308".into(),
        "-0.0".into(),
        "\"\"".into(),
        "\"user\"".into(),
        "\"\\u0000\\ud83d\\ude00\"".into(),
        "\"2024\"".into(),
        "{}".into(),
        "[]".into(),
        "[0,1,0]".into(),
        format!("\"{}\"", "x".repeat(5 << 20)),
        nested(100),
        nested(100_000),
    ])
}

/// A store, and what its work runs on.
fn store() -> &'static (tokio::runtime::Runtime, Scratch) {
    static STORE: std::sync::OnceLock<(tokio::runtime::Runtime, Scratch)> =
        std::sync::OnceLock::new();
    STORE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let scratch = runtime.block_on(scratch());
        (runtime, scratch)
    })
}

/// What was read passes every rule of the database, and comes back as it was.
fn can_be_kept(saved: &Saved) -> Result<(), TestCaseError> {
    let (runtime, scratch) = store();
    let kept = runtime.block_on(async {
        let rows = scratch.store.import(saved).await?;
        for row in rows.added {
            let back = scratch.store.export(Some(row)).await?;
            Saved::from_json(&serde_json::to_vec(&back).expect("JSON"))?;
            scratch.store.messages(row).await?;
            scratch.store.metrics(&Filter { conversation: Some(row), ..Filter::default() }).await?;
            // Or the next one like it would not be added.
            scratch.store.delete_conversation(row).await?;
        }
        Ok::<_, ImportError>(())
    });
    prop_assert!(kept.is_ok(), "{}", kept.unwrap_err());
    Ok(())
}

proptest! {
    #[test]
    fn odd_values_are_refused_or_kept(
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd()), 1..4)
    ) {
        let round = format!("\"parent\":0,\"rounds\":[{{{ROUND},\"ids\":[5],\"pieces\":[\"a\"]}}]");
        let mut file: serde_json::Value =
            serde_json::from_str(&GOOD.replacen("\"parent\":0", &round, 1)).unwrap();
        let mut text = Vec::new();
        for (i, (which, odd)) in changes.into_iter().enumerate() {
            let mut all = Vec::new();
            places(&file, "", &mut all);
            // A mark, because some of these are no values of the library's.
            let mark = format!("mark {i}");
            *file.pointer_mut(&all[which.index(all.len())]).unwrap() = mark.clone().into();
            text.push((format!("\"{mark}\""), odd));
        }
        let mut file = file.to_string();
        for (mark, odd) in text {
            file = file.replace(&mark, &odd);
        }
        match Saved::from_json(file.as_bytes()) {
            Ok(saved) => can_be_kept(&saved)?,
            Err(e) => prop_assert!(e.to_string().len() > 20),
        }
    }

    #[test]
    fn odd_markdown_is_refused_or_kept(
        pieces in prop::collection::vec(prop_oneof![
            Just("<!-- tandem:user -->\n".to_owned()), Just("<!-- tandem:assistant -->\n".to_owned()),
            Just("<!-- tandem:conversation -->\n".to_owned()), Just("<!-- tandem:system -->\n".to_owned()),
            Just("# title\n".to_owned()), Just("\\<!-- tandem:user -->\n".to_owned()), Just("\n\n".to_owned()),
            Just("\u{0}\r\n".to_owned()), "\\PC{0,30}", "<!-- tandem:[a-z]{0,12} -->\n",
        ], 0..30)
    ) {
        let text = pieces.concat();
        let head = Saved::from_json(GOOD.as_bytes()).unwrap().to_markdown();
        for text in [head.clone() + &text, text] {
            if let Ok(saved) = Saved::from_markdown(text.as_bytes()) {
                can_be_kept(&saved)?;
            }
        }
    }
}
