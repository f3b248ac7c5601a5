//! Until when credentials are good, as they say themselves. Pure.
//!
//! A cluster that refuses credentials says no more than that. Certificates and service account tokens carry their time,
//! so that the person who has to renew them can be told.

use std::fmt;

use k8s_openapi::{ByteString, jiff::Timestamp};
use kube::config::Kubeconfig;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::{Value, json};
use x509_parser::parse_x509_certificate;

use super::registration::Refusal;

/// The time of one credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    what: What,
    from: Option<Timestamp>,
    until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// With its subject.
    ClientCertificate(String),
    Token,
}

impl Validity {
    /// Of what a kubeconfig logs in with, where that says so.
    pub fn of(kubeconfig: &Kubeconfig) -> Option<Self> {
        // The secret parts of the type cannot be looked at otherwise.
        let users =
            kubeconfig.auth_infos.iter().filter_map(|named| serde_json::to_value(&named.auth_info).ok());
        users.into_iter().find_map(|user| {
            let text = |field: &str| user.get(field).and_then(Value::as_str);
            text("client-certificate-data")
                .and_then(of_certificate)
                .or_else(|| text("token").and_then(of_token))
        })
    }

    /// Why a cluster that refuses the credentials does so, where time is the reason.
    pub fn refusal(&self, now: Timestamp) -> Option<Refusal> {
        let Self { what, from, until } = self;
        if now >= *until {
            let message = format!("the {what} in the Secret expired on {}; put a new one there", day(*until));
            return Some(Refusal::new("CredentialsExpired", message));
        }
        let from = from.filter(|from| now < *from)?;
        let message = format!("the {what} in the Secret is not valid before {}; check the clocks", day(from));
        Some(Refusal::new("CredentialsNotYetValid", message))
    }

    /// For people, while all is well.
    pub fn tell(&self) -> String {
        format!("the {} in the Secret expires on {}", self.what, day(self.until))
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientCertificate(subject) => write!(f, "client certificate ({subject})"),
            Self::Token => f.write_str("token"),
        }
    }
}

/// In seconds: what is behind them nobody needs.
fn day(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn of_certificate(data: &str) -> Option<Validity> {
    // The first is the client's own, the others lead to the authority.
    let certificate = CertificateDer::from_pem_slice(&decoded(data)?).ok()?;
    let (_, parsed) = parse_x509_certificate(&certificate).ok()?;
    let validity = parsed.validity();
    Some(Validity {
        what: What::ClientCertificate(parsed.subject().to_string()),
        from: Timestamp::from_second(validity.not_before.timestamp()).ok(),
        until: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
    })
}

/// Of a JSON Web Token (RFC 7519), whose middle part anybody can read.
fn of_token(token: &str) -> Option<Validity> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
        nbf: Option<i64>,
    }
    let mut claims = token.split('.').nth(1)?.replace('-', "+").replace('_', "/");
    while claims.len() % 4 != 0 {
        claims.push('=');
    }
    let claims: Claims = serde_json::from_slice(&decoded(&claims)?).ok()?;
    let at = |second| Timestamp::from_second(second).ok();
    Some(Validity { what: What::Token, from: claims.nbf.and_then(at), until: at(claims.exp)? })
}

fn decoded(base64: &str) -> Option<Vec<u8>> {
    serde_json::from_value::<ByteString>(json!(base64)).ok().map(|bytes| bytes.0)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn kubeconfig(user: &Value) -> Kubeconfig {
        let whole = json!({ "users": [{ "name": "u", "user": user }] });
        serde_json::from_value(whole).expect("a kubeconfig")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn certificate() -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "federation");
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2025, 1, 1);
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        json!({ "client-certificate-data": ByteString(certificate.pem().into_bytes()) })
    }

    #[test]
    fn a_client_certificate_says_until_when_it_is_good() {
        let validity = Validity::of(&kubeconfig(&certificate())).expect("a validity");
        assert_eq!(validity.refusal(at("2024-06-01T00:00:00Z")), None);
        assert!(
            validity.tell().ends_with("in the Secret expires on 2025-01-01T00:00:00Z"),
            "{}",
            validity.tell()
        );
        let expired = validity.refusal(at("2025-01-01T00:00:00Z")).expect("a refusal");
        assert_eq!(expired.reason, "CredentialsExpired");
        assert!(expired.message.contains("client certificate") && expired.message.contains("CN=federation"));
        assert!(expired.message.ends_with("expired on 2025-01-01T00:00:00Z; put a new one there"));
        let early = validity.refusal(at("2023-12-31T23:59:59Z")).expect("a refusal");
        assert_eq!(early.reason, "CredentialsNotYetValid");
    }

    #[test]
    fn a_service_account_token_says_so_too_and_anything_else_says_nothing() {
        // {"exp":1735689600,"nbf":1704067200}, without padding.
        let token = "e30.eyJleHAiOjE3MzU2ODk2MDAsIm5iZiI6MTcwNDA2NzIwMH0.c2lnbmF0dXJl";
        let validity = Validity::of(&kubeconfig(&json!({ "token": token }))).expect("a validity");
        let expired = validity.refusal(at("2025-01-01T00:00:00Z")).expect("a refusal");
        assert_eq!(
            expired.message,
            "the token in the Secret expired on 2025-01-01T00:00:00Z; put a new one there"
        );
        for user in [
            json!({ "token": "guessed" }),
            json!({ "token": "a.b.c" }),
            json!({ "token": "e30.e30.e30" }),
            json!({ "client-certificate-data": "bm90aGluZw==" }),
            json!({}),
        ] {
            assert_eq!(Validity::of(&kubeconfig(&user)), None, "{user}");
        }
    }
}
