-- Edges that this device knows. The first is the one that the app starts on this machine.
CREATE TABLE boxes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('bundled', 'paired')),
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    -- HOST:PORT of a paired one.
    address TEXT CHECK ((address IS NULL) = (kind = 'bundled')),
    -- SHA-256 of its certificate.
    certificate BLOB CHECK ((certificate IS NULL) = (kind = 'bundled') AND (certificate IS NULL OR length(certificate) = 32)),
    -- This device's id in the edge's list. Also names the token where that is kept, which is not here.
    device TEXT CHECK ((device IS NULL) = (kind = 'bundled')),
    -- As it was last seen.
    model TEXT,
    created_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT;
CREATE UNIQUE INDEX one_bundled_box ON boxes (kind) WHERE kind = 'bundled';
INSERT INTO boxes (kind, name, created_at) VALUES ('bundled', 'This machine', 0);
