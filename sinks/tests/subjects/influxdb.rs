//! InfluxDB in the contract: a proxy is the way that goes away, and a field of another type is what is refused.

use muster_sinks::Built;
use muster_test_servers::Proxy;
use tokio::runtime::Handle;

use crate::influx::{Database, Point};
use crate::{Subject, built, env};

/// Rows go into a measurement a payload, so that those of `poison` meet a field that is there as a string.
pub struct InfluxSubject {
    database: Database,
    proxy: Proxy,
    v1: bool,
}

impl InfluxSubject {
    /// None where the server cannot be had.
    pub async fn new(v1: bool) -> Option<Self> {
        let database = Database::new().await?;
        database.put("m_poison part=\"text\" 1").await;
        let proxy = Proxy::before(database.address()).await;
        Some(Self { database, proxy, v1 })
    }

    fn query(&self, query: &str) -> Vec<Point> {
        tokio::task::block_in_place(|| Handle::current().block_on(self.database.points(query)))
    }
}

impl Subject for InfluxSubject {
    fn build(&self) -> Built {
        let mut options = if self.v1 { self.database.v1() } else { self.database.v2() };
        options[0].1 = format!("http://{}", self.proxy.address());
        options.push(("measurement", "m_${payload}".into()));
        let options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        built("influxdb", &env(std::path::Path::new("/nowhere")), &options)
    }

    fn go_away(&self) {
        self.proxy.close();
    }

    fn come_back(&self) {
        self.proxy.open();
    }

    fn be_cured(&self) {
        self.query("DROP MEASUREMENT \"m_poison\"");
    }

    /// Order within a millisecond is the offset's, which is a field; a measurement a payload has none of its own.
    fn rows(&self) -> Vec<(i64, i64)> {
        let points = self.query("SELECT \"offset\", part FROM /^m_/");
        let place = |point: &Point| Some((point.get("offset")?.as_i64()?, point["part"].as_i64()?));
        let mut rows: Vec<_> = points.iter().filter_map(place).collect();
        rows.sort_unstable();
        rows
    }
}
