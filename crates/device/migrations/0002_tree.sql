-- Messages become a tree: another answer to a question, or another question in its place, is a
-- sibling. What is shown is the path of active children from the active root.
-- A parent is always older, so there are no cycles. No ON DELETE: whole conversations go at once,
-- and a cascade along a long path would be deeper than SQLite's triggers may be.
ALTER TABLE messages ADD COLUMN parent INTEGER REFERENCES messages (id) CHECK (parent < id);
ALTER TABLE messages ADD COLUMN active_child INTEGER;
ALTER TABLE conversations ADD COLUMN active_root INTEGER;
CREATE INDEX messages_of_parent ON messages (parent);

-- Until now each conversation was one path.
UPDATE messages SET parent = (
    SELECT max(p.id) FROM messages p WHERE p.conversation = messages.conversation AND p.id < messages.id
);
UPDATE messages SET active_child = (SELECT c.id FROM messages c WHERE c.parent = messages.id);
UPDATE conversations SET active_root = (SELECT min(m.id) FROM messages m WHERE m.conversation = conversations.id);

ALTER TABLE conversations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1));
-- Whether the program chose the title, and may choose a better one.
ALTER TABLE conversations ADD COLUMN auto_title INTEGER NOT NULL DEFAULT 0 CHECK (auto_title IN (0, 1));
-- Null takes the settings'.
ALTER TABLE conversations ADD COLUMN system_prompt TEXT;
-- JSON; null takes the settings'.
ALTER TABLE conversations ADD COLUMN sampling TEXT;
-- Deleted ones wait here for an undo.
ALTER TABLE conversations ADD COLUMN deleted_at INTEGER;

-- Full text. The text itself stays where it is; an answer comes in when it is complete, as its text
-- would otherwise be indexed again with every round.
CREATE VIRTUAL TABLE message_text USING fts5 (
    content, content = 'messages', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE title_text USING fts5 (
    title, content = 'conversations', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);
INSERT INTO message_text (rowid, content) SELECT id, content FROM messages WHERE status <> 'streaming';
INSERT INTO title_text (rowid, title) SELECT id, title FROM conversations;

CREATE TRIGGER message_text_insert AFTER INSERT ON messages WHEN new.status <> 'streaming' BEGIN
    INSERT INTO message_text (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER message_text_delete AFTER DELETE ON messages WHEN old.status <> 'streaming' BEGIN
    INSERT INTO message_text (message_text, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER message_text_enter AFTER UPDATE OF content, status ON messages
WHEN old.status = 'streaming' AND new.status <> 'streaming' BEGIN
    INSERT INTO message_text (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER message_text_leave AFTER UPDATE OF content, status ON messages
WHEN old.status <> 'streaming' AND new.status = 'streaming' BEGIN
    INSERT INTO message_text (message_text, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER message_text_change AFTER UPDATE OF content, status ON messages
WHEN old.status <> 'streaming' AND new.status <> 'streaming' AND old.content <> new.content BEGIN
    INSERT INTO message_text (message_text, rowid, content) VALUES ('delete', old.id, old.content);
    INSERT INTO message_text (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER title_text_insert AFTER INSERT ON conversations BEGIN
    INSERT INTO title_text (rowid, title) VALUES (new.id, new.title);
END;
CREATE TRIGGER title_text_delete AFTER DELETE ON conversations BEGIN
    INSERT INTO title_text (title_text, rowid, title) VALUES ('delete', old.id, old.title);
END;
CREATE TRIGGER title_text_update AFTER UPDATE OF title ON conversations BEGIN
    INSERT INTO title_text (title_text, rowid, title) VALUES ('delete', old.id, old.title);
    INSERT INTO title_text (rowid, title) VALUES (new.id, new.title);
END;
