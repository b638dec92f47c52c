-- Times are milliseconds since the epoch.
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    title TEXT NOT NULL,
    -- Names the conversation's KV cache on an edge.
    session BLOB NOT NULL CHECK (length(session) = 16),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('streaming', 'done', 'stopped', 'interrupted', 'failed')),
    error TEXT,
    finish TEXT CHECK (finish IN ('stop', 'length', 'cancelled')),
    tokens INTEGER NOT NULL DEFAULT 0,
    ttft_ms REAL,
    tokens_per_s REAL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_of_conversation ON messages (conversation, id);

-- One row a round. Acceptance rate = accepted / (drafted - ignored); tokens of a round = accepted + 1.
CREATE TABLE rounds (
    message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    round INTEGER NOT NULL,
    mode TEXT NOT NULL,
    scheme TEXT NOT NULL,
    gamma INTEGER NOT NULL,
    drafted INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    -- Drafted tokens whose acceptance was never tested.
    ignored INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    draft_ms REAL NOT NULL,
    rtt_ms REAL NOT NULL,
    queue_ms REAL NOT NULL,
    verify_ms REAL NOT NULL,
    residual_ms REAL NOT NULL,
    uplink_bytes INTEGER NOT NULL,
    downlink_bytes INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    PRIMARY KEY (message, round)
) STRICT, WITHOUT ROWID;

CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
