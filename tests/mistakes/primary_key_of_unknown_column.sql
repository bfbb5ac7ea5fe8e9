CREATE TABLE words (word STRING, n INT, PRIMARY KEY (wrd) NOT ENFORCED) WITH ('connector' = 'print');
CREATE TABLE input (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'input.csv', 'format' = 'csv');
INSERT INTO words SELECT word, n FROM input;
