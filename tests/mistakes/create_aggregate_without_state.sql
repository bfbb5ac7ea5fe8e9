CREATE TABLE sales (shop STRING, cents BIGINT) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');

CREATE AGGREGATE FUNCTION tax(cents BIGINT) RETURNS BIGINT LANGUAGE wasm AS 'tax.wasm';

SELECT tax(cents) FROM sales;
