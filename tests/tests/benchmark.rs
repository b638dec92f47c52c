//! The benchmark with the real pair: every way is measured, split text is the edge's own, and a
//! cancelled one ends soon.

use std::time::{Duration, Instant};
use tandem_device::policy::{Advice, Reason};
use tandem_device::{BenchmarkError, Plan, benchmark};
use tandem_tests::{DRAFTER, VERIFIER, drafter, edge, link, model};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measures_every_way_and_can_be_cancelled() {
    let verifier = model(VERIFIER);
    let drafter = drafter(DRAFTER).await;
    let edge = edge(&verifier, 0).await;
    let link = link(&drafter, edge.address());
    let plan = Plan { prompts: 1, max_tokens: 16 };
    let (mut steps, go) = (Vec::new(), CancellationToken::new());
    let result = benchmark(&drafter, Some(&link), plan, &go, |p| steps.push(p)).await;
    let result = result.expect("a result");
    let ways = result.ways();
    let kinds: Vec<_> = ways.iter().map(|w| (w.mode.as_str(), w.gamma)).collect();
    let lengths = [Some(2), Some(4), Some(8), None].map(|g| ("dssd", g));
    assert_eq!(kinds, [&[("edge", None)][..], &lengths, &[("device", None)]].concat());
    assert_eq!(steps.iter().map(|s| s.done).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    for (way, run) in ways.iter().zip(&result.runs) {
        assert!(way.tokens_per_s.is_some_and(|s| s > 0.0), "{way:?}");
        assert!(run.tokens > 1 && run.tokens <= 16 && run.later_tokens < run.tokens, "{run:?}");
        assert_eq!(way.same, (way.mode == "dssd").then_some(true), "{way:?}");
        assert_eq!(way.acceptance.is_some(), way.mode == "dssd", "{way:?}");
        assert_eq!(run.bytes > 0, way.mode != "device", "{run:?}");
    }
    let best = &ways[result.recommended().expect("a way")];
    assert_ne!(best.mode, "device");
    assert_eq!((result.pair.edge.as_str(), result.pair.verifier.as_str()), ("local", VERIFIER));

    let (stop, start) = (CancellationToken::new(), Instant::now());
    let ended = benchmark(&drafter, Some(&link), Plan::FULL, &stop, |p| {
        if p.done == 1 {
            stop.cancel();
        }
    })
    .await;
    assert!(matches!(ended, Err(BenchmarkError::Cancelled)), "{ended:?}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());

    // A device that does not draft as it is asked to says nothing of it.
    drafter.advise(Advice::Short(Reason::Heat));
    let ended = benchmark(&drafter, Some(&link), plan, &go, |_| {}).await;
    assert!(matches!(ended, Err(BenchmarkError::Unwell)), "{ended:?}");
    edge.stop().await;
}
