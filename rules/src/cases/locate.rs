//! Where the fields of a JSON object stand in its line. The line was read before, so that it is known to be JSON.

/// The byte where the value of a field begins; `path` leads into objects. Of equal keys the last counts.
pub(super) fn value_of(line: &str, path: &[&str]) -> Option<usize> {
    let bytes = line.as_bytes();
    let (mut depth, mut at, mut found) = (0_usize, 0, None);
    // Which keys of the path are open, one a level.
    let mut along = 0;
    while at < bytes.len() {
        match bytes.get(at)? {
            b'"' => {
                let end = end_of_string(bytes, at)?;
                let after = skip_blank(bytes, end);
                let key = line.get(at + 1..end - 1)?;
                if bytes.get(after) == Some(&b':') {
                    let value = skip_blank(bytes, after + 1);
                    if depth == along + 1 && path.get(along) == Some(&key) {
                        if along + 1 == path.len() {
                            found = Some(value);
                        } else if bytes.get(value) == Some(&b'{') {
                            along += 1;
                        }
                    }
                    at = after;
                } else {
                    at = end - 1;
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                along = along.min(depth.saturating_sub(1));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The column of a byte, from 1, in characters.
pub(super) fn column(line: &str, byte: usize) -> usize {
    line.char_indices().take_while(|(at, _)| *at < byte).count() + 1
}

fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn skip_blank(bytes: &[u8], from: usize) -> usize {
    let blank = bytes.iter().skip(from).take_while(|byte| byte.is_ascii_whitespace()).count();
    from + blank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_at_their_level() {
        let line = r#" {"a": {"b": 1, "x": {"b": 3}}, "b":"a\":", "c": [{"b": 2}], "ü": 1, "d": 5}"#;
        let at = |path: &[&str]| value_of(line, path).map(|at| &line[at..=at]);
        assert_eq!(at(&["a", "b"]), Some("1"));
        assert_eq!(at(&["b"]), Some("\""));
        assert_eq!(at(&["a", "x", "b"]), Some("3"));
        assert_eq!(at(&["c", "b"]), None);
        assert_eq!(at(&["d"]), Some("5"));
        assert_eq!(column("ü:x", 3), 3);
    }
}
