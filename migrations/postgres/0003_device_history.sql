-- What happened to each client: one row a connect, disconnect, subscribe or unsubscribe.
CREATE TABLE device_history (
  "timestamp"     timestamptz NOT NULL,
  clientid        text,
  event           text,
  reason          text,
  username        text,
  peername        text,
  sockname        text,
  proto_name      text,
  proto_ver       integer,
  keepalive       bigint,
  clean_start     boolean,
  expiry_interval bigint,
  connected_at    timestamptz,
  disconnected_at timestamptz,
  topic           text,
  qos             smallint,
  node            text,
  session         bigint,
  seq             bigint,
  id              uuid,
  event_id        uuid,
  "offset"        bigint,
  client_attrs    jsonb,
  extra           jsonb,       -- what has no column of its own
  _event_id       uuid NOT NULL,
  _rule           text NOT NULL,
  _row            integer NOT NULL
);

-- A row that is delivered again is known by these.
CREATE UNIQUE INDEX device_history_once ON device_history (_event_id, _rule, _row);
CREATE INDEX device_history_by_client ON device_history (clientid, "timestamp");
CREATE INDEX device_history_by_time ON device_history ("timestamp")
