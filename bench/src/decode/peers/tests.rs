//! Peers over an emulated link: with made models, where a step takes microseconds, and with the real
//! pair.

use super::super::ways::{Ready, Way};
use super::*;
use std::path::PathBuf;
use std::time::Duration;
use tandem_inference::store::Store;
use tandem_inference::{ChatMessage, DeviceChoice, LoadOptions, Role};
use tandem_speculation::{Purpose, Randomness, gumbel_draw, process};

#[allow(clippy::expect_used, reason = "shared with the tests of faults")]
#[path = "../../../../tests/tests/faults/model.rs"]
mod model;

const PEERS: [Peer; 4] = [Peer::Dsd, Peer::Full, Peer::Greedy, Peer::Gumbel];
const WARM: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
const FAST: Net = Net { rtt_ms: 0.0, mbit: 1e5, jitter_ms: 0.0, loss: 0.0 };
const GAMMA: usize = 4;

fn load(file: &std::path::Path) -> Arc<Model> {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    Arc::new(Model::load(file, &options).unwrap())
}

/// The verifier, and a drafter that is often wrong.
fn pair() -> (Models, PathBuf) {
    let [verifier, far, _] = model::write();
    (Models { drafter: load(&far), verifier: load(&verifier) }, far)
}

fn ask(model: &Model, sampling: Sampling, seed: u64, max_tokens: usize) -> Ask {
    let message = ChatMessage { role: Role::User, content: "What is 17 * 23?".into() };
    let prompt = model.tokenizer().encode_chat(&[message]).unwrap();
    Ask { prompt, sampling, seed, max_tokens }
}

fn text(rounds: &[Round]) -> Vec<TokenId> {
    rounds.iter().flat_map(|r| r.tokens.clone()).collect()
}

/// Every scheme that is measured writes the text of the product's edge at temperature 0.
async fn all_write_the_same(models: Models, drafter: PathBuf, tokens: usize, net: Net) {
    let ask = ask(&models.verifier, Sampling::GREEDY, 1, tokens);
    let ready = Ready::start(&drafter, models).await.unwrap();
    let write = async |way: Way| {
        let rounds = ready.answers(way, net, std::slice::from_ref(&ask)).await.unwrap();
        (text(&rounds[0]), rounds[0].iter().filter(|r| r.accepted < r.drafted).count())
    };
    let (alone, _) = write((Scheme::Stream, None)).await;
    assert!(alone.len() > tokens / 2, "{alone:?}");
    let mut rejected = 0;
    for scheme in Scheme::ALL {
        let gamma = match scheme {
            Scheme::Stream | Scheme::Device | Scheme::AutoBox => continue,
            Scheme::Colocated | Scheme::Auto => None,
            _ => Some(GAMMA),
        };
        let (text, wrong) = write((scheme, gamma)).await;
        assert_eq!(text, alone, "{scheme:?}");
        rejected += if Peer::of(scheme).is_some() { wrong } else { 0 };
    }
    assert!(rejected >= 4, "{rejected} drafts of peers were rejected");
    ready.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_texts_are_the_edges_own() {
    let (models, far) = pair();
    all_write_the_same(models, far, 60, FAST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_texts_are_the_edges_own_with_the_real_pair() {
    let store = Store::open_default().unwrap();
    let [drafter, verifier] = ["0.5b", "1.5b"]
        .map(|size| format!("qwen2.5-coder-{size}-instruct-q4_k_m"))
        .map(|name| store.resolve(&name).expect("the model; `npm test` downloads it"));
    let models = Models { drafter: load(&drafter), verifier: load(&verifier) };
    all_write_the_same(models, drafter, 20, Net { rtt_ms: 4.0, mbit: 1000.0, ..FAST }).await;
}

/// With shared noise, and where drafts are compared with draws, the text is what the verifier alone
/// draws, whatever was drafted: so every row, place and random number is the right one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compared_drafts_give_the_verifiers_own_draws() {
    let (models, _) = pair();
    for (peer, seed) in [Peer::Greedy, Peer::Gumbel].into_iter().flat_map(|p| [(p, 3), (p, 4)]) {
        let ask = ask(&models.verifier, WARM, seed, 40);
        let random = Randomness::new(seed);
        let mut alone = ask.prompt.clone();
        let mut read = Sequence::begin(&models.verifier, &alone, 40).unwrap();
        while alone.len() < ask.prompt.len() + 40 {
            let mut logits = read.read(&alone[read.len()..], Wanted::Last).unwrap();
            let p = process(logits.row_mut(0), &WARM, &alone).unwrap();
            let at = alone.len() as u32;
            let u = random.uniform(Purpose::Correct, at, 0);
            let gumbel = peer == Peer::Gumbel;
            alone.push(if gumbel { gumbel_draw(&p, &random, at) } else { p.sample(u) });
            if models.verifier.tokenizer().is_end(alone[alone.len() - 1]) {
                break;
            }
        }
        let rounds = answer(&models, FAST, peer, &ask, GAMMA).await.unwrap();
        assert_eq!(text(&rounds), alone[ask.prompt.len()..], "{peer:?}, seed {seed}");
        assert!(rounds.iter().any(|r| r.accepted < r.drafted), "{peer:?} rejected nothing");
    }
}

/// One model on both sides: with its own `q` before it the edge has nothing to reject.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drafts_of_the_verifier_itself_are_all_accepted() {
    let (models, _) = pair();
    let same = Models { drafter: Arc::clone(&models.verifier), ..models };
    for peer in [Peer::Dsd, Peer::Full, Peer::Gumbel] {
        for seed in 0..5 {
            let ask = ask(&same.verifier, WARM, seed, 30);
            let rounds = answer(&same, FAST, peer, &ask, GAMMA).await.unwrap();
            assert!(rounds.iter().all(|r| r.accepted == r.drafted), "{peer:?}, seed {seed}");
        }
    }
}

/// The first token of many seeds is distributed as the verifier's: accepted or from the residual.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampled_texts_are_distributed_as_the_verifiers() {
    const SEEDS: u64 = 3000;
    let (models, _) = pair();
    let asked = ask(&models.verifier, WARM, 0, 2);
    let mut read = Sequence::begin(&models.verifier, &asked.prompt, 1).unwrap();
    let mut logits = read.read(&asked.prompt[read.len()..], Wanted::Last).unwrap();
    let p = process(logits.row_mut(0), &WARM, &asked.prompt).unwrap();
    for peer in [Peer::Dsd, Peer::Full] {
        let mut counts = vec![0.0; models.verifier.info().vocab];
        let mut rejected = 0;
        for seed in 0..SEEDS {
            let ask = Ask { seed, ..asked.clone() };
            let rounds = answer(&models, FAST, peer, &ask, 1).await.unwrap();
            counts[rounds[0].tokens[0].index()] += 1.0;
            rejected += usize::from(rounds[0].accepted < rounds[0].drafted);
        }
        // Pearson's chi-square; what is rare is put together.
        let (mut rare, mut chi, mut cells) = ((0.0, 0.0), 0.0, 0.0);
        for (id, count) in counts.iter().enumerate() {
            let expected = f64::from(p.probability(TokenId(id as u32))) * SEEDS as f64;
            if expected < 5.0 {
                rare = (rare.0 + count, rare.1 + expected);
            } else {
                chi += (count - expected) * (count - expected) / expected;
                cells += 1.0;
            }
        }
        chi += (rare.0 - rare.1) * (rare.0 - rare.1) / f64::max(rare.1, 1.0);
        let deviation = (chi - cells) / f64::sqrt(2.0 * cells);
        eprintln!("{peer:?}: {rejected} of {SEEDS} rejected, chi-square {chi:.1} of {cells} cells");
        assert!(rejected as u64 > SEEDS / 20 && cells > 5.0, "{rejected} rejected, {cells} cells");
        assert!(deviation < 4.0, "{peer:?}: chi-square {chi:.1} with {cells} cells");
    }
}

/// Every byte of a whole vector crosses the link, and takes its time there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_what_the_scheme_says_and_take_their_time() {
    let (models, _) = pair();
    let vocab = models.verifier.info().vocab;
    let net = Net { mbit: 2.0, ..FAST };
    for (sampling, peer) in [Sampling::GREEDY, WARM].into_iter().flat_map(|s| PEERS.map(|p| (s, p)))
    {
        let ask = ask(&models.verifier, sampling, 1, 30);
        let rounds = answer(&models, net, peer, &ask, GAMMA).await.unwrap();
        let mut counted = [0, 0];
        for r in &rounds {
            let each = match peer {
                Peer::Dsd => 4 + 4 * vocab,
                Peer::Full => 4 + 4,
                Peer::Greedy | Peer::Gumbel => 4,
            };
            let whole = peer == Peer::Full && r.accepted < r.drafted;
            assert_eq!(r.up, 8 + r.drafted * each, "{peer:?}: {r:?}");
            assert_eq!(r.down, 4 + if whole { 4 * vocab } else { 4 }, "{peer:?}: {r:?}");
            counted[usize::from(whole)] += 1;
        }
        assert!(peer != Peer::Full || counted.iter().all(|n| *n > 0), "{counted:?}");
        let later = &rounds[1..];
        let bytes: usize = later.iter().map(|r| r.up + r.down).sum();
        let took = later.last().unwrap().at - rounds[0].at;
        let least = Duration::from_secs_f64(bytes as f64 * 8.0 / (net.mbit * 1e6));
        assert!(took >= least, "{peer:?}: {took:?} for {bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_that_fails_ends_the_other() {
    let (models, _) = pair();
    let ask = ask(&models.verifier, Sampling { temperature: f32::NAN, ..WARM }, 1, 8);
    let short = Ask { prompt: Vec::new(), ..ask };
    for peer in PEERS {
        let failed = tokio::time::timeout(
            Duration::from_secs(20),
            answer(&models, FAST, peer, &short, GAMMA),
        );
        assert!(failed.await.unwrap().unwrap_err().to_string().contains("prompt is empty"));
    }
}
