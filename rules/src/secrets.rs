//! References to secrets in options: `${env:NAME}` and `${file:PATH}`. They are kept as written until the server,
//! which may read the environment and files, resolves them.

/// What an option refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretRef<'a> {
    /// A variable of the environment.
    Env(&'a str),
    /// The contents of a file.
    File(&'a str),
}

/// Replaces each reference in `text` by what `look_up` finds; everything else stays.
///
/// # Errors
/// The first error of `look_up`.
pub fn resolve<E>(
    text: &str,
    mut look_up: impl FnMut(SecretRef<'_>) -> Result<String, E>,
) -> Result<String, E> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, tail)) = rest.split_once("${") {
        out.push_str(plain);
        let reference = tail.split_once('}').and_then(|(inner, after)| {
            let env = inner.strip_prefix("env:").map(|name| SecretRef::Env(name.trim()));
            let file = || inner.strip_prefix("file:").map(|path| SecretRef::File(path.trim()));
            env.or_else(file).map(|reference| (reference, after))
        });
        if let Some((reference, after)) = reference {
            out.push_str(&look_up(reference)?);
            rest = after;
        } else {
            out.push_str("${");
            rest = tail;
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_templates_are_not() {
        let resolved = resolve("${env:A}:${file:/run/b}@${clientid}/${", |reference| {
            match reference {
                SecretRef::Env("A") => Ok("user"),
                SecretRef::File("/run/b") => Ok("word"),
                other => Err(format!("{other:?}")),
            }
            .map(str::to_owned)
        });
        assert_eq!(resolved.as_deref(), Ok("user:word@${clientid}/${"));
        assert!(resolve("${env:B}", |_| Err::<String, _>("gone")).is_err());
    }
}
