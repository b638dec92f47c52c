-- Second tokens that went with a draft, and 1 where one was right: it brought one more token.
ALTER TABLE rounds ADD COLUMN alternatives INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN followed INTEGER NOT NULL DEFAULT 0;
DROP INDEX rounds_figures;
CREATE INDEX rounds_figures ON rounds (
    pair, mode, gamma, drafted, accepted, ignored, started_at, draft_ms, rtt_ms, queue_ms,
    verify_ms, residual_ms, uplink_bytes, downlink_bytes, outcome, followed
);
