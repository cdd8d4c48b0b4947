//! What requests look like, as the options say: format, body, content type, headers of the row, address. Checked when
//! the sink is built, so that a template that can never work is found before the first row. It must never know a
//! connection.

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use super::encode::rejected;
use super::template::{Lands, Scope, Template};
use crate::cloudevents::is_json;
use crate::error::SinkError;
use crate::registry::Options;

/// How a row stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// As it is, or as the template of the body has it.
    Json,
    /// A CloudEvent as one JSON object.
    CloudEventsStructured,
    /// The data as body, the attributes as headers.
    CloudEventsBinary,
    /// A batch of CloudEvents as one JSON array.
    CloudEventsBatch,
}

/// What requests look like.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) address: Address,
    pub(super) format: Format,
    /// Whether a request holds a batch.
    pub(super) batch: bool,
    pub(super) body: Option<Template>,
    pub(super) content_type: HeaderValue,
    pub(super) row_headers: Vec<(HeaderName, Template)>,
    pub(super) ce_source: Option<Template>,
    pub(super) ce_type: Option<Template>,
}

impl Shape {
    pub(super) fn parse(
        options: &Options<'_>,
        address: Address,
        row_headers: Vec<(HeaderName, Template)>,
    ) -> Result<Self, SinkError> {
        let format = options.one_of(
            "format",
            &[
                ("json", Format::Json),
                ("cloudevents_structured", Format::CloudEventsStructured),
                ("cloudevents_binary", Format::CloudEventsBinary),
                ("cloudevents_batch", Format::CloudEventsBatch),
            ],
        )?;
        let batch = options.one_of("batch", &[("true", true), ("false", false)])?;
        let one_event = matches!(format, Format::CloudEventsStructured | Format::CloudEventsBinary);
        if batch && one_event {
            let what = "is one event a request; for `batch = 'true'` write `cloudevents_batch`";
            return Err(options.wrong("format", what));
        }
        let content_type = HeaderValue::from_str(options.required("content_type")?)
            .ok()
            .filter(|value| value.to_str().is_ok_and(|text| text.contains('/')))
            .ok_or_else(|| options.wrong("content_type", "is no content type, e.g. `application/json`"))?;
        let template = |name| options.get(name).map(Template::new);
        let (ce_source, ce_type) = (template("ce_source"), template("ce_type"));
        if format == Format::Json && (ce_source.is_some() || ce_type.is_some()) {
            let name = if ce_source.is_some() { "ce_source" } else { "ce_type" };
            return Err(options.wrong(name, "is of no use without a `format` of CloudEvents"));
        }
        let batch = batch || format == Format::CloudEventsBatch;
        let body = template("body");
        let shape = Self { address, format, batch, body, content_type, row_headers, ce_source, ce_type };
        shape.check(options)?;
        Ok(shape)
    }

    fn check(&self, options: &Options<'_>) -> Result<(), SinkError> {
        if self.batch && !self.address.is_constant() {
            return Err(options.wrong("url", "holds columns, but a batch has many rows"));
        }
        if let (true, Some((name, _))) = (self.batch, self.row_headers.first()) {
            return Err(options.wrong(&format!("header.{name}"), "holds columns, but a batch has many rows"));
        }
        if self.body.is_none() && !self.is_json_text() {
            return Err(options.wrong("content_type", "is not of JSON, so the sink needs a `body`"));
        }
        if let Some(template) = self.body.as_ref().filter(|_| self.is_json_text()) {
            // Values cannot break the form, so one row stands for all.
            let row = muster_core::value::Row::new();
            let mut text = Vec::new();
            template.render(Scope { row: &row, event_id: "", rule: "" }, Lands::Json, &mut text);
            if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&text) {
                let what = "gives no JSON, which `content_type` promises";
                return Err(options.wrong("body", what).caused_by(error));
            }
        }
        for (name, template) in [("ce_source", &self.ce_source), ("ce_type", &self.ce_type)] {
            let plain = |byte: u8| byte.is_ascii_graphic();
            let given = options.get(name).unwrap_or_default();
            if template.is_some() && (given.is_empty() || !given.bytes().all(plain)) {
                return Err(options.wrong(name, "must be printable ASCII without blanks"));
            }
        }
        Ok(())
    }

    /// How values are written into the body.
    pub(super) fn lands(&self) -> Lands {
        if self.is_json_text() { Lands::Json } else { Lands::Text }
    }

    pub(super) fn content_type_text(&self) -> &str {
        self.content_type.to_str().unwrap_or_default()
    }

    /// Whether a row's body is a JSON text: by itself, or on a line of its own.
    fn is_json_text(&self) -> bool {
        let text = self.content_type_text();
        let lines = ["application/x-ndjson", "application/jsonl", "application/json-lines"];
        is_json(text) || lines.iter().any(|lines| text.starts_with(lines))
    }
}

/// Where requests go: scheme, host and port are always the same, path and query may be made of the row.
#[derive(Debug)]
pub(super) struct Address {
    base: Url,
    row: Option<(Template, Template)>,
}

impl Address {
    pub(super) fn parse(options: &Options<'_>) -> Result<Self, SinkError> {
        let text = options.required("url")?;
        let template = Template::new(text);
        let (base, row) = if template.is_constant() {
            (template.prefix().to_owned(), None)
        } else {
            let base = template.prefix().to_owned();
            let behind = base.split_once("://").map_or("", |(_, behind)| behind);
            if !behind.contains(['/', '?']) {
                return Err(options.wrong("url", "may hold columns only in its path and its query"));
            }
            let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
            (base, Some((Template::new(path), Template::new(query))))
        };
        let base =
            Url::parse(&base).map_err(|error| options.wrong("url", "is no address").caused_by(error))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(options.wrong("url", "must begin with http:// or https://"));
        }
        Ok(Self { base, row })
    }

    /// The address, as far as it is the same for all rows.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    pub(super) fn is_constant(&self) -> bool {
        self.row.is_none()
    }

    /// The address for a row; none where it is the same for all.
    pub(super) fn of_row(&self, scope: Scope<'_>) -> Result<Option<Url>, SinkError> {
        let Some((path, query)) = &self.row else { return Ok(None) };
        // An empty segment would be another resource's address.
        if let Some(name) = path.unfilled(scope) {
            return Err(rejected(format!("the address needs `{name}`, for which the row has nothing")));
        }
        let mut text = Vec::new();
        path.render(scope, Lands::Address, &mut text);
        let is_dots = |segment: &[u8]| {
            let segment = String::from_utf8_lossy(segment).to_ascii_lowercase().replace("%2e", ".");
            segment == "." || segment == ".."
        };
        if text.split(|byte| *byte == b'/').any(is_dots) {
            return Err(rejected("the row would make `.` or `..` a part of the address's path".to_owned()));
        }
        query.render(scope, Lands::Address, &mut text);
        let url = Url::parse(&String::from_utf8_lossy(&text)).ok();
        let url = url.filter(|url| url.origin() == self.base.origin());
        url.map(Some).ok_or_else(|| rejected("the row makes an address that is none".to_owned()))
    }
}
