-- Who is here and who is not: one row a client, written by its newest event (the greatest `seq`).
CREATE TABLE device_status (
  clientid        text PRIMARY KEY,
  event           text,
  online          boolean GENERATED ALWAYS AS (event = 'client.connected') STORED,
  "timestamp"     timestamptz,
  reason          text,        -- why it went the last time
  connected_at    timestamptz,
  disconnected_at timestamptz,
  username        text,
  peername        text,
  sockname        text,
  proto_name      text,
  proto_ver       integer,
  keepalive       bigint,      -- seconds
  clean_start     boolean,
  expiry_interval bigint,      -- seconds
  mountpoint      text,
  node            text,
  session         bigint,      -- grows with each connection
  seq             bigint NOT NULL,
  id              uuid,
  event_id        uuid,
  "offset"        bigint,
  client_attrs    jsonb,
  extra           jsonb        -- what has no column of its own
);

CREATE INDEX device_status_by_state ON device_status (online, "timestamp")
