CREATE TABLE a (
  id BIGINT NOT NULL,
  customer STRING,
  price DECIMAL(10, 2),
  quantity INT,
  items ARRAY<STRING>,
  ordered TIMESTAMP(3),
  WATERMARK FOR ordered AS ordered - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'orders',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'json'
);

CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv', 'split.bytes' = '0');
SELECT id FROM a;
SELECT word FROM words;
CREATE TABLE p (x STRING) WITH ('connector' = 'print');
SELECT x FROM p;
