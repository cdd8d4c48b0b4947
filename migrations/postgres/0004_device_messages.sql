-- What was published: one row a message. A payload is bytes; where it is text, convert_from(payload, 'UTF8') reads it.
CREATE TABLE device_messages (
  "timestamp"         timestamptz NOT NULL,
  clientid            text,
  username            text,
  topic               text,
  qos                 smallint,
  retain              boolean GENERATED ALWAYS AS ((flags ->> 'retain')::boolean) STORED,
  payload             bytea,
  event               text,
  peername            text,
  peerhost            text,
  publish_received_at timestamptz,
  node                text,
  session             bigint,
  seq                 bigint,
  id                  uuid,
  event_id            uuid,
  "offset"            bigint,
  flags               jsonb,
  pub_props           jsonb,
  client_attrs        jsonb,
  extra               jsonb,   -- what has no column of its own
  _event_id           uuid NOT NULL,
  _rule               text NOT NULL,
  _row                integer NOT NULL
);

-- A row that is delivered again is known by these.
CREATE UNIQUE INDEX device_messages_once ON device_messages (_event_id, _rule, _row);
CREATE INDEX device_messages_by_client ON device_messages (clientid, "timestamp");
CREATE INDEX device_messages_by_topic ON device_messages (topic, "timestamp");
CREATE INDEX device_messages_by_time ON device_messages USING brin ("timestamp")
