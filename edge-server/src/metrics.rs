//! Figures for `/metrics`, in the Prometheus text format.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: u16,
}

/// All of the edge's figures; cheap to update from any thread.
pub struct Metrics {
    registry: Registry,
    /// Open connections.
    pub connections: Gauge,
    /// Sessions whose state is kept.
    pub sessions: Gauge,
    /// Bytes reserved for KV caches, at most what the edge may use.
    pub kv_bytes: Gauge,
    /// Rounds verified, plain tokens included.
    pub rounds: Counter,
    /// Drafted tokens received for verification.
    pub drafted: Counter,
    /// Drafted tokens accepted.
    pub accepted: Counter,
    /// Prompt tokens computed.
    pub prefilled: Counter,
    /// Prompt tokens that were not computed: their beginning was known.
    pub reused: Counter,
    /// Payload bytes received.
    pub received: Counter,
    /// Payload bytes sent.
    pub sent: Counter,
    errors: Family<Code, Counter>,
    chat_requests: Family<Status, Counter>,
    /// Sessions that wait for compute.
    pub running: Gauge,
    /// Sessions that wait for memory.
    pub waiting: Gauge,
    /// Times that a session made way for another and was computed again.
    pub preempted: Counter,
    /// Sequences computed together.
    pub batch: Histogram,
    /// Seconds between a draft's arrival and its forward pass.
    pub queued: Histogram,
    /// Seconds of a forward pass with its acceptance tests.
    pub verified: Histogram,
}

impl Metrics {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tandem_edge");
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let metrics = Self {
            connections: Gauge::default(),
            sessions: Gauge::default(),
            kv_bytes: Gauge::default(),
            rounds: Counter::default(),
            drafted: Counter::default(),
            accepted: Counter::default(),
            prefilled: Counter::default(),
            reused: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            errors: Family::default(),
            chat_requests: Family::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            preempted: Counter::default(),
            batch: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]),
            queued: seconds(),
            verified: seconds(),
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("connections", "Open connections", m.connections.clone());
        registry.register("sessions", "Sessions whose state is kept", m.sessions.clone());
        registry.register_with_unit(
            "kv_cache",
            "Memory reserved for KV caches",
            Unit::Bytes,
            m.kv_bytes.clone(),
        );
        registry.register("rounds", "Rounds verified, plain tokens included", m.rounds.clone());
        registry.register("drafted_tokens", "Drafted tokens verified", m.drafted.clone());
        registry.register("accepted_tokens", "Drafted tokens accepted", m.accepted.clone());
        registry.register("prefilled_tokens", "Prompt tokens computed", m.prefilled.clone());
        registry.register("reused_tokens", "Prompt tokens known already", m.reused.clone());
        registry.register_with_unit(
            "received",
            "Payload received",
            Unit::Bytes,
            m.received.clone(),
        );
        registry.register_with_unit("sent", "Payload sent", Unit::Bytes, m.sent.clone());
        registry.register("errors", "Errors told to devices", m.errors.clone());
        registry.register(
            "chat_requests",
            "Chat completions over HTTP that were answered, by status",
            m.chat_requests.clone(),
        );
        registry.register("running_sessions", "Sessions that wait for compute", m.running.clone());
        registry.register("waiting_sessions", "Sessions that wait for memory", m.waiting.clone());
        registry.register(
            "preemptions",
            "Sessions that made way for another and were computed again",
            m.preempted.clone(),
        );
        registry.register("batch_sequences", "Sequences computed together", m.batch.clone());
        registry.register_with_unit(
            "queue",
            "Arrival to forward pass",
            Unit::Seconds,
            m.queued.clone(),
        );
        registry.register_with_unit(
            "verify",
            "Forward pass and tests",
            Unit::Seconds,
            m.verified.clone(),
        );
        Self { registry, ..metrics }
    }

    /// Counts an error told to a device.
    pub fn error(&self, code: tandem_protocol::ErrorCode) {
        self.errors.get_or_create(&Code { code: format!("{code:?}") }).inc();
    }

    /// Counts an answered chat completion.
    pub(crate) fn chat_request(&self, status: u16) {
        self.chat_requests.get_or_create(&Status { status }).inc();
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every name that begins with `tandem_edge_` in a text.
    fn names(text: &str) -> BTreeSet<&str> {
        let name = |(at, _)| {
            let rest: &str = &text[at..];
            &rest[..rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len())]
        };
        text.match_indices("tandem_edge_").map(name).collect()
    }

    #[test]
    fn the_dashboard_asks_for_figures_that_exist() {
        let metrics = Metrics::new();
        metrics.error(tandem_protocol::ErrorCode::Busy);
        metrics.chat_request(200);
        let text = metrics.text();
        let told = names(&text);
        let dashboard = include_str!("../../deploy/grafana.json");
        serde_json::from_str::<serde_json::Value>(dashboard).expect("the dashboard is JSON");
        let asked = names(dashboard);
        assert!(asked.len() > 10, "{asked:?}");
        let missing: Vec<_> = asked.difference(&told).collect();
        assert!(missing.is_empty(), "{missing:?} of {told:?}");
    }

    /// Prometheus' conventions: a prefix, snake case, base units in the name, `_total` on counters alone.
    #[test]
    fn names_follow_the_conventions() {
        let text = Metrics::new().text();
        let kinds = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '));
        let kinds: Vec<_> = kinds.collect();
        assert!(kinds.len() > 12, "{kinds:?}");
        for (name, kind) in kinds {
            let plain = name.chars().all(|c| c == '_' || c.is_ascii_lowercase());
            assert!(plain && name.starts_with("tandem_edge_"), "{name}");
            // The samples of a counter have the ending that its type's line lacks.
            assert!(!name.ends_with("_total"), "{name}");
            for other in ["_ms", "_milliseconds", "_kib", "_mib", "_percent", "_count", "_sum"] {
                assert!(!name.ends_with(other), "{name}");
            }
            let unit = text.lines().find_map(|l| l.strip_prefix(&format!("# UNIT {name} ")));
            assert!(unit.is_none_or(|unit| name.ends_with(unit)), "{name} in {unit:?}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{name}: {kind}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        }
        for sample in text.lines().filter(|l| !l.starts_with('#')) {
            let name = sample.split([' ', '{']).next().unwrap_or_default();
            let base = name.strip_suffix("_total").unwrap_or(name);
            let counter = text.contains(&format!("# TYPE {base} counter"));
            assert_eq!(counter, name.ends_with("_total"), "{name}");
        }
    }
}
