//! `/auth_username` and `/auth_clientid`: users of devices, by the one name and by the other. A store that is missing
//! is made with its first user.

use axum::extract::{Query, State};
use axum::response::Response;
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::audit;
use super::super::reply::{AnyBody, ApiError, BodyRefused, Page, Params, Path, Refused};
use super::{Code, Refusal, done, ok, page};
use crate::access::{Caller, ChangeError, UserFilter, UserIdType};

/// Most users in one request.
const USERS_MAX: usize = 1_000;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(username_list, username_create))
        .routes(routes!(username_one, username_update, username_remove))
        .routes(routes!(clientid_list, clientid_create))
        .routes(routes!(clientid_one, clientid_update, clientid_remove))
}

/// A new password.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read as JSON")]
struct V4Password {
    #[schema(min_length = 1, max_length = 4096)]
    password: String,
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotFound(what) => Self(Code::NoSuchUser, what.to_owned()),
            ChangeError::Exists(what) => Self(Code::UserExists, what.to_owned()),
            ChangeError::Invalid(why) => Self(Code::BadParameter, why),
            ChangeError::Busy => {
                Self(Code::Unknown, "too many passwords wait to be hashed; try again".to_owned())
            }
            ChangeError::Storage(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "a change of users cannot be stored");
                Self(Code::Unknown, "the change cannot be stored; see the log".to_owned())
            }
        }
    }
}

type Answer = Result<Response, Refusal>;

/// The five paths of one kind of name.
macro_rules! paths {
    ($by:expr, $path:tt, $one:tt, $kind:tt, $list:ident, $create:ident, $get:ident, $update:ident,
     $remove:ident) => {
        /// One page of users.
        #[utoipa::path(get, path = $path, tag = "Older dialect", operation_id = concat!("v4_auth_", $kind, "_list"),
            params(("page" = Option<u64>, Query, minimum = 1),
                ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000)),
            responses((status = 200, description = "One page of names", body = super::Answer), Refused))]
        async fn $list(state: State<App>, query: Query<Vec<(String, String)>>) -> Answer {
            list(state, query, $by)
        }

        /// Makes a user, or each of an array.
        #[utoipa::path(post, path = $path, tag = "Older dialect", operation_id = concat!("v4_auth_", $kind, "_create"),
            request_body = Value,
            responses((status = 200, description = "What came of each user", body = super::Answer), Refused, BodyRefused))]
        async fn $create(state: State<App>, caller: Caller, body: Result<AnyBody, ApiError>) -> Answer {
            create(state, caller, body?.0, $by, $kind).await
        }

        /// One user.
        #[utoipa::path(get, path = $one, tag = "Older dialect", operation_id = concat!("v4_auth_", $kind, "_get"),
            params(($kind = String, Path)),
            responses((status = 200, description = "The user", body = super::Answer), Refused))]
        async fn $get(State(app): State<App>, Path(name): Path<String>) -> Answer {
            let store = app.access.authn.existing_store_of($by).ok_or(NOBODY)?;
            app.access.authn.user(&store, &name)?;
            Ok(ok(json!({$kind: name})))
        }

        /// Gives a user another password.
        #[utoipa::path(put, path = $one, tag = "Older dialect", operation_id = concat!("v4_auth_", $kind, "_update"),
            params(($kind = String, Path)), request_body = V4Password,
            responses((status = 200, description = "Whether it is another one", body = super::Answer), Refused, BodyRefused))]
        async fn $update(
            state: State<App>,
            caller: Caller,
            name: Path<String>,
            body: Result<AnyBody, ApiError>,
        ) -> Answer {
            update(state, caller, name, body?.0, $by).await
        }

        /// Removes a user.
        #[utoipa::path(delete, path = $one, tag = "Older dialect", operation_id = concat!("v4_auth_", $kind, "_delete"),
            params(($kind = String, Path)),
            responses((status = 200, description = "Whether the user is gone", body = super::Answer), Refused))]
        async fn $remove(State(app): State<App>, caller: Caller, Path(name): Path<String>) -> Answer {
            let store = app.access.authn.existing_store_of($by).ok_or(NOBODY)?;
            app.access.authn.remove_user(&store, &name).await?;
            audit::write(&app, &caller, "users.delete", &name, json!({"authenticator": store})).await;
            Ok(done())
        }
    };
}

paths!(
    UserIdType::Username,
    "/auth_username",
    "/auth_username/{username}",
    "username",
    username_list,
    username_create,
    username_one,
    username_update,
    username_remove
);
paths!(
    UserIdType::Clientid,
    "/auth_clientid",
    "/auth_clientid/{clientid}",
    "clientid",
    clientid_list,
    clientid_create,
    clientid_one,
    clientid_update,
    clientid_remove
);

const NOBODY: ChangeError = ChangeError::NotFound("User not found");

fn list(State(app): State<App>, Query(query): Query<Vec<(String, String)>>, by: UserIdType) -> Answer {
    let wanted = Page::from_params(&Params::new(query))?;
    let Some(store) = app.access.authn.existing_store_of(by) else { return Ok(page(wanted, Vec::new(), 0)) };
    let skip = usize::try_from(wanted.skip()).unwrap_or(usize::MAX);
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let (users, total) = app.access.authn.list_users(&store, &UserFilter::default(), skip, limit)?;
    let key = match by {
        UserIdType::Username => "username",
        UserIdType::Clientid => "clientid",
    };
    let names = users.iter().map(|user| json!({key: user["user_id"]})).collect();
    Ok(page(wanted, names, total))
}

async fn create(State(app): State<App>, caller: Caller, body: Value, by: UserIdType, key: &str) -> Answer {
    let is_list = body.is_array();
    let users = match body {
        Value::Array(users) => users,
        one => vec![one],
    };
    if users.len() > USERS_MAX {
        return Err(Refusal(Code::BadParameter, format!("at most {USERS_MAX} users in one request")));
    }
    let store = app.access.authn.store_of(by).await?;
    let mut results = Map::new();
    for user in &users {
        let text = |key: &str| user.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (Some(name), Some(password)) = (text(key), text("password")) else {
            if is_list {
                continue;
            }
            return Err(Refusal(Code::MissingParameter, format!("{key} and password are needed")));
        };
        match app.access.authn.create_user(&store, name, password, false).await {
            Ok(_) => {
                audit::write(&app, &caller, "users.create", name, json!({"authenticator": store})).await;
                results.insert(name.to_owned(), "ok".into());
            }
            Err(error) if !is_list => return Err(error.into()),
            Err(error) => {
                results.insert(name.to_owned(), Refusal::from(error).1.into());
            }
        }
    }
    Ok(ok(results))
}

async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    body: Value,
    by: UserIdType,
) -> Answer {
    let Some(password) = body.get("password").and_then(Value::as_str) else {
        return Err(Refusal(Code::MissingParameter, "password is needed".to_owned()));
    };
    let store = app.access.authn.existing_store_of(by).ok_or(NOBODY)?;
    app.access.authn.update_user(&store, &name, Some(password), None).await?;
    audit::write(&app, &caller, "users.update", &name, json!({"authenticator": store})).await;
    Ok(done())
}
