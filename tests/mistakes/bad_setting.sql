SET 'tick' = 'often';
SET 'when_all_idle' = 'wallclock';
SET 'pipeline.name' = 'my pipeline';
CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
SELECT word FROM words;
