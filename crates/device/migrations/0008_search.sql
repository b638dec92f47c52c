-- Search by three characters at a time: it finds signs, parts of words, and scripts without spaces. Two
-- control characters behind each text let its last characters begin a group of three as well.
-- Contentless: what is shown of a hit is cut from the text itself.
DROP TRIGGER message_text_insert;
DROP TRIGGER message_text_delete;
DROP TRIGGER message_text_enter;
DROP TRIGGER message_text_leave;
DROP TRIGGER message_text_change;
DROP TRIGGER title_text_insert;
DROP TRIGGER title_text_delete;
DROP TRIGGER title_text_update;
DROP TABLE message_text;
DROP TABLE title_text;

CREATE VIRTUAL TABLE message_text USING fts5 (
    content, content = '', columnsize = 0, tokenize = 'trigram remove_diacritics 1'
);
CREATE VIRTUAL TABLE title_text USING fts5 (
    title, content = '', columnsize = 0, tokenize = 'trigram remove_diacritics 1'
);
-- Which groups of three there are, for words of one or two characters.
CREATE VIRTUAL TABLE message_groups USING fts5vocab ('message_text', 'row');
CREATE VIRTUAL TABLE title_groups USING fts5vocab ('title_text', 'row');

INSERT INTO message_text (rowid, content)
SELECT id, content || char(3, 3) FROM messages WHERE status <> 'streaming';
INSERT INTO title_text (rowid, title) SELECT id, title || char(3, 3) FROM conversations;

CREATE TRIGGER message_text_insert AFTER INSERT ON messages WHEN new.status <> 'streaming' BEGIN
    INSERT INTO message_text (rowid, content) VALUES (new.id, new.content || char(3, 3));
END;
CREATE TRIGGER message_text_delete AFTER DELETE ON messages WHEN old.status <> 'streaming' BEGIN
    INSERT INTO message_text (message_text, rowid, content)
    VALUES ('delete', old.id, old.content || char(3, 3));
END;
CREATE TRIGGER message_text_enter AFTER UPDATE OF content, status ON messages
WHEN old.status = 'streaming' AND new.status <> 'streaming' BEGIN
    INSERT INTO message_text (rowid, content) VALUES (new.id, new.content || char(3, 3));
END;
CREATE TRIGGER message_text_leave AFTER UPDATE OF content, status ON messages
WHEN old.status <> 'streaming' AND new.status = 'streaming' BEGIN
    INSERT INTO message_text (message_text, rowid, content)
    VALUES ('delete', old.id, old.content || char(3, 3));
END;
CREATE TRIGGER message_text_change AFTER UPDATE OF content, status ON messages
WHEN old.status <> 'streaming' AND new.status <> 'streaming' AND old.content <> new.content BEGIN
    INSERT INTO message_text (message_text, rowid, content)
    VALUES ('delete', old.id, old.content || char(3, 3));
    INSERT INTO message_text (rowid, content) VALUES (new.id, new.content || char(3, 3));
END;
CREATE TRIGGER title_text_insert AFTER INSERT ON conversations BEGIN
    INSERT INTO title_text (rowid, title) VALUES (new.id, new.title || char(3, 3));
END;
CREATE TRIGGER title_text_delete AFTER DELETE ON conversations BEGIN
    INSERT INTO title_text (title_text, rowid, title)
    VALUES ('delete', old.id, old.title || char(3, 3));
END;
CREATE TRIGGER title_text_update AFTER UPDATE OF title ON conversations BEGIN
    INSERT INTO title_text (title_text, rowid, title)
    VALUES ('delete', old.id, old.title || char(3, 3));
    INSERT INTO title_text (rowid, title) VALUES (new.id, new.title || char(3, 3));
END;
