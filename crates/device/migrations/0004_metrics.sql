-- Who took part: a box, its verifier, the drafter, and their vocabulary. Empty and 0: not known.
CREATE TABLE pairs (
    id INTEGER PRIMARY KEY,
    edge TEXT NOT NULL,
    verifier TEXT NOT NULL,
    drafter TEXT NOT NULL,
    vocab INTEGER NOT NULL,
    UNIQUE (edge, verifier, drafter, vocab)
) STRICT;
-- Of the rounds from before this table.
INSERT INTO pairs VALUES (1, '', '', '', 0);

ALTER TABLE rounds ADD COLUMN pair INTEGER NOT NULL DEFAULT 1;
-- How to go on and why, where it was decided in this round.
ALTER TABLE rounds ADD COLUMN decision TEXT;

-- Apart from `rounds`, whose rows stay small for sums over many of them.
CREATE TABLE round_tokens (
    message INTEGER NOT NULL,
    round INTEGER NOT NULL,
    -- 32 bits each, little-endian.
    ids BLOB NOT NULL,
    -- JSON array: the text that each token completed.
    pieces TEXT NOT NULL,
    PRIMARY KEY (message, round),
    FOREIGN KEY (message, round) REFERENCES rounds (message, round) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- The mode of all rounds of an answer, or `mixed`; null without any.
ALTER TABLE messages ADD COLUMN writer TEXT;
-- The draft length of all its rounds; null where it varied.
ALTER TABLE messages ADD COLUMN gamma INTEGER;
ALTER TABLE messages ADD COLUMN pair INTEGER;
UPDATE messages SET
    pair = 1,
    writer = (
        SELECT CASE WHEN min(mode) = max(mode) THEN min(mode) ELSE 'mixed' END
        FROM rounds WHERE message = messages.id
    ),
    gamma = (
        SELECT CASE WHEN min(gamma) = max(gamma) THEN min(gamma) END
        FROM rounds WHERE message = messages.id
    )
WHERE EXISTS (SELECT 1 FROM rounds WHERE message = messages.id);

-- Each has all columns that its query reads, in the order that the query groups or sorts by: one
-- pass over a million rounds, and no sorting.
CREATE INDEX rounds_figures ON rounds (
    pair, mode, gamma, drafted, accepted, ignored, started_at, draft_ms, rtt_ms, queue_ms,
    verify_ms, residual_ms, uplink_bytes, downlink_bytes
);
CREATE INDEX rounds_in_time ON rounds (started_at, pair, mode, gamma, drafted, accepted, ignored);
CREATE INDEX rounds_trips ON rounds (mode, rtt_ms, pair, gamma, started_at);
CREATE INDEX answers_in_time ON messages (
    created_at, pair, writer, gamma, conversation, tokens, ttft_ms, tokens_per_s
) WHERE writer IS NOT NULL;
