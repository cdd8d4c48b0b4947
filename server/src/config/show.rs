//! `muster config show`: the effective configuration as a TOML file that could be used as it is.

use std::fmt::Write as _;

use super::Layers;
use super::settings::{Kind, Setting, variable};

/// What stands where a secret would.
const MASK: &str = "******";

impl Layers {
    /// The effective configuration as TOML; behind each value where it came from and what it is for. Secrets are
    /// masked.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for (setting, value, origin) in self.iter() {
            let (in_table, leaf) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
            if in_table != table {
                let _ = write!(out, "\n[{in_table}]\n");
                table = in_table;
            }
            let _ = writeln!(out, "# {} ({}); from: {origin}", setting.help, variable(setting.key));
            let _ = writeln!(out, "{leaf} = {}", literal(setting, value));
        }
        out
    }
}

fn literal(setting: &Setting, value: &str) -> String {
    match setting.kind {
        _ if setting.secret => format!("\"{MASK}\""),
        Kind::Count => value.to_owned(),
        _ => toml::Value::String(value.to_owned()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_shown_can_be_read_back_and_says_where_it_came_from() {
        let mut layers = Layers::default();
        layers.add_toml(Path::new("m.toml"), "[mqtt]\nlisten = '[::1]:0'").expect("toml");
        layers.add_flag("--data", "data", "a \"b\"\\c".to_owned()).expect("flag");
        let shown = layers.to_toml();
        assert!(shown.contains("(MUSTER_MQTT__LISTEN); from: m.toml:2\nlisten = \"[::1]:0\"\n"), "{shown}");
        assert!(shown.contains("from: --data\n"), "{shown}");
        let mut again = Layers::default();
        again.add_toml(Path::new("shown.toml"), &shown).expect("read back");
        for ((setting, value, _), (_, value_again, _)) in layers.iter().zip(again.iter()) {
            assert_eq!(value, value_again, "{}", setting.key);
        }
    }

    #[test]
    fn a_secret_is_masked() {
        let setting = Setting { key: "k", default: "", kind: Kind::Text, secret: true, help: "" };
        assert_eq!(literal(&setting, "hunter2"), "\"******\"");
    }
}
