-- One row an alarm that was raised; its deactivation (a greater `offset`) completes the row. An alarm that is about no
-- device has '' for clientid.
CREATE TABLE device_alarms (
  name            text NOT NULL,
  clientid        text NOT NULL,
  activated_at    timestamptz NOT NULL,
  active          boolean GENERATED ALWAYS AS (event = 'alarm.activated') STORED,
  deactivated_at  timestamptz,
  duration        bigint,      -- milliseconds
  kind            text,
  severity        text,
  username        text,
  message         text,
  details         jsonb,
  since           timestamptz, -- when the absence began, where there is one
  event           text,
  "timestamp"     timestamptz,
  node            text,
  id              uuid,
  event_id        uuid,
  "offset"        bigint NOT NULL,
  extra           jsonb,       -- what has no column of its own
  PRIMARY KEY (name, clientid, activated_at)
);

CREATE INDEX device_alarms_by_state ON device_alarms (active, activated_at);
CREATE INDEX device_alarms_by_client ON device_alarms (clientid, activated_at)
