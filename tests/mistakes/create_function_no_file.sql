CREATE TABLE sales (shop STRING, cents BIGINT) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');

CREATE FUNCTION tax(cents BIGINT) RETURNS BIGINT LANGUAGE wasm AS 'nowhere/tax.wasm';

SELECT tax(cents) FROM sales;
