-- The functions are the .wat files beside this one, compiled with `wat2wasm`; docs/functions.md says how they are called.
CREATE FUNCTION fee(cents BIGINT, per_mille BIGINT) RETURNS BIGINT RETURNS NULL ON NULL INPUT LANGUAGE wasm AS 'fee.wasm';
CREATE FUNCTION shout(text STRING) RETURNS STRING LANGUAGE wasm AS 'shout.wasm';
CREATE AGGREGATE FUNCTION squares(n BIGINT) RETURNS BIGINT RETURNS NULL ON NULL INPUT STATE (sum BIGINT)
  LANGUAGE wasm AS 'squares.wasm';

CREATE TABLE fees (shop STRING, fee BIGINT, squares BIGINT) WITH ('connector' = 'print');

INSERT INTO fees
SELECT shout(shop), sum(fee(cents, 25)), squares(cents)
FROM (VALUES ('bakery', 1000), ('bakery', 250), ('café', 400), ('café', NULL)) AS sales (shop, cents)
GROUP BY shop
EMIT FINAL;
