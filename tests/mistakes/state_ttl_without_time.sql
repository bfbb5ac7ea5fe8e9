CREATE TABLE orders (id BIGINT NOT NULL, customer STRING)
WITH ('connector' = 'kafka', 'topic' = 'orders', 'properties.bootstrap.servers' = '127.0.0.1:9092', 'format' = 'json',
  'state.ttl' = '1 day');

SELECT id FROM orders;
