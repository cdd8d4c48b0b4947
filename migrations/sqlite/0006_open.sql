-- With `fork`, although it is null in each row of it: only so is a session never looked up beside the index when it is asked
-- who was here.
DROP INDEX _muster_sessions_open;
CREATE INDEX _muster_sessions_open ON _muster_sessions (fork, came) WHERE fork IS NULL;
