-- What a PostgreSQL target remembers of each pipeline into it: who may write (the epoch), and what is committed, in the
-- same transaction as the rows. The first pipeline that opens the database makes it, too.
CREATE TABLE IF NOT EXISTS _muster_pipelines (
  pipeline      text PRIMARY KEY,
  epoch         bigint NOT NULL,
  log_id        bytea,
  cursor_offset bigint,
  cursor_row    bigint,
  matched       bigint,
  delivered     bigint,
  dead          bigint,
  updated_at    timestamptz
) WITH (fillfactor = 50)
