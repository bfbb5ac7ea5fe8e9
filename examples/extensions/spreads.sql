-- An aggregate function of the program's own, in a GROUP BY like any other.
SET 'tick' = '5 rows';

CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'countdown', 'from' = '20');
CREATE TABLE spreads (who STRING, spread BIGINT) WITH ('connector' = 'log', 'prefix' = '> ');

INSERT INTO spreads
SELECT CASE WHEN n % 3 = 0 THEN 'threes' ELSE 'others' END AS who, spread(n) FROM numbers GROUP BY 1 EMIT FINAL;
