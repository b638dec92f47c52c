-- A round that went on (`continue`) gave no token beyond the accepted ones.
DROP INDEX rounds_figures;
CREATE INDEX rounds_figures ON rounds (
    pair, mode, gamma, drafted, accepted, ignored, started_at, draft_ms, rtt_ms, queue_ms,
    verify_ms, residual_ms, uplink_bytes, downlink_bytes, outcome
);
