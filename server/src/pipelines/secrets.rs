//! References in sink options: `${env:NAME}` and `${file:PATH}` become what they point to when a sink is built, so
//! that a rule file holds no secret. Whatever else stands in `${...}` is a template's and left alone.

/// Replaces the references in `text`. `env` and `file` look them up; the error names what is missing, never a value.
pub(super) fn resolve(
    text: &str,
    env: impl Fn(&str) -> Option<String>,
    file: impl Fn(&str) -> std::io::Result<String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((inner, after_brace)) = after.split_once('}') else {
            out.push_str("${");
            rest = after;
            continue;
        };
        match inner.split_once(':') {
            Some(("env", name)) => {
                let value = env(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
                out.push_str(&value);
            }
            Some(("file", path)) => {
                let value = file(path).map_err(|error| format!("cannot read the file {path}: {error}"))?;
                // Editors and `echo` end a file with a newline that is no part of the secret.
                out.push_str(value.trim_end_matches(['\n', '\r']));
            }
            _ => {
                out.push_str("${");
                out.push_str(inner);
                out.push('}');
            }
        }
        rest = after_brace;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<String, String> {
        let env = |name: &str| (name == "URL").then(|| "http://x/${env:URL}".to_owned());
        let file = |path: &str| match path {
            "/run/key" => Ok("s3cret\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        resolve(text, env, file)
    }

    #[test]
    fn references_are_replaced_once_and_templates_are_left_alone() {
        for (text, want) in [
            ("plain", "plain"),
            ("${env:URL}", "http://x/${env:URL}"),
            ("a ${file:/run/key} b ${clientid} ${.} ${", "a s3cret b ${clientid} ${.} ${"),
            ("${unclosed", "${unclosed"),
        ] {
            assert_eq!(check(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(check("${env:NOPE}").unwrap_err(), "the environment variable NOPE is not set");
        assert!(check("${file:/nope}").unwrap_err().starts_with("cannot read the file /nope: "));
    }
}
