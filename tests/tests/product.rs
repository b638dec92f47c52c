//! The product's own settings (auto, draft length by itself, temperature 0.7, top-k 20, top-p 0.8)
//! through the product's own loop, sockets and edge: is the text distributed as the verifier alone would
//! have it? The models are made and say six tokens, so that whole texts can be counted; what is expected
//! is computed from the verifier's logits beside the edge. Wrong corrections must be noticed.

#![allow(clippy::print_stdout, reason = "a test")]

// Each of these has helpers for other tests too.
#[allow(dead_code)]
#[path = "../../crates/speculation/tests/rounds/statistics.rs"]
mod by;
#[allow(dead_code)]
#[path = "faults/model.rs"]
mod model;
#[allow(dead_code)]
mod raw;

use by::chi_square;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use tandem_device::{Drafter, Gamma, Link, Mode, Request, RoundRecord};
use tandem_edge::{Config, Edge};
use tandem_inference::{DeviceChoice, LoadOptions, Model, Segment, Wanted};
use tandem_speculation::{Distribution, Purpose, Randomness, Sampling, TokenId, process};
use tandem_tests::{Belief, answer, believe, config, link, request};

/// Tokens of an answer at most, and of the beginnings that are counted.
const LONGEST: usize = 12;
const COUNTED: usize = 3;
/// Answers of each test: what chance exceeds once in 30,000 times, and what it never reaches.
const ANSWERS: u64 = 3000;
const AGREES: f64 = 4.0;
const DIFFERS: f64 = 8.0;

fn load(path: &Path) -> Arc<Model> {
    load_on(path, DeviceChoice::Cpu)
}

fn load_on(path: &Path, device: DeviceChoice) -> Arc<Model> {
    let options = LoadOptions { threads: Some(1), device, ..LoadOptions::default() };
    Arc::new(Model::load(path, &options).expect("a made model"))
}

/// What a model says next, computed once for each text.
struct Exact {
    model: Arc<Model>,
    known: HashMap<Vec<TokenId>, Distribution>,
}

impl Exact {
    fn after(&mut self, prompt: &[TokenId], answer: &[TokenId]) -> &Distribution {
        self.known.entry(answer.to_vec()).or_insert_with(|| {
            let text = [prompt, answer].concat();
            let mut cache = self.model.new_cache(text.len()).expect("a cache");
            let logits = Wanted::Last;
            let mut segments = [Segment { cache: &mut cache, tokens: &text, logits }];
            let mut logits = self.model.forward(&mut segments).expect("logits");
            process(logits.row_mut(0), &Sampling::default(), &text).expect("a distribution")
        })
    }
}

/// Both models beside the product, and a prompt.
struct World {
    p: Exact,
    q: Exact,
    prompt: Vec<TokenId>,
    edge: Edge,
    drafter: Drafter,
}

impl World {
    async fn new() -> Self {
        let files = model::write_few();
        let exact = |n: usize| Exact { model: load(&files[n]), known: HashMap::new() };
        let (p, q) = (exact(0), exact(1));
        // Every few letters have occurred before, so that drafts can be looked up.
        let random = Randomness::new(5);
        let letter =
            |i| char::from(b"abcde"[(random.uniform(Purpose::Draft, i, 0) * 5.0) as usize]);
        let text: String = (0..160).map(letter).collect();
        let prompt = p.model.tokenizer().encode(&text, false).expect("ids");
        let usual = config(([127, 0, 0, 1], 0).into());
        let config = Config { drafter: Some(load(&files[2])), ..usual };
        let edge = Edge::start(load(&files[0]), config).await.expect("an edge");
        let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
        let drafter = Drafter::load(files[1].clone(), options, 512).await.expect("a drafter");
        Self { p, q, prompt, edge, drafter }
    }

    fn request(&self) -> Request {
        Request {
            prompt: self.prompt.clone(),
            sampling: Sampling::default(),
            gamma: Gamma::Auto,
            max_tokens: LONGEST,
            ..request(&self.drafter, "", Mode::Auto, 1)
        }
    }

    fn is_end(&self, token: TokenId) -> bool {
        self.p.model.tokenizer().is_end(token)
    }

    /// Every beginning of [`COUNTED`] tokens, or whole shorter text, with its probability.
    fn beginnings(&mut self) -> (Vec<Vec<TokenId>>, Vec<f64>) {
        let (mut open, mut done) = (vec![(Vec::new(), 1.0)], Vec::new());
        while let Some((text, mass)) = open.pop() {
            let ended = text.last().is_some_and(|t| self.is_end(*t));
            if ended || text.len() == COUNTED {
                done.push((text, mass));
                continue;
            }
            for (id, p) in self.p.after(&self.prompt, &text).support() {
                open.push(([text.as_slice(), &[id]].concat(), mass * f64::from(p)));
            }
        }
        done.into_iter().unzip()
    }

    /// How far answers are from the verifier's, in standard deviations: their beginnings by chi-square;
    /// and all tokens, each given those before it, by what tells a drafter from a verifier.
    fn distances(&mut self, answers: &[Vec<TokenId>]) -> (f64, f64) {
        let (texts, masses) = self.beginnings();
        let mut counts = vec![0; texts.len() + 1];
        let place: HashMap<&[TokenId], usize> =
            texts.iter().enumerate().map(|(i, t)| (t.as_slice(), i)).collect();
        for answer in answers {
            let text = &answer[..answer.len().min(COUNTED)];
            counts[*place.get(text).unwrap_or(&texts.len())] += 1;
        }
        let masses: Vec<f64> = masses.into_iter().chain([0.0]).collect();
        let (mut sum, mut variance) = (0.0, 0.0);
        for answer in answers {
            for i in 0..answer.len() {
                let p = self.p.after(&self.prompt, &answer[..i]).clone();
                let q = self.q.after(&self.prompt, &answer[..i]);
                // Near 1 where the drafter likes a token more than the verifier does.
                let likes = |id, p: f32| {
                    let q = q.probability(id);
                    f64::from(q / (p + q))
                };
                let mean: f64 = p.support().map(|(id, p)| f64::from(p) * likes(id, p)).sum();
                let square: f64 =
                    p.support().map(|(id, p)| f64::from(p) * likes(id, p).powi(2)).sum();
                sum += likes(answer[i], p.probability(answer[i])) - mean;
                variance += square - mean * mean;
            }
        }
        (chi_square(&counts, &masses), sum / f64::sqrt(variance))
    }
}

/// What came of some answers.
#[derive(Default)]
struct Written {
    answers: Vec<Vec<TokenId>>,
    /// Rounds by who wrote and how, and rounds with something in them.
    rounds: BTreeMap<String, u64>,
}

impl Written {
    fn count(&mut self, record: &RoundRecord) {
        let mut add = |what: String| *self.rounds.entry(what).or_default() += 1;
        add(format!("{} {}", record.mode, record.scheme));
        add(record.outcome.to_owned());
        if record.alternatives > 0 {
            add("alternatives".into());
        }
        if record.followed > 0 {
            add("followed".into());
        }
        if record.decision.is_some() {
            add("decisions".into());
        }
    }
}

/// Answers of the product's own loop. `steer` says what the planner is made to believe before a round of
/// an answer: by numbers that no token has a part in.
async fn write(
    drafter: &Drafter,
    link: &Link,
    mut wanted: Request,
    seeds: std::ops::Range<u64>,
    steer: impl Fn(u64, u32) -> Option<Belief>,
) -> Written {
    let mut all = Written::default();
    for seed in seeds {
        wanted.seed = seed;
        if let Some(belief) = steer(seed, 0) {
            believe(link, belief);
        }
        let (written, rounds, _) = answer(drafter, Some(link), &wanted, |record| {
            if let Some(belief) = steer(seed, record.round + 1) {
                believe(link, belief);
            }
        })
        .await
        .expect("an answer");
        rounds.iter().for_each(|record| all.count(record));
        all.answers.push(written.tokens);
    }
    all
}

#[test]
fn a_belief_leads_to_its_way() {
    for belief in Belief::ALL {
        assert_eq!(belief.planner().way(), belief.way(), "{belief:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_products_own_settings_write_the_verifiers_text() {
    let mut world = World::new().await;
    let wanted = world.request();
    let links = [0, 1].map(|_| link(&world.drafter, world.edge.address()));
    let other = Request { session: tandem_device::new_session(), ..world.request() };
    // Two at once, so that the edge's batches are ragged. One is left to what is measured, the other is
    // led from way to way in the middle of answers.
    let free = write(&world.drafter, &links[0], wanted, 0..ANSWERS, |_, _| None);
    let led = write(&world.drafter, &links[1], other, ANSWERS..2 * ANSWERS, |seed, round| {
        Some(Belief::ALL[((seed + u64::from(round) / 2) % 5) as usize])
    });
    let (free, led) = tokio::join!(free, led);
    for (name, written) in [("free", free), ("led", led)] {
        let (texts, tokens) = world.distances(&written.answers);
        println!("{name}: texts {texts:.1} σ, tokens {tokens:.1} σ, {:?}", written.rounds);
        assert!(texts < AGREES, "{name}: texts are {texts} standard deviations off");
        assert!(tokens.abs() < AGREES, "{name}: tokens are {tokens} standard deviations off");
        if name == "led" {
            for part in [
                "edge stream",
                "edge colocated",
                "dssd dssd",
                "dssd lookup",
                "dssd ahead",
                "alternatives",
                "followed",
                "decisions",
                "bonus",
                "sparse",
                "continue",
            ] {
                let n = written.rounds.get(part).copied().unwrap_or(0);
                assert!(n >= 20, "{part}: {n} rounds only, {:?}", written.rounds);
            }
        }
    }

    // Corrections from p and not from the residual would be noticed, by as many texts.
    let (p, q) =
        (world.p.after(&world.prompt, &[]).clone(), world.q.after(&world.prompt, &[]).clone());
    let both: f64 = p.support().map(|(id, p)| f64::from(p.min(q.probability(id)))).sum();
    let ids: Vec<TokenId> = p.support().map(|e| e.0).collect();
    let masses: Vec<f64> = p.support().map(|e| f64::from(e.1)).collect();
    let random = Randomness::new(1);
    let mut counts = vec![0; ids.len()];
    for n in 0..ANSWERS as u32 {
        let mut left = random.uniform(Purpose::Draft, n, 0);
        let wrong = p.support().position(|(id, p)| {
            left -= f64::from(p.min(q.probability(id))) + (1.0 - both) * f64::from(p);
            left < 0.0
        });
        counts[wrong.unwrap_or(ids.len() - 1)] += 1;
    }
    let far = chi_square(&counts, &masses);
    println!("distance of the models {:.2}; no residual: {far:.1} σ", 1.0 - both);
    assert!(far > DIFFERS, "corrections from p would pass: {far} standard deviations");
    world.edge.stop().await;
}

/// A verifier whose rows depend on the rows beside them is one only nearly, and the device hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_is_not_batch_invariant_says_so() {
    let files = model::write_few();
    let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let drafter = Drafter::load(files[1].clone(), options, 512).await.expect("a drafter");
    for (device, invariant) in [(DeviceChoice::Cpu, true), (DeviceChoice::Reference, false)] {
        let model = load_on(&files[0], device);
        assert_eq!(model.info().batch_invariant, invariant);
        let edge = tandem_tests::edge(&model, 0).await;
        let link = link(&drafter, edge.address());
        let (welcome, _) =
            link.connected(std::time::Duration::from_secs(20)).await.expect("an edge");
        assert_eq!(welcome.batch_invariant, invariant, "{device:?}");
        let health = raw::get(edge.address(), "/healthz").await;
        assert!(health.contains(&format!("\"batch_invariant\":{invariant}")), "{health}");
        edge.stop().await;
    }
}
