-- Orders with the payment that came in the same five minutes, if one came: two streams, joined in windows.
--
--   highwater run pipelines/enrich.sql
--
-- A window's pairs leave when both streams' watermarks have passed its end. LEFT JOIN keeps the orders without a payment,
-- whose columns are NULL then; JOIN leaves them out, NOT EXISTS asks for them alone.

SET 'pipeline.name' = 'enrich';

CREATE TABLE orders (
  id BIGINT,
  customer STRING,
  ordered TIMESTAMP(3),
  WATERMARK FOR ordered AS ordered - INTERVAL '1' MINUTE
) WITH (
  'connector' = 'datagen',
  'splits' = '1',
  'fields.id.kind' = 'sequence',
  'fields.id.start' = '1',
  'fields.id.end' = '200',
  'fields.customer.kind' = 'words',
  'fields.customer.vocabulary' = '20',
  'fields.customer.words' = '1',
  'fields.ordered.kind' = 'time',
  'fields.ordered.start' = '2026-01-01T00:00:00Z',
  'fields.ordered.step' = '10 s',
  'fields.ordered.disorder' = '1 min'
);

CREATE TABLE payments (
  order_id BIGINT,
  amount BIGINT,
  paid TIMESTAMP(3),
  WATERMARK FOR paid AS paid - INTERVAL '5' MINUTES
) WITH (
  'connector' = 'datagen',
  'splits' = '1',
  'fields.order_id.kind' = 'sequence',
  'fields.order_id.start' = '1',
  'fields.order_id.end' = '190',
  'fields.amount.kind' = 'random',
  'fields.amount.min' = '1',
  'fields.amount.max' = '500',
  'fields.paid.kind' = 'time',
  'fields.paid.start' = '2026-01-01T00:02:00Z',
  'fields.paid.step' = '10 s',
  'fields.paid.disorder' = '4 min'
);

CREATE TABLE enriched (window_start TIMESTAMP(3), id BIGINT, customer STRING, amount BIGINT, paid TIMESTAMP(3))
WITH ('connector' = 'print');

INSERT INTO enriched
SELECT o.window_start, id, customer, amount, paid
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered), INTERVAL '5' MINUTES)) AS o
LEFT JOIN TABLE(TUMBLE(TABLE payments, DESCRIPTOR(paid), INTERVAL '5' MINUTES)) AS p
ON o.window_start = p.window_start AND o.window_end = p.window_end AND id = order_id;
