-- Words are counted once, when all lines are read.

USE PIPELINE '../word_count.sql';

TEST 'counts leave when the input has ended';

INSERT INTO lines VALUES ('To be, or not'), ('to be');
INSERT INTO lines VALUES (''), (NULL), ('  be ');
ASSERT TABLE counts IS EMPTY;

END;
ASSERT TABLE counts IS VALUES ('to', 2), ('be,', 1), ('be', 2), ('or', 1), ('not', 1);

TEST 'the same as a query over all lines';

INSERT INTO lines VALUES ('a b a');
TICK;
INSERT INTO lines VALUES ('b c'), ('a');
END OF lines;
ASSERT CHANGELOG OF counts IS
  SELECT word, count(*) FROM (SELECT unnest(split_words(lower(line))) AS word FROM lines) GROUP BY word;

TEST 'nothing is counted of nothing';

END;
ASSERT TABLE counts IS EMPTY;
