-- How long visitors stay: the pages that each of them opens in a row, where a minute without a page ends the visit.
--
--   highwater run pipelines/sessions.sql
--
-- A session's bounds are those of its rows, so each visitor has sessions of their own. A row that lies between two
-- sessions joins them; the watermark, 15 seconds behind, says when none can come any more.

SET 'pipeline.name' = 'sessions';

CREATE TABLE pages (
  visitor STRING,
  opened TIMESTAMP(3),
  WATERMARK FOR opened AS opened - INTERVAL '15' SECOND
) WITH (
  'connector' = 'datagen',
  'number-of-rows' = '2000',
  'seed' = '7',
  'fields.visitor.kind' = 'words',
  'fields.visitor.vocabulary' = '60',
  'fields.visitor.words' = '1',
  'fields.opened.kind' = 'time',
  'fields.opened.start' = '2026-01-01T00:00:00Z',
  'fields.opened.step' = '2 s',
  'fields.opened.disorder' = '10 s'
);

CREATE TABLE visits (visitor STRING, first TIMESTAMP(3), seconds BIGINT, pages BIGINT) WITH ('connector' = 'print');

INSERT INTO visits
SELECT visitor, window_start, CAST(extract(EPOCH FROM window_end - window_start) AS BIGINT) - 60, pages
FROM (
  SELECT visitor, window_start, window_end, count(*) AS pages
  FROM TABLE(SESSION(TABLE pages PARTITION BY visitor, DESCRIPTOR(opened), INTERVAL '1' MINUTE))
  GROUP BY visitor, window_start, window_end
)
WHERE pages >= 12;
