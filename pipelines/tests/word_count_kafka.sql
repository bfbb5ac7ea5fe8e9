-- Counts that change: at the end of each epoch those that changed leave.

USE PIPELINE '../word_count_kafka.sql';

TEST 'a count replaces the one before it';

INSERT INTO lines VALUES ('to be or not to be');
TICK;
ASSERT CHANGELOG OF counts IS VALUES ('+I', 'to', 2), ('+I', 'be', 2), ('+I', 'or', 1), ('+I', 'not', 1);

INSERT INTO lines VALUES ('or'), ('not so'), ('OR');
TICK;
ASSERT CHANGELOG OF counts IS VALUES
  ('-U', 'or', 1), ('+U', 'or', 3), ('-U', 'not', 1), ('+U', 'not', 2), ('+I', 'so', 1);
ASSERT TABLE counts IS VALUES ('to', 2), ('be', 2), ('or', 3), ('not', 2), ('so', 1);

-- an epoch without rows changes nothing
TICK;
ASSERT CHANGELOG OF counts IS EMPTY;

TEST 'what the table holds is the answer of a batch query, in every epoch';

INSERT INTO lines VALUES ('a b'), ('c d e');
ASSERT TABLE counts IS SELECT word, count(*) FROM (SELECT unnest(split_words(lower(line))) AS word FROM lines) GROUP BY word;
INSERT INTO lines VALUES ('B a'), ('x'), (NULL);
ASSERT TABLE counts IS SELECT word, count(*) FROM (SELECT unnest(split_words(lower(line))) AS word FROM lines) GROUP BY word;
