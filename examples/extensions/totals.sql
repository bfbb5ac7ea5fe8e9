-- Everything here that is not Highwater's own is in examples/extensions.
SET 'tick' = '5 rows';

CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'countdown', 'from' = '20');
CREATE TABLE sums (who STRING, total BIGINT) WITH ('connector' = 'log', 'prefix' = '> ');

CREATE VIEW named AS
SELECT initials(CASE WHEN n % 2 = 0 THEN 'Even Numbers' ELSE 'Odd Numbers' END) AS who, n FROM numbers;

INSERT INTO sums SELECT who, total FROM TABLE(totals(TABLE named PARTITION BY who));
