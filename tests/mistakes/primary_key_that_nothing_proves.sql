CREATE TABLE accounts (id BIGINT, owner STRING, balance BIGINT) WITH (
  'connector' = 'kafka',
  'topic' = 'accounts',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'debezium-json'
);

CREATE TABLE owners (id BIGINT, owner STRING, PRIMARY KEY (id)) WITH (
  'connector' = 'kafka',
  'topic' = 'owners',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'json'
);

INSERT INTO owners SELECT id, owner FROM accounts;
