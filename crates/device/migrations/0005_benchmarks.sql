CREATE TABLE benchmarks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    started_at INTEGER NOT NULL,
    pair INTEGER NOT NULL REFERENCES pairs (id),
    version TEXT NOT NULL,
    max_tokens INTEGER NOT NULL
) STRICT;

-- One answer to one of the fixed prompts, in one of the ways.
CREATE TABLE benchmark_runs (
    benchmark INTEGER NOT NULL REFERENCES benchmarks (id) ON DELETE CASCADE,
    mode TEXT NOT NULL,
    -- Null: chosen each round, or no drafting.
    gamma INTEGER,
    prompt TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    -- After the first round, which waits for the prompt.
    later_tokens INTEGER NOT NULL,
    later_ms REAL NOT NULL,
    ttft_ms REAL,
    rounds INTEGER NOT NULL,
    tested INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    -- Whether the text is the edge's own, where that was compared.
    same INTEGER
) STRICT;
CREATE INDEX runs_of_benchmark ON benchmark_runs (benchmark);
