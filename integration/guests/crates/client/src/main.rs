//! HTTP clients on the crates that guests of 2022 and 2023 were made with.
//!
//! `client KIND METHOD URL [BYTES [TIMEOUT]]` sends a request, with a body of so many bytes, and follows redirections. It
//! prints a line for each reply: the status, then where it redirects to, or the length and the checksum of the body.
//! `TIMEOUT` is in milliseconds.
//!
//! | KIND | is | TLS |
//! |---|---|---|
//! | `rustls` | http_req_wasi 0.11 | on its own socket, by the host module `rustls_client` |
//! | `httpsreq` | http_req_wasi 0.10 | the whole request by the host module `wasmedge_httpsreq` |
//! | `hyper` | hyper_wasi and tokio_wasi, bodies as streams | none |

use std::error::Error;
use std::time::Duration;

mod body;
mod stream;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// As many redirections are followed.
const MAX_REDIRECTIONS: u32 = 5;

/// What to ask for.
pub struct Question {
    method: String,
    url: String,
    bytes: usize,
    timeout: Option<Duration>,
}

/// What came back.
pub struct Answer {
    status: u16,
    location: Option<String>,
    body: body::Sum,
}

/// One of the two versions of http_req, which have the same functions.
macro_rules! http_req {
    ($name:ident $http_req:ident) => {
        fn $name(question: &Question) -> Result<Answer> {
            use $http_req::request::{Method, Request};
            let url = $http_req::uri::Uri::try_from(question.url.as_str())?;
            let method = match question.method.as_str() {
                "GET" => Method::GET,
                "HEAD" => Method::HEAD,
                "POST" => Method::POST,
                other => return Err(other.into()),
            };
            let body = body::whole(question.bytes);
            let mut request = Request::new(&url);
            request.method(method).timeout(question.timeout);
            if !body.is_empty() {
                request.header("Content-Length", &body.len()).body(&body);
            }
            let mut sum = body::Sum::default();
            let response = request.send(&mut sum)?;
            let location = response.headers().get("Location").cloned();
            Ok(Answer { status: response.status_code().into(), location, body: sum })
        }
    };
}

http_req!(rustls http_req);
http_req!(httpsreq http_req_old);

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let (kind, method, url, rest) = match args.as_slice() {
        [kind, method, url, rest @ ..] => (kind, method, url, rest),
        _ => return Err("client KIND METHOD URL [BYTES [TIMEOUT]]".into()),
    };
    let ask = match kind.as_str() {
        "rustls" => rustls,
        "httpsreq" => httpsreq,
        "hyper" => stream::hyper,
        other => return Err(other.into()),
    };
    let number = |index: usize| rest.get(index).map(|it| it.parse::<u64>()).transpose();
    let mut question = Question {
        method: method.clone(),
        url: url.clone(),
        bytes: number(0)?.unwrap_or(0) as usize,
        timeout: number(1)?.map(Duration::from_millis),
    };
    for _ in 0..=MAX_REDIRECTIONS {
        let answer = ask(&question)?;
        match (answer.status, answer.location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => {
                println!("{} {location}", answer.status);
                question.url = absolute(&question.url, &location);
                if answer.status < 307 {
                    question.method = "GET".into();
                    question.bytes = 0;
                }
            }
            (status, _) => {
                println!("{status} {} {:016x}", answer.body.len, answer.body.hash);
                return Ok(());
            }
        }
    }
    Err("too many redirections".into())
}

/// A location that may lack scheme and host.
fn absolute(base: &str, location: &str) -> String {
    let start = base.find("://").map_or(0, |at| at + 3);
    let end = base[start..].find('/').map_or(base.len(), |at| start + at);
    if location.contains("://") { location.into() } else { format!("{}{location}", &base[..end]) }
}
