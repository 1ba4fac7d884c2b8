//! `run` by an ordinary user, in a user namespace with that user's own id.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use coracle_integration::{Finished, Host, Run, busybox_root, command, coracle, wat};
use serde_json::{Value, json};

const USER: u32 = 64_123;

/// Everything the user needs: copies of the programs (the source tree may be out of reach), a bundle, directories.
fn set_up(host: &Host) -> Result<()> {
    let home = host.path();
    fs::create_dir(home.join("bin"))?;
    let beside = coracle().parent().context("directory of the runtime")?.to_owned();
    fs::copy(coracle(), home.join("bin/coracle"))?;
    for handler in ["coracle-wasmc", "coracle-wasi"] {
        if beside.join(handler).exists() {
            fs::copy(beside.join(handler), home.join("bin").join(handler))?;
        }
    }
    for dir in ["run", "cache", "bundle"] {
        fs::create_dir(home.join(dir))?;
    }
    busybox_root(&home.join("bundle/rootfs"))?;
    command("chown").arg("-R").arg(format!("{USER}:{USER}")).arg(home).finish()?.ok()?;
    let spec = as_user(host).arg("spec").arg("--rootless").current_dir(home.join("bundle")).finish()?;
    spec.ok()?;
    Ok(())
}

fn as_user(host: &Host) -> Command {
    let mut command = command(host.path().join("bin/coracle"));
    command
        .uid(USER)
        .gid(USER)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", host.path())
        .env("XDG_RUNTIME_DIR", host.path().join("run"))
        .env("XDG_CACHE_HOME", host.path().join("cache"))
        .current_dir(host.path());
    command
}

fn edit(host: &Host, change: impl FnOnce(&mut Value)) -> Result<()> {
    let path = host.path().join("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = json!(false);
    config["root"]["readonly"] = json!(false);
    change(&mut config);
    Ok(fs::write(&path, config.to_string())?)
}

fn run(host: &Host, id: &str) -> Result<Finished> {
    as_user(host).args(["run", "--bundle", "bundle", id]).finish()
}

fn exists(path: &Path) -> bool {
    path.exists()
}

#[test]
fn spec_rootless_maps_the_caller() -> Result<()> {
    let host = Host::new()?;
    set_up(&host)?;
    let config: Value = serde_json::from_slice(&fs::read(host.path().join("bundle/config.json"))?)?;
    assert_eq!(config["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": USER, "size": 1}]));
    let namespaces = config["linux"]["namespaces"].as_array().context("namespaces")?;
    assert!(namespaces.iter().any(|n| n["type"] == "user"));
    assert!(!namespaces.iter().any(|n| n["type"] == "network"));
    Ok(())
}

#[test]
fn run_and_its_exit_code() -> Result<()> {
    let host = Host::new()?;
    set_up(&host)?;
    edit(&host, |c| {
        c["process"]["args"] =
            json!(["sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '; touch /made; exit 7"]);
    })?;
    run(&host, "native")?.exits(7)?.prints(&format!("0\n 0 {USER} 1"))?;
    assert!(exists(&host.path().join("bundle/rootfs/made")));
    host.is_clean()
}

#[test]
fn create_start_exec_delete() -> Result<()> {
    let host = Host::new()?;
    set_up(&host)?;
    edit(&host, |c| c["process"]["args"] = json!(["sleep", "1000"]))?;
    as_user(&host).args(["run", "--detach", "--bundle", "bundle", "c1"]).finish()?.ok()?;
    as_user(&host).args(["exec", "c1", "sh", "-c", "id -u; exit 4"]).finish()?.exits(4)?.prints("0")?;
    as_user(&host).args(["state", "c1"]).finish()?.ok()?;
    as_user(&host).args(["delete", "--force", "c1"]).finish()?.ok()?;
    as_user(&host).args(["state", "c1"]).finish()?.fails_with("container does not exist")?;
    host.is_clean()
}

#[test]
fn a_limit_that_cannot_be_set_is_an_error() -> Result<()> {
    let host = Host::new()?;
    set_up(&host)?;
    edit(&host, |c| {
        c["process"]["args"] = json!(["true"]);
        c["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
    })?;
    run(&host, "limited")?.fails_with("group")?;
    host.is_clean()
}

#[test]
fn a_module_with_the_users_own_cache() -> Result<()> {
    let host = Host::new()?;
    set_up(&host)?;
    let module = host.path().join("bundle/rootfs/hello.wasm");
    fs::copy(wat("exit7")?, &module)?;
    fs::set_permissions(&module, fs::Permissions::from_mode(0o755))?;
    chown(&module, Some(USER), Some(USER))?;
    edit(&host, |c| c["process"]["args"] = json!(["/hello.wasm"]))?;
    for id in ["first", "second"] {
        run(&host, id)?.exits(7)?;
    }
    assert!(fs::read_dir(host.path().join("cache"))?.count() > 0, "the user's own cache is used");
    host.is_clean()
}

/// The runtime has no rights over what its container is made of, so init does it itself.
#[test]
fn volumes_devices_and_clocks_of_an_ordinary_user() -> Result<()> {
    let host = Host::new()?;
    set_up(&host)?;
    let volume = host.path().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("f"), "mine")?;
    edit(&host, |config| {
        let script = "cat /v/f; head -c0 /dev/random && echo ' device'; awk '{ print $2 }' /proc/self/timens_offsets | head -n1";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["devices"] = json!([{"path": "/dev/random", "type": "c", "major": 1, "minor": 8}]);
        config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 77}});
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "time"}));
        }
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.push(json!({"destination": "/v", "source": volume, "options": ["bind", "ro"]}));
        }
    })?;
    run(&host, "own")?.ok()?.prints("mine device\n77")?;

    edit(&host, |config| {
        if let Some(mount) = config["mounts"].as_array_mut().and_then(|mounts| mounts.last_mut()) {
            mount["options"] = json!(["bind", "idmap"]);
        }
    })?;
    run(&host, "idmap")?
        .exits(1)?
        .fails_with("/v: id-mapped mounts are not supported for rootless containers")?;
    Ok(())
}
