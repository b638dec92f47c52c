//! The device's program from its start to its end: the product's drafter, link, loop of rounds and
//! store, used as the app uses them, and the user, who takes up what ended early.

use crate::ledger::Pending;
use crate::oracle::{CONTEXT, Oracle};
use crate::world::World;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tandem_device::store::{Message, Status, Store, StoreError};
use tandem_device::{Begun, Drafter, Event, Finish, GenerateError, Link, Request, generate};
use tandem_inference::{ChatMessage, DeviceChoice, LoadOptions, Role};
use tandem_tests::believe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What a program's life comes to, if it is not killed.
pub enum Life {
    /// All questions are answered.
    Done,
    /// The user starts it again: an answer's end could not be written.
    Again,
}

/// The conversation in the file that all runs begin with.
pub const CONVERSATION: i64 = 1;
/// An answer is taken up at most so often.
const ATTEMPTS: u64 = 30;

const QUESTIONS: [&str; 3] =
    ["Who is there?", "Say the word \"lower\" again, <|im_end|> please.", "é, and then?"];

pub fn question(seed: u64, n: usize) -> String {
    format!("{} ({n})", QUESTIONS[(seed as usize + n) % QUESTIONS.len()])
}

/// One start of the program.
pub async fn live(world: Arc<World>, path: Arc<Path>) -> Result<Life, String> {
    let text = |e: StoreError| format!("the store failed without a cause: {e}");
    let store = Store::open(&path).await.map_err(text)?;
    world.store_may_fail.store(false, Ordering::Relaxed);
    store.recover().await.map_err(text)?;
    world.check(&path).await?;
    let options =
        LoadOptions { threads: Some(1), device: DeviceChoice::Cpu, ..LoadOptions::default() };
    let drafter = Drafter::load(world.drafter.clone(), options, CONTEXT).await;
    let drafter = drafter.map_err(|e| e.to_string())?;
    let address = world.edge.parse().map_err(|_| "no address".to_owned())?;
    let link = Link::start(address, drafter.hello());
    loop {
        let messages = store.messages(CONVERSATION).await.map_err(text)?;
        let asked = messages.iter().filter(|m| m.role == "user").count();
        match messages.last() {
            Some(m) if m.role == "user" => return Err(format!("a question has no answer: {m:?}")),
            Some(m) if m.status == Status::Streaming => return Ok(Life::Again),
            Some(m) if m.status == Status::Done && asked == world.plan.questions => break,
            _ => {}
        }
        if world.answers.fetch_add(1, Ordering::Relaxed) >= ATTEMPTS {
            return Err("the conversation does not come to its end".into());
        }
        let app = Answering { world: &world, path: &path, store: &store };
        app.answer(&drafter, &link, messages).await?;
        if world.store_may_fail.load(Ordering::Relaxed) {
            world.mend(&store).await?;
        }
        world.check(&path).await?;
    }
    store.close().await;
    Ok(Life::Done)
}

struct Answering<'a> {
    world: &'a World,
    path: &'a Path,
    store: &'a Store,
}

impl Answering<'_> {
    /// The next question, or another answer, or the rest of one.
    async fn answer(
        &self,
        drafter: &Drafter,
        link: &Link,
        path: Vec<Message>,
    ) -> Result<(), String> {
        let (world, store) = (self.world, self.store);
        let unfinished = path.last().filter(|m| m.status != Status::Done).cloned();
        let rest = world.plan.rest;
        let asked = path.iter().filter(|m| m.role == "user").count();
        let text = question(world.plan.seed, asked);
        let say = |m: &Message| ChatMessage {
            role: if m.role == "user" { Role::User } else { Role::Assistant },
            content: m.content.clone(),
        };
        let mut chat: Vec<ChatMessage> = path.iter().map(say).collect();
        let mut begun = Begun::default();
        if let Some(answer) = &unfinished {
            chat.pop();
            if rest {
                let kept = store.answer_ids(answer.id).await.map_err(|e| e.to_string())?;
                let of = Begun::of(drafter.tokenizer(), kept, &answer.content);
                begun = of.map_err(|e| e.to_string())?;
            }
        } else {
            chat.push(ChatMessage { role: Role::User, content: text.clone() });
        }
        let tokenizer = drafter.tokenizer();
        let mut prompt = tokenizer.encode_chat(&chat).map_err(|e| e.to_string())?;
        prompt.extend(&begun.ids);
        let session = store.session(CONVERSATION).await.map_err(|e| e.to_string())?;

        self.step().await?;
        let message = match &unfinished {
            None => {
                world.ledger().pending = Pending::Ask(text.clone());
                store.ask_after(CONVERSATION, path.last().map(|m| m.id), &text).await.map(|m| m.1)
            }
            Some(m) if rest => store.resume(m.id, &begun.text).await,
            Some(m) => {
                world.ledger().pending = Pending::Again;
                store.answer_again(m.id).await
            }
        };
        let Some(message) = self.allowed(message)? else { return Ok(()) };
        world.check(self.path).await?;

        let again = world.answers.load(Ordering::Relaxed);
        let request = Request {
            session,
            prompt,
            begun: begun.ids.len(),
            sampling: world.plan.sampling,
            seed: world.plan.seed.wrapping_mul(1000).wrapping_add(again),
            mode: world.plan.mode,
            gamma: world.plan.gamma,
            ahead: world.plan.ahead,
            max_tokens: world.plan.max_tokens,
            when_edge_lost: world.plan.when_edge_lost,
            patience: Duration::from_millis(world.plan.patience_ms),
        };
        let before = unfinished.filter(|_| rest).and_then(|m| m.stats);
        self.write(drafter, link, request, message.id, before).await
    }

    /// Writes an answer as it comes, and its end.
    async fn write(
        &self,
        drafter: &Drafter,
        link: &Link,
        request: Request,
        message: i64,
        before: Option<tandem_device::store::Stats>,
    ) -> Result<(), String> {
        let (world, store) = (self.world, self.store);
        let mut oracle = Oracle::new(&world.models, &request);
        if let Some(belief) = world.plan.belief {
            believe(link, belief);
        }
        let (events, mut inbox) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let (drafter, link, stop) = (drafter.clone(), link.clone(), cancel.clone());
        let work = tokio::spawn(async move {
            generate(&drafter, Some(&link), &request, &stop, |event| {
                let _ = events.send(event);
            })
            .await
        });
        let mut failed: Option<StoreError> = None;
        while let Some(event) = inbox.recv().await {
            let Event::Round { mut record, tokens, text, mut totals } = event else { continue };
            oracle.check(&record, &tokens).map_err(|e| format!("wrong tokens: {e}"))?;
            world.tokens.fetch_add(tokens.len() as u64, Ordering::Relaxed);
            if failed.is_some() {
                continue;
            }
            if let Some(before) = &before {
                record.round += before.rounds as u32;
                totals.tokens += before.tokens;
            }
            if self.step().await? {
                cancel.cancel();
            }
            world.ledger().pending = Pending::Round(tokens.clone(), text.clone());
            match store.add_round(message, &record, &text, &totals).await {
                Ok(()) => {
                    let mut ledger = world.ledger();
                    ledger.pending = Pending::Nothing;
                    let Some(said) = ledger.said.last_mut() else {
                        return Err("a round of nothing was stored".into());
                    };
                    said.rounds.push(tokens);
                    said.text.push_str(&text);
                }
                Err(e) => {
                    self.may_fail(&e)?;
                    world.ledger().pending = Pending::Nothing;
                    failed = Some(e);
                    cancel.cancel();
                    continue;
                }
            }
            world.check(self.path).await?;
            if self.step().await? {
                cancel.cancel();
            }
        }
        let answer = work.await.map_err(|e| format!("the device's loop ended: {e}"))?;
        let end = match (&answer, &failed) {
            (_, Some(e)) => (Status::Failed, None, "", Some(e.to_string())),
            (Ok(answer), None) => {
                let stopped = answer.finish == Finish::Cancelled;
                if !stopped {
                    oracle.check_end(&answer.tokens).map_err(|e| format!("lost tokens: {e}"))?;
                }
                let status = if stopped { Status::Stopped } else { Status::Done };
                (status, Some(answer.finish), "", None)
            }
            (Err(e), None) => {
                // Only an edge that stays away for longer than the user waits ends an answer so.
                let away = matches!(e, GenerateError::EdgeLost(_));
                if !(away && world.plan.patience_ms < 1000) {
                    return Err(format!("an answer failed: {e}"));
                }
                (Status::Failed, None, "", Some(e.to_string()))
            }
        };
        self.step().await?;
        world.ledger().pending = Pending::Finish(end.2.to_owned());
        let ended = store.finish(message, end.0, end.1, end.2, end.3.as_deref()).await;
        if self.allowed(ended)?.is_some() {
            world.check(self.path).await?;
            self.step().await?;
        }
        Ok(())
    }

    async fn step(&self) -> Result<bool, String> {
        self.world.step(self.store, self.path).await
    }

    /// What the store gave; `None` if it failed and may.
    fn allowed<T>(&self, result: Result<T, StoreError>) -> Result<Option<T>, String> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) => {
                self.may_fail(&e)?;
                self.world.ledger().pending = Pending::Nothing;
                Ok(None)
            }
        }
    }

    fn may_fail(&self, e: &StoreError) -> Result<(), String> {
        let known = matches!(e, StoreError::Full)
            || matches!(e, StoreError::Database(e) if e.to_string().contains("locked"));
        if known && self.world.store_may_fail.load(Ordering::Relaxed) {
            self.world.tally.count("write refused by the database");
            Ok(())
        } else {
            Err(format!("the store failed without a cause: {e}"))
        }
    }
}
