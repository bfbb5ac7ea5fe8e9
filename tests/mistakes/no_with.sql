CREATE TABLE words (word STRING);

SELECT word FROM words;
