//! What a rule says, as text: what is shown of it, and by what it is known again.

use muster_rules::ast::Rule;

/// A hash of what the rule selects (FNV-1a, equal in every build), for what is kept over a restart.
pub(super) fn version(rule: &Rule) -> String {
    let text = select_text(rule);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

pub(super) fn select_text(rule: &Rule) -> &str {
    let span = rule.select.span;
    rule.source.text.get(span.start..span.end).unwrap_or(&rule.source.text)
}
