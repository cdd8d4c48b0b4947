//! Ids, and what is shown of an address. What answers mean is tested against a real server in `tests/webhook.rs`.

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};
use ring::hmac;

use super::config::shown;
use super::encode::{Message, signatures, token};

#[test]
fn an_address_shows_where_it_leads_and_no_more() {
    let url = Url::parse("https://user:pass@hooks.example.com:8443/T0/B0/secret?key=secret#part").unwrap();
    assert_eq!(shown(&url), "https://hooks.example.com:8443");
}

#[test]
fn a_rules_name_in_an_id_has_no_point_and_stays_its_own() {
    assert_eq!(token("hot_pumps-2"), "hot_pumps-2");
    assert_eq!(token("a.b c"), "a~2eb~20c");
    assert_ne!(token("ä"), token("ö"));
}

/// The example of the Standard Webhooks reference libraries.
#[test]
fn the_signature_is_the_standards() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &base64_bytes("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    let message = Message {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
        body: br#"{"test": 2432232314}"#.to_vec(),
        content_type: HeaderValue::from_static("application/json"),
        headers: HeaderMap::new(),
        url: None,
    };
    let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(signatures(std::slice::from_ref(&key), &message, 1_614_265_330), expected);
    let other = hmac::Key::new(hmac::HMAC_SHA256, b"another");
    let both = signatures(&[other, key], &message, 1_614_265_330);
    assert!(both.split(' ').count() == 2 && both.ends_with(&format!(" {expected}")), "{both}");
}

fn base64_bytes(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
