//! podman machine with images of `coracle-vm-image`, as an ordinary user of podman 5 has it. `make test-vm` runs these, for
//! they take what it has made: the directory `CORACLE_MACHINES` with `host`, a root tree with podman 5 and QEMU, `desktops`,
//! where users' homes are, and the images `machine.qcow2.zst` (by `build`), `injected.qcow2` (by `inject`) and `artifact` (by
//! `pack`).

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_integration::http::Client;
use coracle_integration::{
    Finished, Image, Run, archive, busybox_root, c, command, eventually, package, repository, wat, words,
};
use tempfile::TempDir;

/// The user of the host tree.
const USER: u32 = 1000;
/// Without KVM a machine takes a minute to start on two quiet cores, and a module half a minute to compile.
const PATIENCE: Duration = Duration::from_secs(400);

/// Platforms of images.
const NATIVE: (&str, &str) = ("linux", "amd64");
const WASI: (&str, &str) = ("wasi", "wasm");

/// A user's home on the host, with one machine at most. Dropping it removes the machine.
struct Desktop {
    directory: TempDir,
}

fn made(name: &str) -> Result<PathBuf> {
    let all =
        std::env::var_os("CORACLE_MACHINES").context("CORACLE_MACHINES is not set: run `make test-vm`")?;
    Ok(Path::new(&all).join(name))
}

impl Desktop {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("desktop").tempdir_in(made("desktops")?)?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let helpers = directory.path().join("helpers");
        for path in [&directory.path().join("home"), &directory.path().join("run"), &helpers] {
            fs::create_dir(path)?;
            chown(path, Some(USER), Some(USER))?;
        }
        let wrapper = repository().join("vm-image/test-vm/qemu-without-kvm");
        command("cp").arg(wrapper).arg(helpers.join("qemu-system-x86_64")).finish()?.ok()?;
        fs::write(
            directory.path().join("home/containers.conf"),
            "[engine]\nhelper_binaries_dir = [\"/machine/helpers\", \"/usr/bin\", \"/usr/libexec/podman\", \"/usr/libexec\"]\n",
        )?;
        Ok(Self { directory })
    }

    /// The path of a file for the user, who has it at the path that is returned.
    fn lend(&self, file: &Path) -> Result<String> {
        let name = file.file_name().and_then(|name| name.to_str()).context("name")?;
        command("cp")
            .args(["--reflink=auto"])
            .arg(file)
            .arg(self.directory.path().join(name))
            .finish()?
            .ok()?;
        Ok(format!("/machine/{name}"))
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut on_host = command(repository().join("vm-image/test-vm/machine-host"));
        on_host.arg(made("host")?).arg(self.directory.path()).args(arguments);
        Ok(on_host)
    }

    fn machine(&self, arguments: &[&str]) -> Result<Finished> {
        self.command(&[&["podman", "machine"], arguments].concat())?.job()?.wait_for(PATIENCE)
    }

    /// Lets the user's podman take images from a registry without TLS.
    fn trust(&self, registry: SocketAddr) -> Result<()> {
        let mut directory = self.directory.path().join("home");
        // Theirs, for podman puts the machine's configuration there too.
        for part in [".config", "containers"] {
            directory.push(part);
            fs::create_dir(&directory)?;
            chown(&directory, Some(USER), Some(USER))?;
        }
        let text = format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n");
        Ok(fs::write(directory.join("registries.conf"), text)?)
    }

    fn init(&self, image: &str) -> Result<()> {
        let flags = words("--timezone UTC --cpus 1 --memory 2048 --disk-size 8");
        self.machine(&[&["init", "--image", image], &flags[..]].concat())?.ok()?;
        Ok(())
    }

    /// Starts the machine, and waits until it has come to rest, without a failed unit.
    fn start(&self) -> Result<()> {
        let started = self.machine(&["start"]).and_then(Finished::ok).with_context(|| self.console())?;
        ensure!(started.stdout.contains("started successfully"), "{started}");
        let state =
            self.machine(&["ssh", "systemctl is-system-running --wait || systemctl --failed"])?.stdout;
        ensure!(state.trim() == "running", "the machine is {state}");
        Ok(())
    }

    /// What the machine has written to its console at last.
    fn console(&self) -> String {
        let console = fs::read(self.directory.path().join("run/console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<_> = console.lines().collect();
        format!("the machine's console:\n{}\n", lines[lines.len().saturating_sub(60)..].join("\n"))
    }

    /// podman's client, at the machine's socket on the host.
    fn podman(&self, arguments: &[&str]) -> Result<Finished> {
        let socket = "unix:///run/user/1000/podman/podman-machine-default-api.sock";
        self.command(&[&["podman", "--url", socket], arguments].concat())?.job()?.wait_for(PATIENCE)
    }

    /// `podman run --rm`.
    fn run(&self, arguments: &str) -> Result<Finished> {
        self.podman(&[&["run", "--rm"], &words(arguments)[..]].concat())
    }

    /// Loads images of modules, and of busybox, from one archive: a name, the platform and the module of each.
    fn load(&self, images: &[(&str, (&str, &str), Option<&Path>)]) -> Result<()> {
        let roots = tempfile::tempdir_in(self.directory.path())?;
        let mut made = Vec::new();
        for (name, platform, module) in images {
            let root = roots.path().join(name);
            let entrypoint = if let Some(module) = module {
                fs::create_dir(&root)?;
                fs::copy(module, root.join("main.wasm"))?;
                fs::set_permissions(root.join("main.wasm"), fs::Permissions::from_mode(0o755))?;
                "/main.wasm"
            } else {
                busybox_root(&root)?;
                "/bin/busybox"
            };
            made.push((format!("localhost/{name}:latest"), *platform, [entrypoint], root));
        }
        let images: Vec<_> = made
            .iter()
            .map(|(reference, platform, entrypoint, root)| Image {
                reference,
                platform: *platform,
                entrypoint,
                root,
            })
            .collect();
        archive(&images, &self.directory.path().join("images.tar"))?;
        self.podman(&["load", "--input", "/machine/images.tar"])?.ok()?;
        Ok(())
    }

    /// Native and Wasm containers, all the ways to say what a container is.
    fn containers(&self) -> Result<()> {
        let runtime = ["info", "--format", "{{.Host.OCIRuntime.Name}}"];
        // By the connection that `podman machine init` has made the default.
        let mut by_ssh = self.command(&[&["podman", "--remote"], &runtime[..]].concat())?;
        by_ssh.job()?.wait_for(PATIENCE)?.ok()?.prints("coracle")?;
        self.machine(&[&["ssh", "sudo", "podman"], &runtime[..]].concat())?.ok()?.prints("coracle")?;
        self.load(&[
            ("native", NATIVE, None),
            ("show", NATIVE, Some(&c("show")?)),
            ("show-wasi", WASI, Some(&c("show")?)),
            ("exit7", WASI, Some(&wat("exit7")?)),
            ("server", WASI, Some(&package("server")?)),
        ])?;
        self.run("native uname -s")?.ok()?.prints("Linux")?;
        self.run("--annotation run.oci.handler=wasm show args one two")?.ok()?.prints_some("<one>")?;
        self.run("show args one two")?.ok()?.prints_some("<two>")?;
        self.run("--platform wasi/wasm show-wasi args one two")?.ok()?.prints_some("<one>")?;
        self.run("--platform wasi/wasm exit7")?.exits(7)?;
        Ok(())
    }

    /// A directory of the user's home, which is the machine's first volume, in containers, both ways.
    fn volume(&self, text: &str) -> Result<()> {
        let share = self.directory.path().join("home/share");
        if !share.exists() {
            fs::create_dir(&share)?;
            chown(&share, Some(USER), Some(USER))?;
        }
        fs::write(share.join("note"), text)?;
        self.run("-v /home/sailor/share:/data show cat=/data/note")?.ok()?.prints(text)?;
        self.run("-v /home/sailor/share:/data native cp /data/note /data/copy")?.ok()?;
        let copy = fs::read_to_string(share.join("copy"))?;
        ensure!(copy == text, "{copy:?} came back instead of {text:?}");
        Ok(())
    }

    /// A server in a module, reached from the host through the machine.
    fn server(&self) -> Result<()> {
        self.podman(&words("run -d --name server --platform wasi/wasm -p 8080 server"))?.ok()?;
        let port = self.podman(&["port", "server", "8080/tcp"])?.ok()?;
        let port: u16 = port.stdout.trim().rsplit(':').next().context("port")?.parse()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("the server's answer", || {
            let answer = Client::connect(address).and_then(|mut client| client.request("GET", "/", b""));
            Ok(answer.is_ok_and(|answer| answer.body == b"hello\n"))
        })?;
        let body: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let answer = Client::connect(address)?.request("POST", "/echo", &body)?;
        ensure!(answer.body == body, "{} bytes came back", answer.body.len());
        self.podman(&words("rm --force --time 5 server"))?.ok()?;
        Ok(())
    }

    /// What a user does with a machine in its first hour.
    fn use_it(&self) -> Result<()> {
        self.start()?;
        let grown = self.machine(&["ssh", "df --output=size -m / | tail -n 1"])?.ok()?;
        let size: u32 = grown.stdout.trim().parse()?;
        ensure!(size > 7000, "the root file system has {size} MiB of 8 GiB");
        self.containers()?;
        self.volume("first")?;
        self.server()?;
        self.machine(&["stop"])?.ok()?;
        Ok(())
    }

    /// And on the next day.
    fn use_it_again(&self) -> Result<()> {
        self.start()?;
        self.volume("second")?;
        self.run("--platform wasi/wasm show-wasi args again")?.ok()?.prints_some("<again>")?;
        self.machine(&["stop"])?.ok()?;
        Ok(())
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        // After a failure they may run, and podman waits for a guest that does not answer.
        for name in ["podman-machine-default_vm.pid", "gvproxy.pid"] {
            let pid =
                fs::read_to_string(self.directory.path().join("run/podman").join(name)).unwrap_or_default();
            let program = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()));
            if program.is_ok_and(|program| program.contains("podman-machine-default")) {
                let _ = command("kill").arg("-KILL").arg(pid.trim()).finish();
            }
        }
        let _ = self.machine(&["rm", "--force"]);
    }
}

#[test]
fn an_image_that_was_built() -> Result<()> {
    let desktop = Desktop::new()?;
    desktop.init(&desktop.lend(&made("machine.qcow2.zst")?)?)?;
    desktop.use_it()?;
    desktop.use_it_again()
}

#[test]
fn an_image_that_had_crun_alone_and_got_coracle() -> Result<()> {
    let desktop = Desktop::new()?;
    desktop.init(&desktop.lend(&made("injected.qcow2")?)?)?;
    desktop.use_it()?;
    desktop.use_it_again()
}

/// A registry with what `pack` has made. Dropping it ends it.
struct Registry {
    _storage: TempDir,
    _daemon: coracle_integration::Job,
    address: SocketAddr,
    reference: String,
}

impl Registry {
    fn new() -> Result<Self> {
        let storage = tempfile::Builder::new().prefix("coracle-registry").tempdir_in("/var/tmp")?;
        // Free until somebody else takes it.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let configuration = storage.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.path().display()
        );
        fs::write(&configuration, text)?;
        let daemon = command("docker-registry").arg("serve").arg(&configuration).job()?;
        eventually("the registry", || Ok(std::net::TcpStream::connect(address).is_ok()))?;
        let reference = format!("docker://{address}/coracle-machine:latest");
        let layout = format!("oci:{}:latest", made("artifact")?.display());
        command("skopeo")
            .args(["copy", "--all", "--dest-tls-verify=false", &layout, &reference])
            .finish()?
            .ok()?;
        Ok(Self { _storage: storage, _daemon: daemon, address, reference })
    }
}

#[test]
fn an_artifact_in_a_registry() -> Result<()> {
    let registry = Registry::new()?;
    let desktop = Desktop::new()?;
    desktop.trust(registry.address)?;
    desktop.init(&registry.reference)?;
    // The image that was built, so that all that was seen of that one holds for this.
    let built = desktop.directory.path().join("built.qcow2");
    command("zstd").args(["-dq", "-o"]).arg(&built).arg(made("machine.qcow2.zst")?).finish()?.ok()?;
    let pulled = desktop.directory.path().join("home/.local/share/containers/podman/machine/qemu");
    let pulled = fs::read_dir(pulled)?.filter_map(Result::ok).map(|entry| entry.path());
    let pulled = pulled.filter(|path| path.extension().is_some_and(|e| e == "qcow2")).collect::<Vec<_>>();
    ensure!(pulled.len() == 1, "disks: {pulled:?}");
    let same = command("qemu-img").arg("compare").arg(&built).arg(&pulled[0]).finish()?.ok()?;
    ensure!(same.stdout.contains("Images are identical."), "{same}");

    desktop.start()?;
    desktop.load(&[("show-wasi", WASI, Some(&c("show")?))])?;
    desktop.run("--platform wasi/wasm show-wasi args one two")?.ok()?.prints_some("<one>")?;
    desktop.machine(&["stop"])?.ok()?;
    Ok(())
}
