CREATE TABLE n (n INT) WITH ('connector' = 'datagen');
CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
INSERT INTO n SELECT n FROM words;
