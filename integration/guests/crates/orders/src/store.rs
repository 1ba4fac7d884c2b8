//! The orders' table, through a pool of connections that makes the table when it is not there.
//!
//! The crate's pool forgets some of those that wait for a connection when many do, natively too. So nobody waits there:
//! it has more connections than there are turns, for one that is being cleaned up counts as well.

use std::sync::Arc;

use mysql_async::prelude::*;
use mysql_async::{
    params, Conn, Error, Opts, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts, TxOpts,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

const TURNS: usize = 5;
const TABLE: &str = "CREATE TABLE IF NOT EXISTS orders (
    id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
    product VARCHAR(100) NOT NULL,
    quantity INT UNSIGNED NOT NULL CHECK (quantity > 0),
    price DOUBLE NOT NULL,
    note MEDIUMTEXT
) CHARACTER SET utf8mb4";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The database's choice.
    #[serde(skip_deserializing)]
    id: u64,
    product: String,
    quantity: u32,
    price: f64,
    note: Option<String>,
}

#[derive(Clone)]
pub struct Store {
    pool: Pool,
    turns: Arc<Semaphore>,
}

impl Store {
    pub fn new(url: &str) -> Result<Store, Error> {
        let constraints = PoolConstraints::new(TURNS, 2 * TURNS).unwrap_or_default();
        let options = OptsBuilder::from_opts(Opts::from_url(url)?)
            .pool_opts(PoolOpts::default().with_constraints(constraints))
            .init(vec![TABLE]);
        Ok(Store { pool: Pool::new(options), turns: Arc::new(Semaphore::new(TURNS)) })
    }

    /// To be kept for longer than the connection.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    pub async fn all(&self) -> Result<Vec<Order>, Error> {
        let _turn = self.turn().await;
        let mut connection = self.pool.get_conn().await?;
        "SELECT id, product, quantity, price, note FROM orders ORDER BY id".with(()).map(&mut connection, order).await
    }

    pub async fn one(&self, id: u64) -> Result<Option<Order>, Error> {
        let _turn = self.turn().await;
        let mut connection = self.pool.get_conn().await?;
        find(&mut connection, id).await
    }

    /// Adds all or none.
    pub async fn add(&self, mut orders: Vec<Order>) -> Result<Vec<Order>, Error> {
        let _turn = self.turn().await;
        let mut transaction = self.pool.start_transaction(TxOpts::default()).await?;
        for order in &mut orders {
            "INSERT INTO orders (product, quantity, price, note) VALUES (:product, :quantity, :price, :note)"
                .with(values(order))
                .ignore(&mut transaction)
                .await?;
            order.id = transaction.last_insert_id().unwrap_or_default();
        }
        transaction.commit().await?;
        Ok(orders)
    }

    pub async fn replace(&self, id: u64, mut order: Order) -> Result<Option<Order>, Error> {
        order.id = id;
        let _turn = self.turn().await;
        let mut connection = self.pool.get_conn().await?;
        "UPDATE orders SET product = :product, quantity = :quantity, price = :price, note = :note WHERE id = :id"
            .with(values(&order))
            .ignore(&mut connection)
            .await?;
        // What it was counts as not affected.
        find(&mut connection, id).await
    }

    pub async fn remove(&self, id: u64) -> Result<bool, Error> {
        let _turn = self.turn().await;
        let mut connection = self.pool.get_conn().await?;
        "DELETE FROM orders WHERE id = :id".with(params! { id }).ignore(&mut connection).await?;
        Ok(connection.affected_rows() == 1)
    }
}

async fn find(connection: &mut Conn, id: u64) -> Result<Option<Order>, Error> {
    let query = "SELECT id, product, quantity, price, note FROM orders WHERE id = :id".with(params! { id });
    Ok(query.first(connection).await?.map(order))
}

type Columns = (u64, String, u32, f64, Option<String>);

fn order((id, product, quantity, price, note): Columns) -> Order {
    Order { id, product, quantity, price, note }
}

fn values(order: &Order) -> Params {
    let Order { id, product, quantity, price, note } = order;
    params! { id, product, quantity, price, note }
}
