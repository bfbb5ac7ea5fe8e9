-- Ten-second windows over a topic of JSON messages: tests know nothing of topics, only of rows.

USE PIPELINE '../windowed_word_count_kafka.sql';

TEST 'a window closes by its rows';

INSERT INTO messages VALUES ('High water', TIMESTAMP '2026-01-01 12:00:00');
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 12:00:09.999';
ASSERT TABLE counts IS EMPTY;
-- rows make the watermark, too: it stays five seconds behind them
INSERT INTO messages VALUES ('water', TIMESTAMP '2026-01-01 12:00:15');
ASSERT TABLE counts (word, n) IS VALUES ('high', 1), ('water', 1);

TEST 'counting is the same as over all rows';

INSERT INTO messages VALUES ('a b', TIMESTAMP '2026-01-01 12:00:00'), ('a', TIMESTAMP '2026-01-01 12:00:12');
INSERT INTO messages VALUES ('A', TIMESTAMP '2026-01-01 12:00:03'), ('c', TIMESTAMP '2026-01-01 12:00:19');
END;
ASSERT TABLE counts IS
  SELECT window_start, window_end, word, count(*)
  FROM (
    SELECT window_start, window_end, unnest(split_words(lower(text))) AS word
    FROM TABLE(TUMBLE(TABLE messages, DESCRIPTOR(sent), INTERVAL '10' SECOND))
  )
  GROUP BY window_start, window_end, word;
