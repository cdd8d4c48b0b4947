//! Whether a delivery would work, and if not, what is wrong, in words. It writes nothing.

use super::catalog::{OWN_COLUMNS, Table};
use super::client::Connection;
use super::config::Config;
use super::deliver::missing;
use super::upsert::Conflict;
use crate::error::SinkError;

const STATE: &str = "\
SELECT current_setting('transaction_read_only') = 'on', current_user::text, \
  to_regclass('_muster_pipelines') IS NOT NULL, \
  CASE WHEN to_regclass('_muster_pipelines') IS NULL \
    THEN coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) \
    ELSE has_table_privilege(to_regclass('_muster_pipelines'), 'SELECT') \
      AND has_table_privilege(to_regclass('_muster_pipelines'), 'INSERT') \
      AND has_table_privilege(to_regclass('_muster_pipelines'), 'UPDATE') END, \
  has_database_privilege(current_database(), 'TEMPORARY')";

/// On a connection of its own.
pub(super) async fn check(config: &Config) -> Result<(), SinkError> {
    let connection = Connection::open(&config.server).await?;
    let state = connection.ask("looking at the database", STATE, &[]).await?;
    let state = state.first().ok_or_else(|| SinkError::unavailable("PostgreSQL gave no answer"))?;
    let (read_only, user, bookkept): (bool, String, bool) = (state.get(0), state.get(1), state.get(2));
    let shown = &config.server.shown;
    if read_only {
        return Err(SinkError::unavailable(format!("{shown} takes no writes"))
            .with_hint("is it a standby? give the primary's address"));
    }
    if !state.get::<_, bool>(3) {
        let (right, on) =
            if bookkept { ("SELECT, INSERT, UPDATE", "_muster_pipelines") } else { ("CREATE", "the schema") };
        return Err(SinkError::misconfigured(format!(
            "the user `{user}` lacks the right {right} on {on} in {shown}"
        ))
        .with_hint("GRANT it; Muster keeps its cursors in the table _muster_pipelines"));
    }
    let table = Table::read(&connection, config.server.schema.as_deref(), &config.table).await?;
    let Some(table) = table else {
        let hint = "run `muster migrate` if it is one of Muster's own tables, or create it; \
                    the first delivery proposes a statement that fits the rows";
        return Err(missing(config).with_hint(hint));
    };
    check_table(config, &table, &user)?;
    let conflict = Conflict::of(&table, config.upsert.as_ref())?;
    let stages = matches!(conflict, Conflict::Newest { .. }) || table.no_copy;
    if stages && !state.get::<_, bool>(4) {
        return Err(SinkError::misconfigured(format!(
            "the user `{user}` may not make temporary tables in {shown}"
        ))
        .with_hint("GRANT TEMPORARY ON DATABASE ... TO ..."));
    }
    Ok(())
}

fn check_table(config: &Config, table: &Table, user: &str) -> Result<(), SinkError> {
    let sql = &table.sql;
    if !table.may_insert {
        return Err(SinkError::misconfigured(format!("the user `{user}` may not INSERT into {sql}"))
            .with_hint(format!("GRANT INSERT ON {sql} TO ...;")));
    }
    if config.upsert.is_some() && !table.may_update {
        let message = format!("the user `{user}` may not UPDATE and SELECT {sql}, whose rows are replaced");
        return Err(
            SinkError::misconfigured(message).with_hint(format!("GRANT SELECT, UPDATE ON {sql} TO ...;"))
        );
    }
    let own = OWN_COLUMNS.iter().filter(|own| table.find(own).is_some()).count();
    if config.upsert.is_none() && (1..OWN_COLUMNS.len()).contains(&own) {
        let message = format!("{sql} has some of the columns {}, not all", OWN_COLUMNS.join(", "));
        return Err(SinkError::misconfigured(message).with_hint("add the others, or drop these"));
    }
    if config.upsert.is_none() && own == OWN_COLUMNS.len() && table.once().is_none() {
        let columns = OWN_COLUMNS.join(", ");
        return Err(SinkError::misconfigured(format!("{sql} has no unique index on ({columns})"))
            .with_hint(format!("CREATE UNIQUE INDEX ON {sql} ({columns});")));
    }
    Ok(())
}
