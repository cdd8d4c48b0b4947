//! Users from elsewhere: rows of JSON or CSV, read one by one, so that a bad row costs itself alone.

use serde_json::{Map, Value};

/// A row that can be understood.
#[derive(Clone, PartialEq, Eq)]
pub struct ImportRow {
    /// The user.
    pub user_id: String,
    /// The password, or its hash.
    pub secret: String,
    /// The salt of the hash.
    pub salt: String,
    /// May do everything.
    pub is_superuser: bool,
}

/// The user alone.
impl std::fmt::Debug for ImportRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportRow").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// What stands in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportType {
    /// Passwords.
    Plain,
    /// Hashes, made by the authenticator's algorithm.
    Hash,
}

/// Rows of a JSON array; none for each that cannot be understood.
///
/// # Errors
/// It is no JSON array.
pub fn rows_of_json(body: &[u8], kind: ImportType) -> Result<Vec<Option<ImportRow>>, String> {
    let rows: Vec<Value> = serde_json::from_slice(body).map_err(|_| "the body is no JSON array of users")?;
    Ok(rows.iter().map(|row| row_of_json(row.as_object()?, kind)).collect())
}

fn row_of_json(row: &Map<String, Value>, kind: ImportType) -> Option<ImportRow> {
    let text = |key: &str| match row.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text.clone())),
        Some(_) => None,
    };
    let is_superuser = match row.get("is_superuser") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(text)) => flag(text)?,
        Some(_) => return None,
    };
    let secret = text(secret_field(kind))??;
    made(text("user_id")??, secret, text("salt")?.unwrap_or_default(), is_superuser)
}

/// Rows of CSV with a line of names; none for each that cannot be understood.
///
/// # Errors
/// A column that is needed is missing.
pub fn rows_of_csv(body: &[u8], kind: ImportType) -> Result<Vec<Option<ImportRow>>, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body);
    let names = reader.headers().map_err(|_| "the first line of the CSV cannot be read")?.clone();
    let column = |name: &str| names.iter().position(|it| it.trim_start_matches('\u{feff}').trim() == name);
    let needed = |name: &str| column(name).ok_or_else(|| format!("the CSV has no column `{name}`"));
    let (user_id, secret) = (needed("user_id")?, needed(secret_field(kind))?);
    let (salt, is_superuser) = (column("salt"), column("is_superuser"));
    let rows = reader.records().map(|row| {
        let row = row.ok()?;
        let optional = |at: Option<usize>| at.and_then(|at| row.get(at)).unwrap_or_default();
        let is_superuser = flag(optional(is_superuser))?;
        made(
            row.get(user_id)?.to_owned(),
            row.get(secret)?.to_owned(),
            optional(salt).to_owned(),
            is_superuser,
        )
    });
    Ok(rows.collect())
}

const fn secret_field(kind: ImportType) -> &'static str {
    match kind {
        ImportType::Plain => "password",
        ImportType::Hash => "password_hash",
    }
}

fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" | "" => Some(false),
        _ => None,
    }
}

fn made(user_id: String, secret: String, salt: String, is_superuser: bool) -> Option<ImportRow> {
    let is_good = super::is_user_id(&user_id) && !secret.is_empty();
    is_good.then_some(ImportRow { user_id, secret, salt, is_superuser })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_row() -> impl Strategy<Value = ImportRow> {
        ("\\PC{1,12}", "\\PC{1,12}", "[a-f0-9]{0,8}", any::<bool>()).prop_map(
            |(user_id, secret, salt, is_superuser)| ImportRow { user_id, secret, salt, is_superuser },
        )
    }

    proptest! {
        /// What is written comes back, by either way.
        #[test]
        fn a_round_trip(rows in prop::collection::vec(any_row(), 0..8)) {
            let json: Vec<_> = rows.iter().map(|it| json!({"user_id": it.user_id, "password_hash": it.secret,
                "salt": it.salt, "is_superuser": it.is_superuser})).collect();
            let json = serde_json::to_vec(&json).expect("JSON");
            let read = rows_of_json(&json, ImportType::Hash).expect("rows");
            prop_assert_eq!(&read, &rows.iter().cloned().map(Some).collect::<Vec<_>>());
            let mut csv = csv::Writer::from_writer(Vec::new());
            csv.write_record(["user_id", "password", "salt", "is_superuser"]).expect("a line");
            for it in &rows {
                let flag = it.is_superuser.to_string();
                csv.write_record([&it.user_id, &it.secret, &it.salt, &flag]).expect("a line");
            }
            let csv = csv.into_inner().expect("bytes");
            prop_assert_eq!(&rows_of_csv(&csv, ImportType::Plain).expect("rows"), &read);
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = rows_of_csv(&bytes, ImportType::Plain);
            let _ = rows_of_json(&bytes, ImportType::Hash);
        }
    }

    #[test]
    fn a_bad_row_costs_itself_alone() {
        let rows = rows_of_json(br#"[{"user_id":"a","password":"p"},{"user_id":"b"},7]"#, ImportType::Plain);
        assert_eq!(rows.expect("rows").iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
        let rows = rows_of_csv(b"user_id,password,is_superuser\na,p,true\nb\nc,p,maybe\n", ImportType::Plain);
        assert_eq!(rows.expect("rows").iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
        assert!(rows_of_csv(b"name,password\n", ImportType::Plain).is_err());
    }
}
