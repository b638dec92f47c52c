//! Bytes and texts of an enemy: no panic, memory in proportion to what came, and what is valid survives.
//! `PROPTEST_CASES` says how many are tried.

#![allow(clippy::unwrap_used, reason = "a test")]

use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tandem_protocol::{
    Access, CertificateId, ClientMessage, ControlReply, ControlRequest, Draft, EdgeInfo, Exchange,
    Hello, MAX_DEVICE_NAME, MAX_DRAFT, Open, PairingCode, PairingLink, ServerMessage, SessionId,
    Side, Verdict, clean_name, decode_client, decode_reply, decode_request, decode_server,
    encode_client, encode_reply, encode_request, encode_server,
};
use tandem_speculation::{Correction, Sampling, TokenId};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole process, so tests wait for each other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that a call takes at most.
fn peak(call: impl FnOnce()) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    call();
    MEMORY.peak_usage().saturating_sub(before)
}

/// What a list may reserve for its claimed length before it is read, three lists at most; and then a
/// multiple of the bytes, because numbers of one byte become four and lists double as they grow.
fn allowed(bytes: usize) -> usize {
    (4 << 20) + 32 * bytes
}

/// A valid message of each large kind.
fn examples() -> Vec<Vec<u8>> {
    let ids = |n: u32| (0..n).map(|i| TokenId(i * 977)).collect::<Vec<_>>();
    let open = Open {
        session: SessionId([7; 16]),
        generation: 1,
        tokens: ids(300),
        sampling: Sampling::default(),
        seed: 3,
        branch: 0,
    };
    let draft = Draft {
        generation: 1,
        round: 2,
        prefix_len: 300,
        committed: ids(1),
        ids: ids(MAX_DRAFT as u32),
        q: vec![0.25; MAX_DRAFT],
        alternatives: Vec::new(),
        branch: 1,
        open: true,
    };
    let hello = Hello {
        protocol: 2,
        app_version: "1".into(),
        drafter: "a drafter".into(),
        tokenizer: [9; 32],
        model: Some("a model".into()),
    };
    let verdict = |correction| {
        let (generation, round, prefix_len) = (1, 2, 300);
        let (accepted, queued_us, verify_us) = (3, 10, 20);
        encode_server(&ServerMessage::Verdict(Verdict {
            generation,
            round,
            prefix_len,
            accepted,
            correction,
            next: None,
            queued_us,
            verify_us,
        }))
    };
    let access = Access {
        proof: [1; 32],
        device: "id".into(),
        token: "t".repeat(43),
        edge: EdgeInfo { name: "attic".into(), model: "m".into(), version: "1".into() },
    };
    vec![
        encode_client(&ClientMessage::Open(open)),
        encode_client(&ClientMessage::Draft(draft)),
        encode_client(&ClientMessage::Hello(hello)),
        verdict(Correction::Full(vec![0.001; 400])),
        verdict(Correction::Sampled(ids(40).into_iter().map(|id| (id, 0.1)).collect())),
        encode_request(&ControlRequest::Pair { device: "phone".into(), share: vec![1; 33] }),
        encode_reply(&ControlReply::Paired(access)),
    ]
}

/// Bytes of all kinds: noise, noise behind a real tag, numbers that claim enormous lengths, and valid
/// messages with parts replaced, cut out or repeated.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let huge = prop_oneof![
        Just(vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        Just(vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        Just(vec![0x80, 0x80, 0x80, 0x80, 0x04]),
        Just(vec![0x80; 30]),
    ];
    let piece = prop_oneof![2 => vec(any::<u8>(), 0..9), 1 => huge, 1 => Just(vec![0; 16])];
    let changed = (
        prop::sample::select(examples()),
        vec((any::<prop::sample::Index>(), piece.clone(), 0..20usize), 0..4),
    );
    prop_oneof![
        vec(any::<u8>(), 0..600),
        (0..16u8, vec(piece, 0..40)).prop_map(|(tag, all)| [vec![tag], all.concat()].concat()),
        changed.prop_map(|(mut bytes, changes)| {
            for (at, piece, over) in changes {
                let at = at.index(bytes.len() + 1);
                let end = (at + over).min(bytes.len());
                bytes.splice(at..end, piece);
            }
            bytes
        }),
    ]
}

fn vec_any(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..most)
}

proptest! {
    /// Whatever passes is encoded to what decodes to the same: nothing is a message in two ways that
    /// mean something else.
    #[test]
    fn any_bytes_take_memory_in_proportion(bytes in bytes()) {
        let _alone = alone();
        let most = allowed(bytes.len());
        let mut kept = (None, None, None, None);
        for (what, taken) in [
            ("decode_client", peak(|| kept.0 = decode_client(&bytes).ok())),
            ("decode_server", peak(|| kept.1 = decode_server(&bytes).ok())),
            ("decode_request", peak(|| kept.2 = decode_request(&bytes).ok())),
            ("decode_reply", peak(|| kept.3 = decode_reply(&bytes).ok())),
        ] {
            prop_assert!(taken <= most, "{} took {} for {}", what, taken, bytes.len());
        }
        if let Some(m) = kept.0 {
            prop_assert_eq!(decode_client(&encode_client(&m)).unwrap(), m);
        }
        if let Some(m) = kept.1 {
            prop_assert_eq!(decode_server(&encode_server(&m)).unwrap(), m);
        }
        if let Some(m) = kept.2 {
            prop_assert!(decode_request(&encode_request(&m)).unwrap() == m);
        }
        if let Some(m) = kept.3 {
            prop_assert!(decode_reply(&encode_reply(&m)).unwrap() == m);
        }
    }

    #[test]
    fn pairing_ends_with_proofs_or_an_error(share in vec_any(80), device in "\\PC{0,40}", side: bool) {
        let _alone = alone();
        let code = PairingCode::from_random([1, 2, 3, 4, 5]);
        let side = if side { Side::Device } else { Side::Edge };
        let (run, own) = Exchange::start(side, &code);
        let id = CertificateId([3; 32]);
        if let Ok(proofs) = run.finish(&share, &id, &device) {
            // One who does not know the code never has the same proof as one who does.
            let (right, _) = Exchange::start(side, &PairingCode::from_random([9; 5]));
            if let Ok(other) = right.finish(&share, &id, &device) {
                prop_assert!(proofs.device != other.device && proofs.edge != other.edge);
            }
            prop_assert!(proofs.device != proofs.edge && own != share);
        }
    }

    #[test]
    fn texts_are_read_or_refused(text in "\\PC{0,400}", junk in vec_any(200), at: prop::sample::Index) {
        let _alone = alone();
        let link = "tandem://pair?host=10.0.0.7&port=7470&code=ABCDEFGH&fp=".to_owned() + &"ab".repeat(32);
        let mut bent = link.into_bytes();
        let at = at.index(bent.len());
        bent.splice(at..(at + junk.len() / 8).min(bent.len()), junk.iter().copied().take(6));
        for text in [&text, &*String::from_utf8_lossy(&bent), &*String::from_utf8_lossy(&junk)] {
            if let Ok(code) = text.parse::<PairingCode>() {
                prop_assert_eq!(code.to_string().parse::<PairingCode>().unwrap(), code);
            }
            if let Ok(link) = text.parse::<PairingLink>() {
                prop_assert_eq!(link.to_string().parse::<PairingLink>().unwrap(), link);
            }
            if let Ok(id) = text.parse::<CertificateId>() {
                prop_assert_eq!(id.to_string().parse::<CertificateId>().unwrap(), id);
            }
            let name = clean_name(text);
            prop_assert!(name.len() <= MAX_DEVICE_NAME && !name.chars().any(char::is_control));
            prop_assert_eq!(clean_name(&name), name.trim_end());
        }
    }

    #[test]
    fn links_and_codes_come_back(
        host in "[a-z0-9][a-z0-9.-]{0,60}", port in 1..=u16::MAX, random: [u8; 5], id: [u8; 32],
    ) {
        let _alone = alone();
        let (certificate, code) = (CertificateId(id), PairingCode::from_random(random));
        let link = PairingLink { host, port, certificate, code: code.clone() };
        prop_assert_eq!(link.to_string().parse::<PairingLink>().unwrap(), link);
        prop_assert_eq!(code.to_string().to_lowercase().parse::<PairingCode>().unwrap(), code);
    }
}

/// The measure itself: a list that reserved what it claims would be seen.
#[test]
fn reserved_memory_is_seen() {
    let _alone = alone();
    let taken = peak(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(64 << 20))));
    // The harness may give back a little in the meantime.
    assert!(taken >= 63 << 20, "{taken}");
}
