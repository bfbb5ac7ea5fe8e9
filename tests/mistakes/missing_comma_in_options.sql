CREATE TABLE words (word STRING) WITH (
  'connector' = 'file'
  'path' = 'words.csv',
  'format' = 'csv'
);

SELECT word FROM words;
