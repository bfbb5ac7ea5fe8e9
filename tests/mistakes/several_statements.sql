CREATE TABLE words (word STRING, n INTT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
CREATE TABLE orders (
  id BIGINT NOT NULL,
  customer STRING,
  price DECIMAL(10, 2),
  quantity INT,
  items ARRAY<STRING>,
  ordered TIMESTAMP(3),
  WATERMARK FOR ordered AS ordered - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka',
  'topc' = 'orders',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'json'
);

CREATE TABLE screen (customer STRING, orders BIGINT) WITH ('connector' = 'print');

INSERT INTO screen SELECT word, n FROM words;
INSERT INTO screen SELECT customer, id FROM orders;
INSERT INTO scren SELECT 'a', 1 FROM words;
SELECT 1 +;
