-- As an operator graph: words are counted once, when all lines are read.

USE PIPELINE '../word_count.yaml';

INSERT INTO lines VALUES ('To be, or not'), ('to be');
INSERT INTO lines VALUES (''), (NULL), ('  be ');
ASSERT TABLE counts IS EMPTY;

END;
ASSERT TABLE counts IS VALUES ('to', 2), ('be,', 1), ('be', 2), ('or', 1), ('not', 1);
