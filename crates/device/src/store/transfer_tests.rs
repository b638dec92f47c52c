use super::tests::{Scratch, scratch, turn};
use super::*;
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
    // And a second time beside the first.
    other.store.import(&saved).await.unwrap();
    assert_eq!(other.store.conversations().await.unwrap().len(), 2);
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
    assert_eq!(s.store.import(&Saved::from_json(GOOD.as_bytes()).unwrap()).await.unwrap().len(), 1);
    for (from, to, said) in [
        ("\"parent\":0", "\"parent\":1", "not before it"),
        ("\"parent\":0", "\"parent\":99999", "not before it"),
        ("\"parent\":0", "\"parent\":-1", "cannot be read"),
        ("\"parent\":0", "\"parent\":null", "should be the user's"),
        ("\"activeChild\":1", "\"activeChild\":0", "does not exist"),
        ("\"activeRoot\":0", "\"activeRoot\":1", "begins nowhere"),
        ("\"role\":\"assistant\"", "\"role\":\"system\"", "should be the assistant's"),
        ("\"status\":\"done\"", "\"status\":\"streaming\"", "status"),
        ("\"content\":\"q\"", "\"content\":7", "cannot be read"),
        ("\"createdAt\":1", "\"createdAt\":\"now\"", "cannot be read"),
        ("\"createdAt\":1", "\"createdAt\":1e99", "cannot be read"),
        ("\"version\":1", "\"version\":2", "newer"),
        ("tandem-conversations", "shopping", "no file of conversations"),
        ("\"title\":\"t\"", "\"title\":\"t\",\"sampling\":{\"preset\":\"wild\"}", "cannot be read"),
        ("}]}]}", "}]}", "cannot be read"),
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
        ("\"parent\":0", r#""parent":0,"rounds":[{ROUND,"ids":[-5],"pieces":["a"]}]"#, "read"),
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
        for row in rows {
            let back = scratch.store.export(Some(row)).await?;
            Saved::from_json(&serde_json::to_vec(&back).expect("JSON"))?;
            scratch.store.messages(row).await?;
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
