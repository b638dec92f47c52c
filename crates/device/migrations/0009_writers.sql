-- `mixed` is for answers of which the device alone wrote a part; what the edge wrote and verified, some
-- of it drafted and some not, is `both`.
UPDATE messages SET writer = 'both'
WHERE writer = 'mixed'
AND NOT EXISTS (SELECT 1 FROM rounds WHERE message = messages.id AND mode NOT IN ('dssd', 'edge'));
