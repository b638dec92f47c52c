//! A drafter's memory that is given back really leaves the process. Alone in its program: whatever else
//! runs there takes memory too.
#![cfg(unix)]

use std::time::Duration;
use tandem_device::policy::{Advice, Reason};
use tandem_device::{DraftRequest, Drafter, new_session};
use tandem_speculation::{DraftStop, Randomness, Sampling, TokenId};
use tandem_tests::{DRAFTER, drafter, memory};
use tokio_util::sync::CancellationToken;

/// Resident MiB of this process.
fn resident() -> u64 {
    memory(std::process::id()).expect("the system says it")
}

/// A short draft after a long text, whose keys and values take memory too.
async fn draft(drafter: &Drafter) -> Vec<TokenId> {
    let request = DraftRequest {
        session: new_session(),
        tokens: (0..1000).map(|i| TokenId(1000 + i % 7)).collect(),
        stop: DraftStop::fixed(8),
        until: None,
        sampling: Sampling::GREEDY,
        randomness: Randomness::new(1),
        branch: 0,
    };
    drafter.draft(request, &CancellationToken::new()).await.expect("a draft").ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_leaves_the_process() {
    let before = resident();
    let drafter = drafter(DRAFTER).await;
    let ids = draft(&drafter).await;
    let loaded = resident() - before;
    assert!(loaded > 300, "{loaded} MiB: is it loaded at all?");
    for _ in 0..3 {
        drafter.advise(Advice::Stream(Reason::Memory));
        let gone = async {
            while resident() - before > loaded / 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
        assert!(gone.is_ok(), "{} of {loaded} MiB are still there", resident() - before);
        assert!(!drafter.is_loaded());
        drafter.advise(Advice::Draft);
        drafter.loaded().await.expect("its file is there");
        assert_eq!(draft(&drafter).await, ids);
        // Nothing is left of each time.
        assert!(resident() - before < loaded * 5 / 4, "{} after {loaded}", resident() - before);
    }
}
