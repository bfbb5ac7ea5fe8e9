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
  'topic' = 'orders',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'thrift'
);

SELECT id FROM orders;
