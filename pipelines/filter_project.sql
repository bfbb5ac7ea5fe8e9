-- Keeps the large orders and computes what they are worth with tax: rows go through as they come, nothing is remembered.
--
--   highwater run pipelines/filter_project.sql

SET 'pipeline.name' = 'filter_project';

CREATE TABLE orders (
  id BIGINT NOT NULL,
  customer STRING,
  price DECIMAL(10, 2)
) WITH (
  'connector' = 'datagen',
  'number-of-rows' = '40',
  'seed' = '1',
  'fields.id.kind' = 'sequence',
  'fields.id.start' = '1',
  'fields.customer.kind' = 'random',
  'fields.customer.length' = '5',
  'fields.price.kind' = 'random',
  'fields.price.min' = '1',
  'fields.price.max' = '200'
);

CREATE TABLE large_orders (id BIGINT, customer STRING, with_tax DECIMAL(12, 2)) WITH ('connector' = 'print');

INSERT INTO large_orders
SELECT id, upper(customer) AS customer, price * 1.19 AS with_tax
FROM orders
WHERE price >= 150;
