//! Hashes that other programs made (Python's hashlib and argon2-cffi, libxcrypt), and hashes of our own.

use proptest::prelude::*;

use super::*;

const SALT: &str = "73616c74";
const ARGON_A: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$6G4RVh\
    Nf4sYzxbGJQzsImNwnF3BnniV+nogjylwdjiA";
const ARGON_B: &str = "$argon2id$v=19$m=64,t=1,p=4$c2FsdHNhbHRzYWx0c2FsdA$gSIawYv7RduauZx5AYOb24PuIwnABfEd";

fn algorithm(json: &str) -> Algorithm {
    serde_json::from_str(json).expect("an algorithm")
}

fn pbkdf2(mac: &str) -> String {
    format!(r#"{{"name":"pbkdf2","mac_fun":"{mac}","iterations":4096,"dk_length":20}}"#)
}

#[test]
fn what_other_programs_made_is_understood() {
    let suffix = r#"{"name":"sha","salt_position":"suffix"}"#;
    let disable = r#"{"name":"sha256","salt_position":"disable"}"#;
    let sha512 = "01b69daff4d449640714d0e177ff35b91c860cd864bd5aaa51473535dbc49b9d\
        c091ef5129929b313b17442168f90c80651415cd6e94c66394241a8ea6ec853b";
    for (how, salt, hash) in [
        (r#"{"name":"plain"}"#, "", "secret"),
        (r#"{"name":"md5"}"#, SALT, "03e08a09627cff51cc73080db87a3071"),
        (suffix, SALT, "87a9b3f07ce53014b413c7b7d5a799ffd03dd472"),
        (r#"{"name":"sha256"}"#, SALT, "b47766a05128b743cca6d5cc48dd853851c759a3be8f2fdb15f7b8446a631fe4"),
        (r#"{"name":"sha256"}"#, SALT, "B47766A05128B743CCA6D5CC48DD853851C759A3BE8F2FDB15F7B8446A631FE4"),
        (disable, "", "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"),
        (r#"{"name":"sha512"}"#, SALT, sha512),
        (&pbkdf2("sha"), SALT, "4e67f0013431853505a6f8d42b3752a836f55199"),
        (&pbkdf2("sha224"), SALT, "f6ac3b64141d938c904199d376cc95da9080d5ea"),
        (&pbkdf2("sha256"), SALT, "898829aff2d1e67121d690cd039780fe03b79a06"),
        (&pbkdf2("sha384"), SALT, "d77ee8ab2c033ca5d3e8f598d047af9e124d2d9d"),
        (&pbkdf2("sha512"), SALT, "d3482b30ad854d02ec778cb027fda32a5afb4e15"),
        (r#"{"name":"bcrypt"}"#, "", "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"),
        (r#"{"name":"argon2id"}"#, "", ARGON_A),
        (r#"{"name":"argon2id"}"#, "", ARGON_B),
    ] {
        let made = Hashed::made_elsewhere(algorithm(how), hash.to_owned(), salt.to_owned());
        let made = made.unwrap_or_else(|error| panic!("{how}: {error}"));
        assert!(made.verify(b"secret"), "{how}");
        for wrong in ["", "Secret", "secret ", "secre"] {
            assert!(!made.verify(wrong.as_bytes()), "{how} takes `{wrong}`");
        }
        assert!(!format!("{made:?}").contains(hash), "{how} shows its hash");
    }
}

#[test]
fn what_is_no_hash_is_refused() {
    for (how, hash) in [
        (r#"{"name":"md5"}"#, "03e08a09627cff51cc73080db87a307"),
        (r#"{"name":"sha256"}"#, "secret"),
        (r#"{"name":"bcrypt"}"#, "secret"),
        (r#"{"name":"bcrypt"}"#, "$2b$31$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"),
        (r#"{"name":"argon2id"}"#, "$argon2id$v=19$m=19456,t=2$c2FsdA$aGFzaA"),
        (r#"{"name":"argon2id"}"#, "$argon2id$v=19$m=4000000,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"),
    ] {
        let made = Hashed::made_elsewhere(algorithm(how), hash.to_owned(), String::new());
        assert!(made.is_err(), "{how} {hash}");
    }
    assert!(algorithm(r#"{"name":"bcrypt","salt_rounds":31}"#).check().is_err());
    assert!(algorithm(r#"{"name":"pbkdf2","mac_fun":"sha","iterations":0}"#).check().is_err());
    assert!(serde_json::from_str::<Algorithm>(r#"{"name":"sha256","salt":"x"}"#).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is hashed is known again after storage, and nothing else is.
    #[test]
    fn a_password_is_known_again(
        password in "\\PC{0,40}",
        other in "\\PC{0,40}",
        salt: [u8; SALT_BYTES],
        at in 0..7_usize,
    ) {
        let hows = [
            r#"{"name":"plain"}"#, r#"{"name":"md5"}"#, r#"{"name":"sha"}"#,
            r#"{"name":"sha256","salt_position":"suffix"}"#,
            r#"{"name":"sha512"}"#, r#"{"name":"bcrypt","salt_rounds":4}"#,
            r#"{"name":"pbkdf2","mac_fun":"sha256","iterations":2}"#,
        ];
        let made = algorithm(hows[at]).hash(password.as_bytes(), salt).expect("a hash");
        let stored = serde_json::to_string(&made).expect("JSON");
        let read: Hashed = serde_json::from_str(&stored).expect("a hash");
        prop_assert!(read.verify(password.as_bytes()));
        prop_assert_eq!(read.verify(other.as_bytes()), other == password);
    }
}

#[test]
fn argon2id_is_ours() {
    let made = Algorithm::Argon2id {}.hash(b"secret", [7; SALT_BYTES]).expect("a hash");
    assert!(made.verify(b"secret") && !made.verify(b"Secret"));
}
