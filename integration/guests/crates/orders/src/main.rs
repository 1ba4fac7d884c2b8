//! A microservice over a MySQL database: orders are created, read, updated and deleted over HTTP, as JSON.
//!
//! `orders [ADDRESS]` listens there (by default on 0.0.0.0:8080) and prints the address that it has. `DATABASE_URL` says
//! where the database is; it need not be there when the service starts, and may come and go.
//!
//! | request | does | and answers with |
//! |---|---|---|
//! | `POST /orders` | creates one or, from an array, several in one transaction | 201, the order or the orders |
//! | `GET /orders` | | all orders |
//! | `GET /orders/ID` | | the order, or 404 |
//! | `PUT /orders/ID` | replaces the order | the order, or 404 |
//! | `DELETE /orders/ID` | removes the order | 204, or 404 |
//!
//! 400 for what is no order, 405 for another method, 503 when the database cannot be asked.

mod store;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use hyper::body::{to_bytes, HttpBody};
use hyper::service::{make_service_fn, service_fn};
use hyper::{Body, Method, Request, Response, Server, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use store::{Order, Store};

/// Of a request's body.
const MOST: u64 = 8 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args().nth(1).as_deref().unwrap_or("0.0.0.0:8080").parse()?;
    let store = Store::new(&std::env::var("DATABASE_URL")?)?;
    let service = make_service_fn(|_| {
        let store = store.clone();
        async { Ok::<_, Infallible>(service_fn(move |request| respond(request, store.clone()))) }
    });
    let server = Server::try_bind(&address)?.serve(service);
    println!("listening on {}", server.local_addr());
    Ok(server.await?)
}

/// Why there is no answer of the usual kind.
enum Refusal {
    Bad(String),
    Unknown,
    Method,
    Database(mysql_async::Error),
}

impl From<mysql_async::Error> for Refusal {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            // By its first two digits: a value that is out of range, or that a constraint forbids.
            mysql_async::Error::Server(said) if said.state.starts_with("22") || said.state.starts_with("23") => {
                Refusal::Bad(said.message)
            }
            error => Refusal::Database(error),
        }
    }
}

/// One order, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Posted {
    One(Order),
    Several(Vec<Order>),
}

async fn respond(request: Request<Body>, store: Store) -> Result<Response<Body>, Infallible> {
    let (status, body) = match answer(request, &store).await {
        Ok(answer) => answer,
        Err(Refusal::Bad(why)) => (StatusCode::BAD_REQUEST, json!({ "error": why }).to_string()),
        Err(Refusal::Unknown) => (StatusCode::NOT_FOUND, json!({ "error": "not found" }).to_string()),
        Err(Refusal::Method) => (StatusCode::METHOD_NOT_ALLOWED, json!({ "error": "method" }).to_string()),
        Err(Refusal::Database(error)) => {
            eprintln!("database: {}", error);
            (StatusCode::SERVICE_UNAVAILABLE, json!({ "error": error.to_string() }).to_string())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    Ok(response)
}

async fn answer(request: Request<Body>, store: &Store) -> Result<(StatusCode, String), Refusal> {
    let method = request.method().clone();
    let rest = request.uri().path().strip_prefix("/orders").ok_or(Refusal::Unknown)?.to_owned();
    if rest.is_empty() {
        return match method {
            Method::GET => Ok((StatusCode::OK, text(&store.all().await?))),
            Method::POST => Ok((StatusCode::CREATED, create(request, store).await?)),
            _ => Err(Refusal::Method),
        };
    }
    let id = rest.strip_prefix('/').ok_or(Refusal::Unknown)?;
    let id = id.parse().map_err(|_| Refusal::Bad(format!("no number: {:?}", id)))?;
    match method {
        Method::GET => {
            let order = store.one(id).await?.ok_or(Refusal::Unknown)?;
            Ok((StatusCode::OK, text(&order)))
        }
        Method::PUT => {
            let order: Order = read(request).await?;
            let order = store.replace(id, order).await?.ok_or(Refusal::Unknown)?;
            Ok((StatusCode::OK, text(&order)))
        }
        Method::DELETE if store.remove(id).await? => Ok((StatusCode::NO_CONTENT, String::new())),
        Method::DELETE => Err(Refusal::Unknown),
        _ => Err(Refusal::Method),
    }
}

async fn create(request: Request<Body>, store: &Store) -> Result<String, Refusal> {
    Ok(match read(request).await? {
        Posted::One(order) => text(&store.add(vec![order]).await?[0]),
        Posted::Several(orders) => text(&store.add(orders).await?),
    })
}

async fn read<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Refusal> {
    let body = request.into_body();
    if body.size_hint().lower() > MOST {
        return Err(Refusal::Bad("too long".to_owned()));
    }
    let bytes = to_bytes(body).await.map_err(|error| Refusal::Bad(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::Bad(error.to_string()))
}

fn text(value: &impl Serialize) -> String {
    json!(value).to_string()
}
