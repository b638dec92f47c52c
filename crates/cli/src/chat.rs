//! `tandem chat`.

use crate::{input, numbers};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tandem_device::store::{Conversation, Status, Store, default_path};
use tandem_device::{
    Ahead, Answer, Boxes, Drafter, EdgeAddress, Event, Finish, Gamma, Link, Mode, Request,
    RoundRecord, Totals, WhenEdgeLost, Writer, generate, new_seed,
};
use tandem_inference::{ChatMessage, DeviceChoice, LoadOptions, Role, store::Store as ModelStore};
use tandem_protocol::CertificateId;
use tandem_speculation::{Sampling, TokenId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a first connection is waited for.
const FIRST_CONNECTION: Duration = Duration::from_secs(3);
/// Said of an edge whose verifier is not batch-invariant.
const APPROXIMATE: &str = "approximate: this edge's GPU rounds differently with the length of a draft, so drafts \
    change the text a little; `--mode edge` does without them";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A paired box by name, as `tandem boxes list` shows it.
    #[arg(long = "box", value_name = "NAME")]
    use_box: Option<String>,
    /// An edge by address: ws:// on this machine; wss:// with --token and --fingerprint elsewhere.
    #[arg(long, value_name = "URL", env = "TANDEM_EDGE", conflicts_with = "use_box")]
    edge: Option<EdgeAddress>,
    /// SHA-256 of the certificate that the edge must show, for an edge that is not paired.
    #[arg(long, value_name = "HEX", requires = "edge")]
    fingerprint: Option<CertificateId>,
    /// Let ws:// leave this machine. Whoever is on the way reads and changes everything.
    #[arg(long)]
    insecure_plain: bool,
    /// The edge's token.
    #[arg(long, value_name = "T", env = "TANDEM_EDGE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The small model: a GGUF file, or the name of a downloaded model.
    #[arg(long, value_name = "FILE", default_value = "qwen2.5-coder-0.5b-instruct-q4_k_m")]
    drafter: String,
    /// One question; without it a conversation begins.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Instructions for the whole conversation.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Tokens of an answer at most; the context is a limit anyway.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = numbers::count)]
    max_tokens: usize,
    /// 0 always takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.7, allow_hyphen_values = true)]
    temperature: f32,
    /// Only the K likeliest tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 20, value_parser = numbers::top_k)]
    top_k: u32,
    /// Only the likeliest tokens that together have this probability; 0 for the likeliest one.
    #[arg(long, value_name = "P", default_value_t = 0.8, allow_hyphen_values = true)]
    top_p: f32,
    /// Draws the same tokens again where mode and draft length are fixed. Any number of 64 bits.
    #[arg(long, value_name = "S", allow_hyphen_values = true, value_parser = numbers::seed)]
    seed: Option<u64>,
    /// auto, dssd, edge or device.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    mode: Mode,
    /// Draft length: a number from 1 to 32, or auto.
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    gamma: Gamma,
    /// Go on drafting while verdicts are on their way: yes or no. Helps over slow links.
    #[arg(long, value_name = "YES|NO", default_value = "no")]
    ahead: Ahead,
    /// When the edge stays away: `stop`, or `continue` with the small model alone.
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    when_edge_lost: WhenEdgeLost,
    /// How many seconds a lost edge is waited for.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = numbers::seconds)]
    patience: u64,
    /// Print one JSON object instead of the text.
    #[arg(long, requires = "prompt")]
    json: bool,
    /// The database; the usual one when absent.
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// Tokens of a conversation at most.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = numbers::count)]
    context: usize,
    /// Compute threads of the drafter; as many as the machine has when absent.
    #[arg(long, value_name = "N", value_parser = numbers::threads)]
    threads: Option<usize>,
    /// What computes the drafter: auto (a GPU if this build supports one and it is there), cpu or gpu.
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    device: DeviceChoice,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    text: &'a str,
    tokens: &'a [TokenId],
    finish: Finish,
    mode: &'static str,
    rounds: &'a [RoundRecord],
    totals: &'a Totals,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let code = runtime.block_on(chat(args));
    // A blocked read of standard input must not keep the process.
    runtime.shutdown_background();
    code
}

struct Session {
    args: Args,
    sampling: Sampling,
    drafter: Drafter,
    link: Option<Link>,
    store: Store,
    conversation: Conversation,
    messages: Vec<ChatMessage>,
}

async fn chat(args: Args) -> Result<ExitCode> {
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        ..Sampling::default()
    };
    let sampling = numbers::without_zero(sampling);
    sampling.validate()?;
    if args.prompt.as_ref().is_some_and(|p| input::plain(p).trim().is_empty()) {
        bail!("--prompt is empty: there is nothing to answer");
    }
    let no_edge = args.edge.is_none() && args.use_box.is_none();
    if no_edge && matches!(args.mode, Mode::Dssd | Mode::Edge) {
        bail!("--mode {} needs an edge: --box NAME or --edge URL", args.mode.as_str());
    }
    let path = match ModelStore::open_default()?.resolve(&args.drafter) {
        Ok(path) => path,
        Err(error) => bail!(error),
    };
    let database = args.db.clone().unwrap_or_else(default_path);
    let store = Store::open(&database).await?;
    let address = edge_of(&args, &store, &database).await?;
    let options =
        LoadOptions { threads: args.threads, device: args.device, ..LoadOptions::default() };
    let drafter = Drafter::load(path, options, args.context)
        .await
        .with_context(|| format!("cannot use the drafter {}", args.drafter))?;
    let link = address
        .filter(|_| args.mode != Mode::Device)
        .map(|address| Link::start(address, drafter.hello()));
    if let Some(link) = &link {
        match link.connected(FIRST_CONNECTION).await {
            Ok((welcome, _)) => {
                eprintln!("{} at {}", welcome.model, link.address());
                if !welcome.batch_invariant {
                    eprintln!("{APPROXIMATE}");
                }
            }
            Err(problem) if args.when_edge_lost == WhenEdgeLost::Stop => bail!(problem),
            Err(problem) => eprintln!("{problem}"),
        }
    }
    let title = input::plain(args.prompt.as_deref().unwrap_or("Terminal"));
    let title: String = title.chars().take(60).collect();
    let conversation = store.create_conversation(&title).await?;
    let system = args.system.iter().map(|text| said(Role::System, input::plain(text)));
    let messages = system.collect();
    let mut session = Session { args, sampling, drafter, link, store, conversation, messages };
    let code = match session.args.prompt.clone() {
        Some(prompt) => exit(session.answer(input::plain(&prompt)).await?),
        None => session.converse().await?,
    };
    session.store.close().await;
    Ok(code)
}

/// Where the arguments lead.
async fn edge_of(args: &Args, store: &Store, database: &Path) -> Result<Option<EdgeAddress>> {
    if let Some(name) = &args.use_box {
        let boxes = Boxes::new(store.clone(), database);
        let row = boxes.named(name).await?;
        store.box_used(row.id, None).await?;
        return Ok(Some(boxes.address(&row).await?));
    }
    Ok(args.edge.clone().map(|edge| {
        let edge = match args.fingerprint {
            Some(certificate) => edge.pinned(certificate),
            None if args.insecure_plain => edge.insecure_plain(),
            None => edge,
        };
        edge.with_token(args.token.clone())
    }))
}

fn said(role: Role, content: &str) -> ChatMessage {
    ChatMessage { role, content: content.to_owned() }
}

fn exit(finish: Finish) -> ExitCode {
    // As a shell reports a program that Ctrl-C ended.
    if finish == Finish::Cancelled { ExitCode::from(130) } else { ExitCode::SUCCESS }
}

impl Session {
    /// Questions from standard input until it ends. Ctrl-C stops an answer, or leaves.
    async fn converse(&mut self) -> Result<ExitCode> {
        let (sender, mut lines) = mpsc::channel(1);
        std::thread::spawn(move || {
            for line in input::Lines::new(std::io::stdin().lock()) {
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        });
        let terminal = std::io::stdin().is_terminal();
        if terminal {
            eprintln!("Ask something. Ctrl-C stops an answer, Ctrl-D leaves.");
        }
        loop {
            if terminal {
                eprint!("\n> ");
            }
            let line = tokio::select! {
                line = lines.recv() => line,
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
            };
            let answered = match line {
                None => return Ok(ExitCode::SUCCESS),
                Some(Ok(line)) if line.trim().is_empty() => continue,
                Some(Ok(line)) => self.answer(&line).await,
                Some(Err(problem)) => Err(problem.into()),
            };
            if let Err(error) = answered {
                eprintln!("error: {error:#}");
                if !terminal {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    }

    /// Answers one question, on standard output and in the database.
    async fn answer(&mut self, prompt: &str) -> Result<Finish> {
        self.messages.push(said(Role::User, prompt));
        let tokenizer = self.drafter.tokenizer();
        let request = Request {
            session: self.store.session(self.conversation.id).await?,
            prompt: tokenizer.encode_chat(&self.messages)?,
            begun: 0,
            sampling: self.sampling,
            seed: self.args.seed.unwrap_or_else(new_seed),
            mode: self.args.mode,
            gamma: self.args.gamma,
            ahead: self.args.ahead,
            max_tokens: self.args.max_tokens,
            when_edge_lost: self.args.when_edge_lost,
            patience: Duration::from_secs(self.args.patience),
        };
        let (_, message) = self.store.ask(self.conversation.id, prompt).await?;
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let watch = tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.cancel();
            }
        });
        let (events, mut inbox) = mpsc::unbounded_channel();
        let (drafter, link) = (self.drafter.clone(), self.link.clone());
        let work = tokio::spawn(async move {
            generate(&drafter, link.as_ref(), &request, &cancel, |event| {
                let _ = events.send(event);
            })
            .await
        });
        let (mut text, mut rounds) = (String::new(), Vec::new());
        while let Some(event) = inbox.recv().await {
            match event {
                Event::Round { mut record, text: piece, totals, .. } => {
                    record.message = message.id;
                    self.print(&piece)?;
                    self.store.add_round(message.id, &record, &piece, &totals).await?;
                    text.push_str(&piece);
                    rounds.push(record);
                }
                Event::Notice { text, .. } => eprintln!("note: {text}"),
                Event::Prefill { .. } => {}
            }
        }
        watch.abort();
        let answer = match work.await? {
            Ok(answer) => answer,
            Err(error) => {
                let problem = error.to_string();
                self.store.finish(message.id, Status::Failed, None, "", Some(&problem)).await?;
                if !text.is_empty() {
                    self.print("\n")?;
                }
                self.messages.pop();
                return Err(error.into());
            }
        };
        let cancelled = answer.finish == Finish::Cancelled;
        let status = if cancelled { Status::Stopped } else { Status::Done };
        self.store.finish(message.id, status, Some(answer.finish), "", None).await?;
        self.report(&answer, &text, &rounds)?;
        self.messages.push(said(Role::Assistant, &text));
        Ok(answer.finish)
    }

    #[allow(clippy::print_stdout)]
    fn print(&self, text: &str) -> Result<()> {
        if !self.args.json {
            print!("{text}");
            std::io::stdout().flush()?;
        }
        Ok(())
    }

    #[allow(clippy::print_stdout)]
    fn report(&self, answer: &Answer, text: &str, rounds: &[RoundRecord]) -> Result<()> {
        let totals = &answer.totals;
        if self.args.json {
            let output = Output {
                text,
                tokens: &answer.tokens,
                finish: answer.finish,
                mode: totals.writer().map_or(self.args.mode.as_str(), Writer::as_str),
                rounds,
                totals,
            };
            println!("{}", serde_json::to_string(&output)?);
        } else if !text.ends_with('\n') {
            println!();
        }
        let mut parts = vec![format!("{} tokens", totals.tokens)];
        parts.extend(totals.tokens_per_s.map(|v| format!("{v:.1} tokens/s")));
        parts.extend(totals.ttft_ms.map(|v| format!("first after {v:.0} ms")));
        let acceptance = totals.acceptance();
        parts.extend(acceptance.map(|a| format!("acceptance {:.0} %", a * 100.0)));
        parts.push(format!("{} B up, {} B down", totals.uplink_bytes, totals.downlink_bytes));
        parts.extend(totals.writer().map(|w| format!("mode {}", w.as_str())));
        eprintln!("{}", parts.join(" · "));
        Ok(())
    }
}
