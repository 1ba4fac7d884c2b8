//! `linux.netDevices`: interfaces of the host that become the container's.

use anyhow::Result;
use coracle_integration::{Host, Run, command, skip};
use serde_json::json;

/// One end of a pair of interfaces, gone with the test. The name is this process's own.
struct Interface(String);

impl Interface {
    fn new(letter: char) -> Result<Option<Self>> {
        let name = format!("c{letter}{}", std::process::id());
        let peer = format!("{name}p");
        let made = command("ip").args(["link", "add", &name, "type", "veth", "peer", "name", &peer]).finish();
        Ok(made.is_ok_and(|done| done.code == 0).then_some(Self(peer)).map(|_| Self(name)))
    }

    fn address(&self, address: &[&str]) -> Result<()> {
        command("ip").args(["addr", "add"]).args(address).args(["dev", &self.0]).finish()?.ok().map(drop)
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        // The peer stays here, and takes the other one along.
        let _ = command("ip").args(["link", "del", &format!("{}p", self.0)]).finish();
    }
}

#[test]
fn an_interface_moves_with_its_addresses() -> Result<()> {
    let host = Host::new()?;
    for (users, inside) in [(false, None), (false, Some("inside0")), (true, Some("inside0"))] {
        let Some(interface) = Interface::new('m')? else {
            skip("an_interface_moves_with_its_addresses", "no veth interfaces here");
            return Ok(());
        };
        interface.address(&["10.77.1.2/24", "brd", "10.77.1.99"])?;
        interface.address(&["fd77::2/64", "nodad"])?;
        let name = inside.unwrap_or(&interface.0);
        let mut c = host.container(&["ip", "addr", "show", name])?;
        if users {
            c.namespace("user", None);
            let mappings = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            c.config["linux"]["uidMappings"] = mappings.clone();
            c.config["linux"]["gidMappings"] = mappings;
        }
        c.config["linux"]["netDevices"][&interface.0] =
            inside.map_or(json!({}), |name| json!({"name": name}));
        let out = c.run()?.ok()?.stdout;
        for part in [&format!("{name}@")[..], "inet 10.77.1.2/24 brd 10.77.1.99", "inet6 fd77::2/64", "UP"] {
            assert!(out.contains(part), "no {part:?} in {out}");
        }
    }
    host.is_clean()
}

/// As in a pod, whose namespace another container made.
#[test]
fn an_interface_moves_to_a_namespace_that_is_joined() -> Result<()> {
    let host = Host::new()?;
    let Some(interface) = Interface::new('j')? else {
        skip("an_interface_moves_to_a_namespace_that_is_joined", "no veth interfaces here");
        return Ok(());
    };
    let mut first = host.container(&["sleep", "1000"])?;
    first.create()?.start()?;
    let mut second = host.container(&["ip", "addr", "show", "inside1"])?;
    second.namespace("network", Some(format!("/proc/{}/ns/net", first.pid()?).as_ref()));
    second.config["linux"]["netDevices"][&interface.0] = json!({"name": "inside1"});
    let out = second.run()?.ok()?.stdout;
    assert!(out.contains("inside1@"), "{out}");
    first.exec(&["ip", "link", "show", "inside1"])?.ok()?;
    Ok(())
}

#[test]
fn what_cannot_be_moved_is_named() -> Result<()> {
    let host = Host::new()?;
    let mut c = host.container(&["true"])?;
    c.config["linux"]["netDevices"] = json!({"nosuch77": {}});
    c.try_create(&[])?
        .exits(1)?
        .fails_with("linux.netDevices: nosuch77: find the interface: no such device")?;
    c.config["linux"]["netDevices"] = json!({"lo": {"name": "a-name-that-is-too-long"}});
    c.try_create(&[])?.exits(1)?.fails_with("invalid network device name")?;
    c.config["linux"]["netDevices"] = json!({"lo": {}});
    c.without_namespace("network");
    c.try_create(&[])?.exits(1)?.fails_with("without a private NET namespace")?;
    host.is_clean()
}
