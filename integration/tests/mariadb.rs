//! A microservice as a guest, `integration/guests/crates/orders`, against a real MariaDB: created, read, updated and
//! deleted over HTTP, as the database's own client sees it.
//!
//! Database, service and clients have a network of the test's own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use coracle_integration::http::{Answer, Client};
use coracle_integration::{Container, Finished, Host, Job, Network, Run, command, eventually, package};
use rustix::process::Signal;
use serde_json::{Value, json};

const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Debian's nobody.
const USER: u32 = 65534;

/// A database server with a data directory of its own, as an ordinary user. It does not outlive the test's thread.
struct Database<'h> {
    host: &'h Host,
    network: Network,
    server: Job,
}

impl<'h> Database<'h> {
    /// Starts it with an empty database `shop` of a user `shop`.
    fn new(host: &'h Host) -> Result<Database<'h>> {
        let data = host.path().join("database");
        fs::create_dir(&data)?;
        chown(&data, Some(USER), Some(USER))?;
        let network = Network::new()?;
        unprivileged(&network, "mariadb-install-db", host)
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=4M"])
            .finish()?
            .ok()?;
        let server = serve(host, &network)?;
        let database = Database { host, network, server };
        database.answers()?;
        database.sql(
            "CREATE DATABASE shop; CREATE USER shop IDENTIFIED BY 'secret'; GRANT ALL ON shop.* TO shop",
        )?;
        Ok(database)
    }

    fn answers(&self) -> Result<()> {
        eventually("the database", || Ok(self.client("SELECT 1").finish()?.code == 0))
    }

    /// The database's own client, at its unix socket.
    fn client(&self, statements: &str) -> Command {
        let mut client = command("mariadb");
        client.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--socket"]);
        client.arg(socket(self.host)).args(["--execute", statements]);
        client
    }

    fn sql(&self, statements: &str) -> Result<Finished> {
        self.client(statements).finish()?.ok()
    }

    fn kill(&mut self) -> Result<()> {
        self.server.signal(Signal::KILL)?;
        self.server.wait()?.exits(137).map(drop)
    }

    fn restart(&mut self) -> Result<()> {
        self.server = serve(self.host, &self.network)?;
        self.answers()
    }

    /// The service in a container, whose own /etc/hosts knows the database.
    fn service(&self, password: &str) -> Result<Container<'h>> {
        let mut container = self.host.empty_container(&["/orders.wasm", &SERVICE.to_string()])?;
        container.install(&package("orders")?, "orders.wasm")?;
        fs::create_dir(container.rootfs().join("etc"))?;
        fs::write(container.rootfs().join("etc/hosts"), "127.0.0.1 database.test database\n")?;
        container.config["process"]["env"] =
            json!([format!("DATABASE_URL=mysql://shop:{password}@database:3306/shop")]);
        container.namespace("network", Some(&self.network.path()));
        container.create()?.start()?;
        container.expect("listening on 127.0.0.1:8080")?;
        Ok(container)
    }

    fn connect(&self) -> Result<Client> {
        self.network.inside(|| Client::connect(SERVICE))
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.connect()?.request(method, path, body.as_bytes())
    }

    fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, &Value::Null)
    }
}

fn socket(host: &Host) -> PathBuf {
    host.path().join("database/socket")
}

/// A program of the database's, in the network, as the ordinary user, and with the data directory.
fn unprivileged(network: &Network, program: &str, host: &Host) -> Command {
    let mut command = command("nsenter");
    command.arg(format!("--net={}", network.path().display()));
    // The signal has to be asked for after the change of user, which forgets it.
    command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=KILL"]);
    command.args([program, "--no-defaults"]);
    command.arg(format!("--datadir={}", host.path().join("database").display()));
    command
}

fn serve(host: &Host, network: &Network) -> Result<Job> {
    unprivileged(network, "mariadbd", host)
        .args([
            "--bind-address=127.0.0.1",
            "--port=3306",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=16M",
        ])
        .arg(format!("--socket={}", socket(host).display()))
        .arg(format!("--pid-file={}", host.path().join("database/pid").display()))
        .job()
}

fn order(product: &str, quantity: u32, price: f64, note: &Value) -> Value {
    json!({"product": product, "quantity": quantity, "price": price, "note": note})
}

fn parse(answer: &Answer) -> Result<Value> {
    Ok(serde_json::from_slice(&answer.body)?)
}

fn end(container: &Container) -> Result<()> {
    let start = Instant::now();
    container.kill("TERM")?;
    assert_eq!(container.wait_exit()?, 143);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    container.delete()
}

const ROWS: &str = "SELECT id, product, quantity, price, note FROM shop.orders ORDER BY id";

#[test]
fn rows_are_created_read_updated_and_deleted() -> Result<()> {
    let host = Host::new()?;
    let database = Database::new(&host)?;
    let container = database.service("secret")?;
    assert_eq!(database.get("/orders")?.is(200)?.text(), "[]");
    let tea = order("Grüner Tee ☕", 3, 2.5, &json!("it's; -- \"fresh\""));
    let created = parse(&database.request("POST", "/orders", &tea)?.is(201)?)?;
    assert_eq!(created["id"], 1);
    database.sql(ROWS)?.prints("1\tGrüner Tee ☕\t3\t2.5\tit's; -- \"fresh\"")?;
    assert_eq!(parse(&database.get("/orders/1")?.is(200)?)?, created);

    // On one connection: several at once, or none of them.
    let mut client = database.connect()?;
    let mut several = json!([order("a", 1, 0.1, &Value::Null), order("b", 2, -1e300, &json!(""))]);
    client.request("POST", "/orders", several.to_string().as_bytes())?.is(201)?;
    several[1]["quantity"] = json!(0);
    let refused = client.request("POST", "/orders", several.to_string().as_bytes())?.is(400)?;
    assert!(refused.text().contains("CONSTRAINT"), "{refused:?}");
    let all = parse(&client.request("GET", "/orders", b"")?.is(200)?)?;
    assert_eq!(all.as_array().map(Vec::len), Some(3));
    assert_eq!(all[2], json!({"id": 3, "product": "b", "quantity": 2, "price": -1e300, "note": ""}));
    database.sql("SELECT product, note IS NULL FROM shop.orders WHERE id > 1")?.prints("a\t1\nb\t0")?;

    // What somebody else writes is seen, and the other way round.
    database.sql("UPDATE shop.orders SET quantity = 7 WHERE id = 2")?;
    assert_eq!(parse(&database.get("/orders/2")?)?["quantity"], 7);
    let coffee = order("coffee", 4_294_967_295, 1.0, &Value::Null);
    for _ in 0..2 {
        database.request("PUT", "/orders/1", &coffee)?.is(200)?;
    }
    database.sql("SELECT product, quantity FROM shop.orders WHERE id = 1")?.prints("coffee\t4294967295")?;
    assert_eq!(database.request("DELETE", "/orders/2", &Value::Null)?.is(204)?.text(), "");
    database.request("DELETE", "/orders/2", &Value::Null)?.is(404)?;
    database.get("/orders/2")?.is(404)?;
    database.request("PUT", "/orders/2", &coffee)?.is(404)?;
    database.sql("SELECT id FROM shop.orders ORDER BY id")?.prints("1\n3")?;

    for (method, path, body, status) in [
        ("POST", "/orders", "{", 400),
        ("POST", "/orders", "", 400),
        ("POST", "/orders", r#"{"product": "x"}"#, 400),
        ("POST", "/orders", r#"{"product": "x", "quantity": -1, "price": 1}"#, 400),
        ("POST", "/orders", r#"{"product": "x", "quantity": 1, "price": 1, "more": 1}"#, 400),
        ("PUT", "/orders/1", "[]", 400),
        ("GET", "/orders/one", "", 400),
        ("GET", "/orders/18446744073709551616", "", 400),
        ("GET", "/orders/1'%20OR%20'1'='1", "", 400),
        ("GET", "/orders/18446744073709551615", "", 404),
        ("GET", "/order", "", 404),
        ("PATCH", "/orders", "", 405),
    ] {
        let answer = client.request(method, path, body.as_bytes())?;
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
    }
    // A product that is longer than the column.
    let long = order(&"x".repeat(101), 1, 1.0, &Value::Null);
    let refused = client.request("POST", "/orders", long.to_string().as_bytes())?.is(400)?;
    assert!(refused.text().contains("too long"), "{refused:?}");
    database.sql("SELECT COUNT(*) FROM shop.orders")?.prints("2")?;
    end(&container)?;
    host.is_clean()
}

#[test]
fn the_database_is_killed_and_comes_back() -> Result<()> {
    let host = Host::new()?;
    let mut database = Database::new(&host)?;
    let container = database.service("secret")?;
    let tea = order("tea", 1, 1.0, &Value::Null);
    for id in 1..=3 {
        assert_eq!(parse(&database.request("POST", "/orders", &tea)?.is(201)?)?["id"], id);
    }
    // A request that waits for the database when that is killed, beside idle connections of the pool.
    let mut lock = database.client("LOCK TABLES shop.orders WRITE; SELECT 'locked'; SELECT SLEEP(1000)");
    let mut lock = lock.arg("--unbuffered").job()?;
    lock.expect("locked")?;
    let mut waiting = database.connect()?;
    waiting.send("POST", "/orders", tea.to_string().as_bytes())?;
    let waits = "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table%'";
    eventually("the request to wait", || Ok(database.sql(waits)?.stdout.trim() == "1"))?;
    database.kill()?;
    lock.wait()?;
    waiting.receive()?.is(503)?;
    for method in ["GET", "DELETE"] {
        let answer = database.request(method, "/orders/1", &Value::Null)?.is(503)?;
        assert!(answer.text().contains("refused"), "{answer:?}");
    }
    database.request("GET", "/elsewhere", &Value::Null)?.is(404)?;

    database.restart()?;
    database.sql(ROWS)?.prints("1\ttea\t1\t1\tNULL\n2\ttea\t1\t1\tNULL\n3\ttea\t1\t1\tNULL")?;
    // At once: no connection of the pool has outlived its server unnoticed.
    for id in 1..=3 {
        database.get(&format!("/orders/{id}"))?.is(200)?;
    }
    waiting
        .request("PUT", "/orders/1", order("milk", 2, 1.0, &Value::Null).to_string().as_bytes())?
        .is(200)?;
    database.sql("SELECT product FROM shop.orders WHERE id = 1")?.prints("milk")?;

    // Once more, without a request meanwhile; and a server that ends as it should.
    database.kill()?;
    database.restart()?;
    database.get("/orders/1")?.is(200)?;
    database.server.signal(Signal::TERM)?;
    database.server.wait()?.ok()?;
    database.restart()?;
    database.request("DELETE", "/orders/1", &Value::Null)?.is(204)?;
    database.sql("SELECT id FROM shop.orders ORDER BY id")?.prints("2\n3")?;

    // The guest ends at once while it waits for the database.
    let mut lock = database.client("LOCK TABLES shop.orders WRITE; SELECT 'locked'; SELECT SLEEP(1000)");
    let mut lock = lock.arg("--unbuffered").job()?;
    lock.expect("locked")?;
    waiting.send("GET", "/orders", b"")?;
    eventually("the request to wait", || Ok(database.sql(waits)?.stdout.trim() == "1"))?;
    end(&container)?;
    assert!(waiting.receive().is_err());
    lock.signal(Signal::TERM)?;
    lock.wait()?;
    host.is_clean()
}

#[test]
fn much_at_once() -> Result<()> {
    const CLIENTS: usize = 32;
    const EACH: usize = 5;
    let host = Host::new()?;
    let database = Database::new(&host)?;
    // A wrong password is an answer of the database's, and no reason to end.
    let stranger = database.service("wrong")?;
    let refused = database.get("/orders")?.is(503)?;
    assert!(refused.text().contains("Access denied"), "{refused:?}");
    end(&stranger)?;

    let container = database.service("secret")?;
    // Many clients share the few connections of the pool.
    std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|number| {
            let mut client = database.connect()?;
            anyhow::Ok(scope.spawn(move || {
                for turn in 0..EACH {
                    let order = order(&format!("{number}"), turn as u32 + 1, 1.0, &Value::Null);
                    client.request("POST", "/orders", order.to_string().as_bytes())?.is(201)?;
                }
                anyhow::Ok(())
            }))
        });
        for client in clients.collect::<Result<Vec<_>>>()? {
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        anyhow::Ok(())
    })?;
    let complete = "SELECT COUNT(*), COUNT(DISTINCT product, quantity), COUNT(DISTINCT id) FROM shop.orders";
    let all = CLIENTS * EACH;
    database.sql(complete)?.prints(&format!("{all}\t{all}\t{all}"))?;
    let connections = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'shop'";
    let connections: usize = database.sql(connections)?.stdout.trim().parse()?;
    ensure!((1..=10).contains(&connections), "{connections} connections");

    // Longer than any buffer on the way, in both directions.
    let note: String = ('a'..='z').cycle().take(4_000_000).collect();
    let created = database.request("POST", "/orders", &order("long", 1, 1.0, &json!(note)))?.is(201)?;
    assert_eq!(parse(&created)?["note"], json!(note));
    let stored = database.sql("SELECT SHA1(note) FROM shop.orders WHERE product = 'long'")?;
    let sum = command("sha1sum").finish_with(note.as_bytes())?.ok()?;
    assert_eq!(stored.stdout.trim(), sum.stdout.split(' ').next().unwrap_or_default());
    let path = format!("/orders/{}", parse(&created)?["id"]);
    assert_eq!(parse(&database.get(&path)?.is(200)?)?["note"], json!(note));
    end(&container)?;
    host.is_clean()
}
