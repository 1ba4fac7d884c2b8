//! The client's end of Dapr's HTTP API, version 1.0.

use std::error::Error;

use hyper::body::{to_bytes, Bytes};
use hyper::client::HttpConnector;
use hyper::header::HeaderValue;
use hyper::{Client, Method, Request, StatusCode};
use serde_json::Value;

/// Why there is no answer.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A sidecar on this host, with the connections to it that can be used again.
#[derive(Clone)]
pub struct Sidecar {
    base: String,
    client: Client<HttpConnector>,
}

/// What a sidecar answers, or a service.
pub struct Answer {
    pub status: StatusCode,
    pub etag: Option<HeaderValue>,
    pub body: Bytes,
}

impl Sidecar {
    pub fn new(port: u16) -> Sidecar {
        Sidecar { base: format!("http://127.0.0.1:{}/v1.0", port), client: Client::new() }
    }

    pub async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{}", self.base, path))
            .header("content-type", "application/json")
            .body(body.into())?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let etag = head.headers.get("etag").cloned();
        Ok(Answer { status: head.status, etag, body: to_bytes(body).await? })
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.ask(Method::POST, path, body.to_string().into()).await
    }
}

impl Answer {
    pub fn new(status: StatusCode, body: String) -> Answer {
        Answer { status, etag: None, body: body.into() }
    }
}
