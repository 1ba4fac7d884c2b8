//! An HTTP server, on the forks of hyper and tokio that WasmEdge's images are made with; natively on the originals.
//!
//! `server [ADDRESS]` listens there (by default on 0.0.0.0:8080) and prints the address that it has. It answers
//!
//! | request | with |
//! |---|---|
//! | `GET /` | a greeting |
//! | `POST /echo` | the body, as it comes |
//! | `GET /bytes/N` | N bytes, of which each is its position modulo 251 |
//! | `GET /after/N` | a greeting after N milliseconds |
//! | `POST /stop` | a word, and then stops: it takes no more connections and ends when the running requests have |

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::service::{make_service_fn, service_fn};
use hyper::{Body, Method, Request, Response, Server, StatusCode};
use tokio::sync::Notify;

/// What goes out at a time, of a download.
const PIECE: usize = 64 << 10;
const MODULUS: usize = 251;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let address: SocketAddr = std::env::args().nth(1).as_deref().unwrap_or("0.0.0.0:8080").parse()?;
    // As a task: tokio for WasmEdge looks at a task that another one has woken at once, at the future that the runtime
    // was started with only after the next event.
    tokio::spawn(serve(address)).await?
}

type Failure = Box<dyn Error + Send + Sync>;

async fn serve(address: SocketAddr) -> Result<(), Failure> {
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let service = make_service_fn(move |_| {
        let stop = stop.clone();
        async { Ok::<_, Infallible>(service_fn(move |request| answer(request, stop.clone()))) }
    });
    let server = Server::try_bind(&address)?.http1_half_close(true).http1_writev(false).serve(service);
    println!("listening on {}", server.local_addr());
    server.with_graceful_shutdown(stopped.notified()).await?;
    println!("stopped");
    Ok(())
}

async fn answer(request: Request<Body>, stop: Arc<Notify>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    let number = |prefix| path.strip_prefix(prefix).and_then(|number: &str| number.parse::<u64>().ok());
    let response = match *request.method() {
        Method::GET if path == "/" => Response::new("hello\n".into()),
        Method::POST if path == "/echo" => Response::new(request.into_body()),
        Method::GET if number("/bytes/").is_some() => download(number("/bytes/").unwrap_or_default()),
        Method::GET if number("/after/").is_some() => {
            tokio::time::sleep(Duration::from_millis(number("/after/").unwrap_or_default())).await;
            Response::new("hello at last\n".into())
        }
        Method::POST if path == "/stop" => {
            stop.notify_one();
            Response::new("stopping\n".into())
        }
        _ => status(StatusCode::NOT_FOUND),
    };
    Ok(response)
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{}\n", code)));
    *response.status_mut() = code;
    response
}

/// A body that is made as fast as the client takes it.
fn download(length: u64) -> Response<Body> {
    let (mut sender, body) = Body::channel();
    tokio::spawn(async move {
        let pattern: Bytes = (0..PIECE + MODULUS).map(|position| (position % MODULUS) as u8).collect();
        let mut sent = 0;
        while sent < length {
            let start = (sent % MODULUS as u64) as usize;
            let piece = (length - sent).min(PIECE as u64) as usize;
            // The client has gone.
            if sender.send_data(pattern.slice(start..start + piece)).await.is_err() {
                return;
            }
            sent += piece as u64;
        }
    });
    Response::builder()
        .header("content-length", length)
        .body(body)
        .unwrap_or_else(|_| status(StatusCode::INTERNAL_SERVER_ERROR))
}
