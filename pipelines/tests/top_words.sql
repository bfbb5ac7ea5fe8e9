-- The three most frequent words of a minute, in one answer that stands.

USE PIPELINE '../top_words.sql';

INSERT INTO messages VALUES
  ('d c b a', TIMESTAMP '2026-01-01 00:00:00'),
  ('a a b c', TIMESTAMP '2026-01-01 00:00:01'),
  ('z', TIMESTAMP '2026-01-01 00:01:00');
TICK;
INSERT INTO messages VALUES ('c c', TIMESTAMP '2026-01-01 00:00:59.999');
ASSERT TABLE top_words IS EMPTY;

-- a word that is as frequent as another one comes after it if it is the later one of the alphabet
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:01:00';
ASSERT CHANGELOG OF top_words (place, word, n) IS VALUES (1, 'c', 4), (2, 'a', 3), (3, 'b', 2);

END;
ASSERT CHANGELOG OF top_words IS VALUES (TIMESTAMP '2026-01-01 00:01:00', 1, 'z', 1);
