//! `run` by an ordinary user, in a user namespace with that user's own id.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use coracle_integration::{Finished, Host, Run, busybox_root, command, coracle, skip, wat};
use serde_json::{Value, json};

const USER: u32 = 64_123;

/// Everything the user needs: copies of the programs (the source tree may be out of reach), a bundle, directories.
fn set_up(host: &Host) -> Result<()> {
    let home = host.path();
    fs::create_dir(home.join("bin"))?;
    let beside = coracle().parent().context("directory of the runtime")?.to_owned();
    // Not by ourselves: what another test forks meanwhile would hold the file open for writing, and nobody can
    // execute it then.
    let copy = |from: &Path| command("cp").arg(from).arg(home.join("bin")).finish()?.ok();
    copy(&coracle())?;
    for handler in ["coracle-wasmc", "coracle-wasi"] {
        if beside.join(handler).exists() {
            copy(&beside.join(handler))?;
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

/// An ordinary user of this host with ids to give away, for newuidmap(1) knows no others: uid, and the first of
/// those ids.
fn user_with_ids() -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let given = |file: &str, name: &str| -> Option<u32> {
        let text = fs::read_to_string(file).ok()?;
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))?;
        let (first, count) = line.split_once(':')?;
        (count.trim().parse::<u32>().ok()? >= 1000).then(|| first.parse().ok())?
    };
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        let first = given("/etc/subuid", name)?;
        (uid != 0 && given("/etc/subgid", name)? == first).then_some((uid, first))
    })
}

#[test]
fn ids_beyond_ones_own_are_mapped_by_newuidmap() -> Result<()> {
    let test = "ids_beyond_ones_own_are_mapped_by_newuidmap";
    let Some((user, first)) = user_with_ids() else {
        skip(test, "no ordinary user has ids in /etc/subuid and /etc/subgid");
        return Ok(());
    };
    if !Path::new("/usr/bin/newuidmap").exists() {
        skip(test, "there is no newuidmap");
        return Ok(());
    }
    let host = Host::new()?;
    set_up(&host)?;
    command("chown").arg("-R").arg(format!("{user}:{user}")).arg(host.path()).finish()?.ok()?;
    edit(&host, |c| {
        c["process"]["args"] = json!(["sh", "-c", "id -u; id -g; tr -s ' ' </proc/self/uid_map"]);
        c["process"]["user"] = json!({"uid": 7, "gid": 8});
        for field in ["uidMappings", "gidMappings"] {
            c["linux"][field] = json!([
                {"containerID": 0, "hostID": user, "size": 1},
                {"containerID": 1, "hostID": first, "size": 1000},
            ]);
        }
    })?;
    let run = |id: &str| as_user(&host).uid(user).gid(user).args(["run", "--bundle", "bundle", id]).finish();
    run("mapped")?.ok()?.prints(&format!("7\n8\n 0 {user} 1\n 1 {first} 1000"))?;
    // Ids of somebody else are newuidmap's to refuse; nothing is left.
    edit(&host, |c| c["linux"]["uidMappings"][1]["hostID"] = json!(1))?;
    run("refused")?.exits(1)?.fails_with("newuidmap")?;
    assert_eq!(
        fs::read_dir(host.path().join("run/coracle"))?
            .flatten()
            .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
            .count(),
        0
    );
    host.is_clean()
}

#[test]
fn a_cgroup_that_may_not_be_made_is_an_error_only_if_it_is_asked_for() -> Result<()> {
    let host = Host::new()?;
    set_up(&host)?;
    edit(&host, |c| c["process"]["args"] = json!(["true"]))?;
    run(&host, "without")?.ok()?;
    edit(&host, |c| c["linux"]["cgroupsPath"] = json!("/coracle-test-not-allowed/x"))?;
    run(&host, "with")?
        .exits(1)?
        .fails_with("unable to apply cgroup configuration")?
        .fails_with("permission denied")?;
    edit(&host, |c| {
        c["linux"]["cgroupsPath"] = json!("");
        c["linux"]["resources"] = json!({"pids": {"limit": 5}});
    })?;
    run(&host, "limited")?
        .exits(1)?
        .fails_with("cannot set pids limit: container could not join or create cgroup")?;
    // Without cgroups at all there is nothing to be denied.
    edit(&host, |c| c["linux"]["resources"] = json!({}))?;
    let disabled = ["--cgroup-manager", "disabled", "run", "--bundle", "bundle", "disabled"];
    as_user(&host).args(disabled).finish()?.ok()?;
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
