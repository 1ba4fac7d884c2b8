//! The asynchronous client: bodies never are in memory as a whole, and a timeout is a timer of the guest's own.

use std::io::Write;

use bytes::Bytes;
use hyper::body::{HttpBody, Sender};
use hyper::{Body, Client, Request};

use crate::body::{Sum, PERIOD};
use crate::{Answer, Question, Result};

/// How often the period is sent at once.
const PERIODS: usize = 2000;

/// Asks by hyper.
pub fn hyper(question: &Question) -> Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match question.timeout {
            None => ask(question).await,
            Some(timeout) => tokio::time::timeout(timeout, ask(question)).await?,
        }
    })
}

async fn ask(question: &Question) -> Result<Answer> {
    let request = Request::builder().method(question.method.as_str()).uri(&question.url);
    let request = if question.bytes == 0 {
        request.body(Body::empty())?
    } else {
        let (sender, body) = Body::channel();
        tokio::spawn(send(sender, question.bytes));
        request.header("Content-Length", question.bytes).body(body)?
    };
    let mut response = Client::new().request(request).await?;
    let location = response.headers().get("Location").map(|it| it.to_str().map(String::from)).transpose()?;
    let mut sum = Sum::default();
    while let Some(piece) = response.data().await {
        sum.write_all(&piece?)?;
    }
    Ok(Answer { status: response.status().as_u16(), location, body: sum })
}

/// Ends when everything is sent or nobody wants it any more.
async fn send(mut sender: Sender, mut left: usize) {
    let piece = Bytes::from(PERIOD.repeat(PERIODS));
    while left > 0 {
        let len = left.min(piece.len());
        if sender.send_data(piece.slice(..len)).await.is_err() {
            return;
        }
        left -= len;
    }
}
