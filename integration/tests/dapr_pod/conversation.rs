//! What a client, a service and its sidecar have to say to each other, whatever engine runs the pod.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use coracle_integration::http::{Answer, Client};
use coracle_integration::{Network, native_package};
use serde_json::{Value, json};

/// Where the service, `integration/guests/crates/dapr`, listens.
pub const SERVICE: &str = "127.0.0.1:8080";
/// The command of the sidecar, `integration/guests/crates/sidecar`, which is a stub of Dapr's.
pub const SIDECAR: [&str; 9] = [
    "/sidecar",
    "--app-id",
    "shop",
    "--app-port",
    "8080",
    "--dapr-http-port",
    "3500",
    "--secrets",
    "/secrets.json",
];

/// Makes the root directory of the sidecar's image: its static program, and the secrets.
pub fn sidecar_root(root: &Path) -> Result<()> {
    fs::create_dir(root)?;
    let program = root.join(SIDECAR[0].trim_start_matches('/'));
    fs::copy(native_package("sidecar")?, &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::write(root.join("secrets.json"), json!({"password": "pa ss", "empty": ""}).to_string())?;
    Ok(())
}

/// A pod with both, as seen from its network.
pub struct Pod(pub Network);

impl Pod {
    fn connect(&self, port: u16) -> Result<Client> {
        self.0.inside(|| Client::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }

    /// Asks the service.
    pub fn service(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.connect(8080)?.request(method, path, body.as_bytes())
    }

    /// Asks the sidecar.
    pub fn sidecar(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.connect(3500)?.request(method, &format!("/v1.0/{path}"), body.as_bytes())
    }

    /// Saves an item through the service if it has this etag.
    fn save_if(&self, etag: &str, path: &str, body: &str) -> Result<Answer> {
        let mut client = self.connect(8080)?;
        let length = body.len();
        write!(client.stream(), "PUT {path} HTTP/1.1\r\nhost: x\r\nif-match: {etag}\r\n")?;
        write!(client.stream(), "content-length: {length}\r\n\r\n{body}")?;
        client.receive()
    }

    /// All that the sidecar has to offer.
    pub fn converse(&self) -> Result<()> {
        self.service("GET", "/ready", "")?.is(204)?;
        self.sidecar("GET", "healthz/outbound", "")?.is(204)?;
        self.state().context("state")?;
        self.secrets().context("secrets")?;
        self.invocation().context("invocation")
    }

    fn state(&self) -> Result<()> {
        let tea = json!({"name": "Grüner Tee", "quantity": 3});
        self.service("GET", "/items/a", "")?.is(404)?;
        self.service("PUT", "/items/a", &tea.to_string())?.is(204)?;
        let saved = self.service("GET", "/items/a", "")?.is(200)?;
        ensure!(parse(&saved)? == tea, "{saved:?}");
        // Where it is: not in the service.
        let kept = self.sidecar("GET", "state/items/a", "")?.is(200)?;
        ensure!(parse(&kept)? == tea && etag(&kept)? == etag(&saved)?, "{kept:?}");

        let first = etag(&saved)?;
        self.save_if(&first, "/items/a", "2")?.is(204)?;
        let refused = self.save_if(&first, "/items/a", "3")?.is(409)?;
        ensure!(parse(&refused)?["errorCode"] == "ERR_STATE_SAVE", "{refused:?}");
        let second = self.service("GET", "/items/a", "")?.is(200)?;
        ensure!(second.text() == "2" && etag(&second)? != first, "{second:?}");

        self.sidecar("POST", "state/items", r#"[{"key": "b", "value": "two"}, {"key": "c", "value": [3]}]"#)?
            .is(204)?;
        let found = self.service("POST", "/find", r#"["c", "a", "none", "b"]"#)?.is(200)?;
        ensure!(parse(&found)? == json!({"a": 2, "b": "two", "c": [3]}), "{found:?}");
        // One transaction of two values, and one in which one of them goes away.
        self.service("POST", "/exchange/a/b", "")?.is(204)?;
        self.service("POST", "/exchange/c/none", "")?.is(204)?;
        let found = self.service("POST", "/find", r#"["a", "b", "c", "none"]"#)?.is(200)?;
        ensure!(parse(&found)? == json!({"a": "two", "b": 2, "none": [3]}), "{found:?}");
        self.service("DELETE", "/items/a", "")?.is(204)?;
        self.service("GET", "/items/a", "")?.is(404)?;

        self.service("PUT", "/items/a", "{")?.is(400)?;
        self.service("POST", "/find", "{}")?.is(400)?;
        let unknown = self.sidecar("GET", "state/nosuch/a", "")?.is(400)?;
        ensure!(parse(&unknown)?["errorCode"] == "ERR_STATE_STORE_NOT_FOUND", "{unknown:?}");
        // Longer than any buffer on the way.
        let long = json!("0123456789".repeat(200_000));
        self.service("PUT", "/items/long", &long.to_string())?.is(204)?;
        ensure!(parse(&self.service("GET", "/items/long", "")?.is(200)?)? == long, "another value");
        Ok(())
    }

    fn secrets(&self) -> Result<()> {
        for (name, status, value) in [("password", 200, "pa ss"), ("empty", 200, ""), ("none", 404, "")] {
            let secret = self.service("GET", &format!("/secret/{name}"), "")?.is(status)?;
            ensure!(secret.text() == value, "{name}: {secret:?}");
        }
        let all = parse(&self.sidecar("GET", "secrets/vault/bulk", "")?.is(200)?)?;
        ensure!(all == json!({"password": {"password": "pa ss"}, "empty": {"empty": ""}}), "{all}");
        Ok(())
    }

    fn invocation(&self) -> Result<()> {
        // The service through the sidecar, and through that the service once more.
        let said = self.sidecar("POST", "invoke/shop/method/shout", "grüße")?.is(200)?;
        ensure!(said.text() == "GRÜSSE", "{said:?}");
        let said = self.service("POST", "/ask/shop/shout", "quiet")?.is(200)?;
        ensure!(said.text() == "QUIET", "{said:?}");
        let said = self.sidecar("POST", "invoke/shop/method/ask/shop/shout", "deep")?.is(200)?;
        ensure!(said.text() == "DEEP", "{said:?}");
        self.sidecar("PUT", "invoke/shop/method/items/invoked", "[true]")?.is(204)?;
        ensure!(self.service("GET", "/items/invoked", "")?.is(200)?.text() == "[true]", "not saved");
        self.sidecar("DELETE", "invoke/shop/method/nosuch", "")?.is(404)?;
        let unknown = self.service("POST", "/ask/nobody/shout", "")?.is(500)?;
        ensure!(parse(&unknown)?["errorCode"] == "ERR_DIRECT_INVOKE", "{unknown:?}");
        std::thread::scope(|scope| {
            let callers = (0..16).map(|number| {
                scope.spawn(move || {
                    let mut client = self.connect(8080)?;
                    for turn in 0..5 {
                        let text = format!("{number} x {turn}");
                        let said = client.request("POST", "/ask/shop/shout", text.as_bytes())?.is(200)?;
                        ensure!(said.text() == text.to_uppercase(), "{said:?}");
                    }
                    Ok(())
                })
            });
            let callers: Vec<_> = callers.collect();
            callers
                .into_iter()
                .try_for_each(|c| c.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }
}

fn parse(answer: &Answer) -> Result<Value> {
    serde_json::from_slice(&answer.body).with_context(|| format!("{answer:?}"))
}

fn etag(answer: &Answer) -> Result<String> {
    let header = answer.headers.iter().find(|(name, _)| name == "etag").context("no etag")?;
    Ok(header.1.clone())
}
