-- Puts the text of this repository, line by line, into the topic `lines`.

SET 'pipeline.name' = 'demo_load';

CREATE TABLE code (line STRING) WITH ('connector' = 'file', 'path' = 'src/**/*.rs', 'format' = 'raw');
CREATE TABLE docs (line STRING) WITH ('connector' = 'file', 'path' = 'docs/**/*.md', 'format' = 'raw');
CREATE TABLE pages (line STRING) WITH ('connector' = 'file', 'path' = '*.md', 'format' = 'raw');

CREATE TABLE lines (line STRING) WITH (
  'connector' = 'kafka',
  'topic' = 'lines',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'raw'
);

INSERT INTO lines SELECT line FROM code UNION ALL SELECT line FROM docs UNION ALL SELECT line FROM pages;
