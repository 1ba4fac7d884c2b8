//! A service whose neighbour is a Dapr sidecar: it keeps items as the sidecar's state, gets secrets from it, and calls
//! other services through it.
//!
//! `dapr [ADDRESS]` listens there (by default on 0.0.0.0:8080) and prints the address that it has. The sidecar is on
//! this host at the port of `DAPR_HTTP_PORT`.
//!
//! | request | does |
//! |---|---|
//! | `GET /ready` | 204 when the sidecar is healthy |
//! | `GET /items/KEY` | an item with its `etag`, or 404 |
//! | `PUT /items/KEY` | saves an item: JSON; with `if-match` only if it still has this `etag`, else 409 |
//! | `DELETE /items/KEY` | deletes an item |
//! | `POST /find` | several items: an array of keys to an object, without those that there are not |
//! | `POST /exchange/A/B` | two items change their places, in one transaction |
//! | `GET /secret/NAME` | a secret, or 404 |
//! | `POST /ask/APP/METHOD` | calls a service, and passes on what it answers |
//! | `POST /shout` | what others may call: the text in capital letters |
//!
//! What the sidecar refuses is passed on with its status; 502 says that there is none.

mod sidecar;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use hyper::service::{make_service_fn, service_fn};
use hyper::{Body, Method, Request, Response, Server, StatusCode};
use serde_json::{json, Map, Value};

use sidecar::{Answer, Failure, Sidecar};

const STORE: &str = "/state/items";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args().nth(1).as_deref().unwrap_or("0.0.0.0:8080").parse()?;
    let sidecar = Sidecar::new(std::env::var("DAPR_HTTP_PORT").as_deref().unwrap_or("3500").parse()?);
    let service = make_service_fn(|_| {
        let sidecar = sidecar.clone();
        async { Ok::<_, Infallible>(service_fn(move |request| respond(request, sidecar.clone()))) }
    });
    let server = Server::try_bind(&address)?.serve(service);
    println!("listening on {}", server.local_addr());
    Ok(server.await?)
}

async fn respond(request: Request<Body>, sidecar: Sidecar) -> Result<Response<Body>, Infallible> {
    let answer = answer(request, &sidecar).await.unwrap_or_else(|error| {
        eprintln!("{}", error);
        Answer::new(StatusCode::BAD_GATEWAY, error.to_string())
    });
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    if let Some(etag) = answer.etag {
        response.headers_mut().insert("etag", etag);
    }
    Ok(response)
}

async fn answer(request: Request<Body>, sidecar: &Sidecar) -> Result<Answer, Failure> {
    let (head, body) = request.into_parts();
    let body = hyper::body::to_bytes(body).await?;
    let etag = head.headers.get("if-match").cloned();
    let words: Vec<&str> = head.uri.path().trim_start_matches('/').split('/').collect();
    match (&head.method, &words[..]) {
        (&Method::GET, ["ready"]) => sidecar.ask(Method::GET, "/healthz", body).await,
        (&Method::GET, ["items", key]) => found(sidecar.ask(Method::GET, &item(key), body).await?),
        (&Method::PUT, ["items", key]) => {
            let value = match parse(&body) {
                Ok(value) => value,
                Err(refusal) => return Ok(refusal),
            };
            let mut saved = json!({ "key": key, "value": value });
            if let Some(etag) = etag {
                saved["etag"] = json!(etag.to_str()?);
                saved["options"] = json!({ "concurrency": "first-write" });
            }
            sidecar.post(STORE, &json!([saved])).await
        }
        (&Method::DELETE, ["items", key]) => sidecar.ask(Method::DELETE, &item(key), body).await,
        (&Method::POST, ["find"]) => {
            let keys = match parse(&body) {
                Ok(keys) => keys,
                Err(refusal) => return Ok(refusal),
            };
            let answer = sidecar.post("/state/items/bulk", &json!({ "keys": keys, "parallelism": 4 })).await?;
            if answer.status != StatusCode::OK {
                return Ok(answer);
            }
            let items: Vec<Value> = serde_json::from_slice(&answer.body)?;
            let found = items.into_iter().filter(|item| !item["data"].is_null());
            let found: Map<_, _> =
                found.map(|item| (item["key"].as_str().unwrap_or_default().to_owned(), item["data"].clone())).collect();
            Ok(Answer::new(answer.status, json!(found).to_string()))
        }
        (&Method::POST, ["exchange", one, other]) => {
            // Both at once: answers come on connections of their own.
            let (first, second) = (item(one), item(other));
            let first = sidecar.ask(Method::GET, &first, body.clone());
            let (first, second) = tokio::join!(first, sidecar.ask(Method::GET, &second, body.clone()));
            let mut operations = Vec::new();
            for (key, answer) in [(one, second?), (other, first?)] {
                operations.push(match answer.status {
                    StatusCode::NO_CONTENT => json!({ "operation": "delete", "request": { "key": key } }),
                    _ => {
                        let value: Value = serde_json::from_slice(&answer.body)?;
                        json!({ "operation": "upsert", "request": { "key": key, "value": value } })
                    }
                });
            }
            sidecar.post("/state/items/transaction", &json!({ "operations": operations })).await
        }
        (&Method::GET, ["secret", name]) => {
            let answer = found(sidecar.ask(Method::GET, &format!("/secrets/vault/{}", name), body).await?)?;
            if answer.status != StatusCode::OK {
                return Ok(answer);
            }
            let secret: Value = serde_json::from_slice(&answer.body)?;
            Ok(Answer::new(answer.status, secret[name].as_str().unwrap_or_default().to_owned()))
        }
        (&Method::POST, ["ask", app, method]) => {
            sidecar.ask(Method::POST, &format!("/invoke/{}/method/{}", app, method), body).await
        }
        (&Method::POST, ["shout"]) => Ok(Answer::new(StatusCode::OK, String::from_utf8_lossy(&body).to_uppercase())),
        _ => Ok(Answer::new(StatusCode::NOT_FOUND, String::new())),
    }
}

fn parse(body: &[u8]) -> Result<Value, Answer> {
    serde_json::from_slice(body).map_err(|error| Answer::new(StatusCode::BAD_REQUEST, error.to_string()))
}

fn item(key: &str) -> String {
    format!("{}/{}", STORE, key)
}

/// The sidecar has no body for what it does not know.
fn found(mut answer: Answer) -> Result<Answer, Failure> {
    if answer.status == StatusCode::NO_CONTENT {
        answer.status = StatusCode::NOT_FOUND;
    }
    Ok(answer)
}
