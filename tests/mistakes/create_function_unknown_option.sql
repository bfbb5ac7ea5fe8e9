CREATE TABLE sales (shop STRING, cents BIGINT) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');

CREATE FUNCTION tax(cents BIGINT) RETURNS BIGINT LANGUAGE wasm AS 'tax.wasm' WITH ('memori' = '1 GiB', 'fuel' = 'much');

SELECT tax(cents) FROM sales;
