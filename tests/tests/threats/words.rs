//! No word of a chat, no token and no code is written down by edge or device, whatever they are told to
//! log; and what they keep is for their owner alone.

use super::at;
use crate::setup::{Edge, finished, pairing};
use crate::wire::{HERE, http, status};
use std::path::Path;
use std::process::{Command, Stdio};
use tandem_inference::{ChatMessage, Role};
use tandem_tests::{OTHER, model};

const MARK: &str = "quixotic zeppelin marmalade";

/// Runs `tandem` with everything logged: standard output and errors.
fn tandem(args: &[&str], db: &Path) -> (String, String) {
    let test = std::env::current_exe().expect("this program");
    let program = test.parent().and_then(Path::parent).expect("a build folder").join("tandem");
    let mut command = Command::new(program);
    command.args(args).arg("--db").arg(db).env("TANDEM_KEY_STORE", "file").env("RUST_LOG", "trace");
    command.env_remove("TANDEM_EDGE").env_remove("TANDEM_EDGE_TOKEN").stdin(Stdio::null());
    let done = command.output().expect("the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{args:?}: {}", text(&done.stderr));
    (text(&done.stdout), text(&done.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_words_nor_tokens_are_logged() {
    let edge = Edge::start();
    let db = edge.state.join("device").join("device.db");
    let shown = pairing(&edge);
    let code = shown.link.code.to_string();
    let place = edge.authority();
    let (_, paired_log) =
        tandem(&["pair", "--edge", &place, "--code", &code, "--name", "laptop"], &db);
    // It takes the code's file away.
    assert!(finished(shown.process).0.success());
    let chat = ["chat", "--box", "attic", "--drafter", OTHER, "--json", "--max-tokens", "12"];
    let mut logs = vec![("pairing", paired_log)];
    let mut answers = Vec::new();
    for mode in ["dssd", "edge"] {
        let args = [&chat[..], &["--mode", mode, "--prompt", MARK]].concat();
        let (answer, log) = tandem(&args, &db);
        logs.push(("device", log));
        answers.push(answer);
    }
    // The device's own file of tokens has it; nobody else may.
    let folder = db.parent().expect("a folder");
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    let kept = files.filter_map(|f| std::fs::read_to_string(f.path()).ok());
    let token = kept.flat_map(|text| {
        let at = text.find("tandem_")?;
        text.get(at..at + 7 + 64).map(str::to_owned)
    });
    let token = token.last().expect("a token in a file");
    let metrics = http(HERE, at(&edge), "/metrics", Some(&token)).await;
    assert_eq!(status(&metrics), 200, "{metrics}");
    let health = http(HERE, at(&edge), "/healthz", None).await;
    logs.push(("edge", std::fs::read_to_string(edge.log()).expect("a log")));
    logs.extend([("metrics", metrics), ("health", health)]);
    for file in std::fs::read_dir(&edge.state).expect("a folder").flatten() {
        if file.path().is_file() {
            logs.push(("state", std::fs::read_to_string(file.path()).unwrap_or_default()));
        }
    }

    let model = model(OTHER);
    let ids = |text: &str| model.tokenizer().encode(text, false).expect("ids");
    let talk = [ChatMessage { role: Role::User, content: MARK.into() }];
    let prompt = model.tokenizer().encode_chat(&talk).expect("ids");
    let mut secrets: Vec<String> = MARK.split(' ').map(str::to_owned).collect();
    secrets.extend([token[7..].to_owned(), code.replace('-', ""), code, MARK.to_owned()]);
    // The words as ids, as somebody would print them, and as bytes.
    let listed = |ids: &[tandem_speculation::TokenId]| {
        let numbers: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        [numbers.join(", "), numbers.join(","), numbers.join(" ")]
    };
    secrets.extend(listed(&ids(MARK)));
    secrets.extend(listed(&prompt[prompt.len() / 2..]));
    let numbers = |text: &str| text.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
    secrets.extend([numbers(&token), numbers("marmalade")]);
    for secret in &secrets {
        assert!(secret.len() > 5, "{secret} may be there by chance");
        for (place, text) in &logs {
            let found = text.find(secret.as_str());
            let around = found.map(|at| text[..at].lines().last().unwrap_or_default());
            assert_eq!(around, None, "{secret} is in the {place}");
        }
    }
    // The measure itself: they do log, and the answer was about the words.
    assert!(logs.iter().any(|(p, t)| *p == "edge" && t.contains("paired with laptop")));
    assert!(answers.iter().all(|a| a.contains("\"text\"")), "{answers:?}");
}

#[cfg(unix)]
#[test]
fn keys_and_databases_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let edge = Edge::start();
    let folder = edge.state.join("device");
    let shown = pairing(&edge);
    let (place, code) = (edge.authority(), shown.link.code.to_string());
    tandem(&["pair", "--edge", &place, "--code", &code], &folder.join("device.db"));
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    for (place, least) in [(&edge.state, 4), (&folder, 2)] {
        let files = std::fs::read_dir(place).expect("a folder").flatten().map(|f| f.path());
        let files: Vec<_> = files.filter(|f| f.is_file()).collect();
        assert!(files.len() >= least, "{files:?}");
        for file in files {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    }
    let made = edge.state.join("made");
    tandem_edge::Identity::load_or_create(
        &tandem_edge::StateFolder::open(&made).expect("a folder"),
    )
    .expect("an identity");
    assert_eq!((mode(&made), mode(&made.join("identity.pem"))), (0o700, 0o600));
}
