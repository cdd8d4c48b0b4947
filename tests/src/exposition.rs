//! The format of `/metrics`, checked as a scraper would: the text exposition format of Prometheus, plus its naming
//! guide as far as this project promises it.

use std::collections::BTreeMap;

/// The samples of a text: each series, as it stands there, with its value.
///
/// # Errors
/// The first line that breaks the format or the naming rules, with the reason.
pub fn parse(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let mut families: BTreeMap<String, (bool, Option<String>)> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        let bad = |reason: &str| Err(format!("{reason}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else { return bad("HELP without a text") };
            let family = families.entry(name.to_owned()).or_default();
            if family.0 || help.trim().is_empty() {
                return bad("a second or an empty HELP");
            }
            family.0 = true;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return bad("TYPE without a type") };
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return bad("unknown type");
            }
            if (kind == "counter") != name.ends_with("_total") {
                return bad("counters, and only they, end in _total");
            }
            let family = families.entry(name.to_owned()).or_default();
            if family.1.replace(kind.to_owned()).is_some() {
                return bad("a second TYPE");
            }
        } else if !line.starts_with('#') && !line.is_empty() {
            let (series, value) = sample(line).ok_or_else(|| format!("no sample: {line}"))?;
            let name = series.split('{').next().unwrap_or_default();
            let family = ["", "_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| families.get(name.strip_suffix(end)?));
            match family {
                Some((true, Some(kind))) if kind == "counter" && value < 0.0 => {
                    return bad("a negative counter");
                }
                Some((true, Some(_))) => {}
                _ => return bad("a sample before its HELP and TYPE"),
            }
            if samples.insert(series.to_owned(), value).is_some() {
                return bad("a series twice");
            }
        }
    }
    if !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    Ok(samples)
}

/// `name{label="value",...} 1.5`, split into series and value.
fn sample(line: &str) -> Option<(&str, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().ok()?,
    };
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    (is_name(name, true) && are_labels(labels)).then_some((series, value))
}

fn is_name(name: &str, colons: bool) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':'))
}

fn are_labels(mut labels: &str) -> bool {
    while !labels.is_empty() {
        let Some((name, rest)) = labels.split_once("=\"") else { return false };
        let Some(end) = end_of_value(rest) else { return false };
        if !is_name(name, false) {
            return false;
        }
        labels = &rest[end + 1..];
        labels = match labels.strip_prefix(',') {
            Some(more) => more,
            None if labels.is_empty() => "",
            None => return false,
        };
    }
    true
}

/// Where the quote stands that ends a label's value.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped && !['\\', '"', 'n'].contains(&c) => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "# HELP a_total Things.\n# TYPE a_total counter\n";

    #[test]
    fn samples_are_read() {
        let text = format!(
            "{HEADER}a_total{{sink=\"x\\\"y, \",rule=\"\"}} 3\n\n# HELP b B.\n# TYPE b gauge\nb -1.5\n"
        );
        let samples = parse(&text).expect("a good text");
        assert_eq!(samples["a_total{sink=\"x\\\"y, \",rule=\"\"}"], 3.0);
        assert_eq!(samples["b"], -1.5);
    }

    #[test]
    fn what_breaks_the_format_is_named() {
        for (bad, reason) in [
            ("a 1\n", "before its HELP"),
            ("# HELP a A.\n# TYPE a counter\na 1\n", "_total"),
            ("# HELP a A.\n# TYPE a gauge\na 1\na 2\n", "twice"),
            ("# HELP a A.\n# TYPE a gauge\na{1x=\"\"} 1\n", "no sample"),
            ("# HELP a A.\n# TYPE a gauge\na{x=\"\\q\"} 1\n", "no sample"),
            ("# HELP a A.\n# TYPE a gauge\na one\n", "no sample"),
            ("# HELP a A.\n# TYPE a gauge\na 1", "does not end"),
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(error.contains(reason), "{bad}: {error}");
        }
        assert!(parse(&format!("{HEADER}a_total -1\n")).expect_err("negative").contains("negative"));
    }
}
