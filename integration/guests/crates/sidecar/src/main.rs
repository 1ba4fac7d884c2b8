//! A stub of Dapr's sidecar, for tests: the routes of its HTTP API, version 1.0, that services use most, over a map in
//! memory. Statuses and errors are those that Dapr documents.
//!
//! `sidecar --app-id ID --app-port PORT --dapr-http-port PORT --secrets FILE`, the names of the first three being the
//! real one's. There is one store of state, `items`, and one of secrets, `vault`: an object of strings in that file.

mod http;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use serde_json::{json, Value};

use http::{Answer, Request};
use state::State;

struct Sidecar {
    app_id: String,
    app_port: u16,
    secrets: BTreeMap<String, String>,
    state: State,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut flags: HashMap<&str, &str> =
        arguments.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    let mut flag = |name| flags.remove(name).ok_or_else(|| format!("{} is missing", name));
    let port: u16 = flag("--dapr-http-port")?.parse()?;
    let sidecar = Arc::new(Sidecar {
        app_id: flag("--app-id")?.to_owned(),
        app_port: flag("--app-port")?.parse()?,
        secrets: serde_json::from_slice(&fs::read(flag("--secrets")?)?)?,
        state: State::default(),
    });
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, sidecar) = (stream?, sidecar.clone());
        thread::spawn(move || {
            // A client that breaks off is its own affair.
            let _ = http::serve(stream, |request| sidecar.answer(request));
        });
    }
    Ok(())
}

impl Sidecar {
    fn answer(&self, request: Request) -> Answer {
        let Request { method, path, if_match, body } = request;
        let method = method.as_str();
        let path = match path.strip_prefix("/v1.0/") {
            Some(path) => path,
            None => return Answer::empty(404),
        };
        match (method, &path.split('/').collect::<Vec<_>>()[..]) {
            ("GET", ["healthz"] | ["healthz", "outbound"]) => Answer::empty(204),
            ("GET", ["secrets", "vault", "bulk"]) => {
                Answer::json(&json!(self.secrets.keys().map(|name| (name, self.secret(name))).collect::<BTreeMap<_, _>>()))
            }
            ("GET", ["secrets", "vault", name]) if self.secrets.contains_key(*name) => {
                Answer::json(&json!(self.secret(name)))
            }
            ("GET", ["secrets", "vault", _]) => Answer::empty(204),
            ("GET", ["secrets", store, _]) => {
                Answer::error(401, "ERR_SECRET_STORE_NOT_FOUND", &format!("failed finding secret store with key {}", store))
            }
            (_, ["state", "items", rest @ ..]) => {
                self.state.answer(method, rest, &body, if_match)
            }
            (_, ["state", store, ..]) => {
                Answer::error(400, "ERR_STATE_STORE_NOT_FOUND", &format!("state store {} is not found", store))
            }
            (_, ["invoke", app, "method", ..]) => {
                let path = path.splitn(4, '/').nth(3).unwrap_or_default();
                self.invoke(app, method, path, body).unwrap_or_else(|why| Answer::error(500, "ERR_DIRECT_INVOKE", &why))
            }
            _ => Answer::empty(404),
        }
    }

    fn secret(&self, name: &str) -> BTreeMap<String, String> {
        self.secrets.get(name).map(|secret| (name.to_owned(), secret.clone())).into_iter().collect()
    }

    fn invoke(&self, app: &str, method: &str, path: &str, body: Vec<u8>) -> Result<Answer, String> {
        if app != self.app_id {
            return Err(format!("failed to invoke, id: {}, err: no such app", app));
        }
        let url = format!("http://127.0.0.1:{}/{}", self.app_port, path);
        let request = minreq::Request::new(minreq::Method::Custom(method.to_owned()), url);
        let answer = request.with_body(body).with_timeout(20).send();
        let answer = answer.map_err(|error| format!("failed to invoke, id: {}, err: {}", app, error))?;
        Ok(Answer(answer.status_code as u16, answer.into_bytes(), None))
    }
}

impl Answer {
    fn empty(status: u16) -> Answer {
        Answer(status, Vec::new(), None)
    }

    fn json(value: &Value) -> Answer {
        Answer(200, value.to_string().into(), None)
    }

    fn error(status: u16, code: &str, message: &str) -> Answer {
        Answer(status, json!({ "errorCode": code, "message": message }).to_string().into(), None)
    }
}
