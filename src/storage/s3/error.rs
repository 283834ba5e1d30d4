//! What an answer of an S3 store means for us.

use super::dispatch::LASTING;
use crate::storage::Error;
use rusoto_core::{RusotoError, request::BufferedHttpResponse};

const WRONG_SECRET: &str = "; check the secret key and the endpoint's address";

/// The action, for messages.
#[derive(Debug, Clone)]
pub struct Tried<'a> {
    pub store: &'a str,
    pub action: &'static str,
    pub name: &'a str,
}

impl Tried<'_> {
    /// An error that is not the store's answer.
    #[must_use]
    pub fn failed(&self, reason: String, retryable: bool) -> Error {
        let (store, name) = (self.store.to_owned(), self.name.to_owned());
        Error::Failed { store, action: self.action, name, reason, retryable }
    }

    fn missing(&self) -> Error {
        Error::NotFound { store: self.store.to_owned(), name: self.name.to_owned() }
    }

    /// Sorts an error of rusoto. Its typed service errors all mean that something is missing.
    #[must_use]
    pub fn sort<E: std::error::Error + 'static>(&self, error: RusotoError<E>) -> Error {
        match error {
            RusotoError::Unknown(answer) => self.answer(&answer),
            RusotoError::Service(error) => {
                let text = error.to_string();
                if text.contains("NoSuchBucket") { self.no_bucket() } else { self.missing() }
            }
            RusotoError::HttpDispatch(error) => {
                let text = error.to_string();
                match text.strip_prefix(LASTING) {
                    Some(reason) => self.failed(reason.to_owned(), false),
                    None => self.failed(text, true),
                }
            }
            other => self.failed(other.to_string(), false),
        }
    }

    fn no_bucket(&self) -> Error {
        self.failed("the bucket does not exist (NoSuchBucket): create it or correct its name".to_owned(), false)
    }

    /// Sorts an answer with a status of failure by its code and, where there is none (`HEAD`), by its status.
    #[must_use]
    pub fn answer(&self, answer: &BufferedHttpResponse) -> Error {
        let body = String::from_utf8_lossy(&answer.body);
        let (code, message) = (element(&body, "Code"), element(&body, "Message"));
        let status = answer.status.as_u16();
        let reason = match (code, message) {
            (Some(code), Some(message)) => format!("{code}: {message} (HTTP {status})"),
            (Some(code), None) => format!("{code} (HTTP {status})"),
            _ => format!("HTTP {status}{}", beginning(&body)),
        };
        let denied = |advice: &str| {
            let (store, name) = (self.store.to_owned(), self.name.to_owned());
            Error::Denied { store, action: self.action, name, reason: format!("{reason}{advice}") }
        };
        // Garage has no code of its own for it.
        let unsigned = message.is_some_and(|it| it.to_ascii_lowercase().contains("invalid signature"));
        match (code.unwrap_or_default(), status) {
            ("AccessDenied", _) if unsigned => denied(WRONG_SECRET),
            ("NoSuchKey" | "NoSuchUpload", _) => self.missing(),
            ("NoSuchBucket", _) => self.no_bucket(),
            ("", 404) => self.missing(),
            ("RequestTimeTooSkewed", _) => denied("; set the clock of this host right (NTP)"),
            ("SignatureDoesNotMatch", _) => denied(WRONG_SECRET),
            ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => denied("; renew the session token"),
            ("QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "StorageFull", _) | (_, 507) => {
                let (store, name) = (self.store.to_owned(), self.name.to_owned());
                Error::Full { store, action: self.action, name, reason }
            }
            ("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed", _) | (_, 301 | 307) => {
                let region = answer.headers.get("x-amz-bucket-region").map(String::as_str).or(element(&body, "Region"));
                let advice = region.map_or_else(String::new, |region| format!("; the bucket is in region '{region}'"));
                self.failed(format!("{reason}{advice}; correct region and endpointUrl of the storage"), false)
            }
            ("RequestTimeout" | "SlowDown" | "InternalError" | "ServiceUnavailable" | "OperationAborted", _)
            | (_, 408 | 429 | 500 | 502 | 503 | 504) => self.failed(reason, true),
            (_, 401 | 403) => denied(""),
            _ => self.failed(reason, false),
        }
    }
}

/// Does this error say that temporary credentials have come to their end?
#[must_use]
pub fn is_expired(error: &Error) -> bool {
    matches!(error, Error::Denied { reason, .. } if ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"].iter().any(|code| reason.starts_with(code)))
}

/// The text of the first `<name>` element. Enough for error documents, whose texts need no decoding to be understood.
#[must_use]
pub fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = after.split_once(&format!("</{name}>"))?;
    Some(text)
}

fn beginning(body: &str) -> String {
    let line: String = body.trim().chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusoto_s3::HeadObjectError;

    fn sorted(status: u16, body: &str) -> Error {
        let answer = BufferedHttpResponse {
            status: http_old::StatusCode::from_u16(status).expect("a status"),
            body: body.to_owned().into(),
            headers: http_old::HeaderMap::default(),
        };
        let tried = Tried { store: "s3 x", action: "put", name: "a" };
        tried.sort(RusotoError::<HeadObjectError>::Unknown(answer))
    }

    #[test]
    fn answers_are_sorted() {
        let xml = |code: &str| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
        for (status, body, want) in [
            (404, String::new(), "missing"),
            (404, xml("NoSuchKey"), "missing"),
            (404, xml("NoSuchUpload"), "missing"),
            (404, xml("NoSuchBucket"), "lasting"),
            (403, xml("AccessDenied"), "denied"),
            (403, String::new(), "denied"),
            (400, xml("ExpiredToken"), "denied"),
            (403, xml("RequestTimeTooSkewed"), "denied"),
            (503, xml("SlowDown"), "passing"),
            (500, xml("InternalError"), "passing"),
            (502, "<html>bad gateway</html>".to_owned(), "passing"),
            (400, xml("RequestTimeout"), "passing"),
            (429, String::new(), "passing"),
            (400, xml("EntityTooLarge"), "lasting"),
            (301, xml("PermanentRedirect"), "lasting"),
            (403, xml("QuotaExceeded"), "full"),
            (507, xml("XMinioStorageFull"), "full"),
            (501, xml("NotImplemented"), "lasting"),
        ] {
            let got = match sorted(status, &body) {
                Error::NotFound { .. } => "missing",
                Error::Denied { .. } => "denied",
                Error::Full { .. } => "full",
                Error::Failed { retryable: true, .. } => "passing",
                Error::Failed { .. } => "lasting",
                other => panic!("{other}"),
            };
            assert_eq!(got, want, "{status} {body}");
        }
        assert!(is_expired(&sorted(400, &xml("ExpiredToken"))));
        assert!(!is_expired(&sorted(403, &xml("AccessDenied"))));
        let wrong_region = sorted(400, "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-1</Region></Error>");
        assert!(wrong_region.to_string().contains("region 'eu-1'"), "{wrong_region}");
    }
}
