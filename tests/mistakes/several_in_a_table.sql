CREATE TABLE orders (
  id BIGNT,
  customer STRNG,
  id BIGINT
) WITH (
  'connector' = 'kafka',
  'topc' = 'orders',
  'propertes.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'jsn'
);

SELECT id FROM orders;
