CREATE TABLE orders (id BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
  WITH ('connector' = 'kafka', 'topic' = 'orders', 'properties.bootstrap.servers' = 'localhost:9092', 'format' = 'json');
CREATE MATERIALIZED VIEW pairs AS SELECT a.id, b.id
  FROM (SELECT id, count(*) AS n FROM orders GROUP BY id) AS a JOIN (SELECT id, max(ts) AS n FROM orders GROUP BY id) AS b ON a.id = b.id;
