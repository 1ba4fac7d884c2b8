//! Volumes of a pod, and mounts that come and go in them.

use std::fs;
use std::path::Path;

use anyhow::Result;
use coracle_integration::{Run, command};
use k8s_cri::v1::{Capability, ContainerConfig, Mount, MountPropagation};

use crate::client::{Cri, NATIVE, SHOW};

fn volume(config: &mut ContainerConfig, source: &Path, target: &str, readonly: bool, how: MountPropagation) {
    config.mounts.push(Mount {
        container_path: target.to_owned(),
        host_path: source.to_string_lossy().into_owned(),
        readonly,
        propagation: how.into(),
        ..Default::default()
    });
}

fn mount(args: &[&str], on: &Path) -> Result<()> {
    command("mount").args(args).arg(on).finish()?.ok().map(drop)
}

#[test]
fn volumes_files_and_propagation() -> Result<()> {
    let cri = Cri::new()?;
    let pod = cri.pod("pod", &[])?;
    let node = cri.containerd.path().join("volume");
    for dir in ["late", "back"] {
        fs::create_dir_all(node.join(dir))?;
    }
    fs::write(node.join("f"), "a file\n")?;
    // What the directories of volumes are part of on a node: a mount that passes on what is mounted in it.
    mount(&["--bind", &node.to_string_lossy()], &node)?;
    mount(&["--make-shared"], &node)?;

    let mut ids = Vec::new();
    for (name, image, words) in
        [("native", NATIVE, &["sleep", "1000"][..]), ("module", SHOW, &["/main.wasm", "tick"])]
    {
        let mut config = pod.container_config(name, image, words);
        volume(&mut config, &node, "/private", false, MountPropagation::PropagationPrivate);
        volume(&mut config, &node, "/slave", true, MountPropagation::PropagationHostToContainer);
        volume(&mut config, &node.join("f"), "/etc/file", true, MountPropagation::PropagationPrivate);
        if name == "native" {
            volume(&mut config, &node, "/shared", false, MountPropagation::PropagationBidirectional);
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().capabilities =
                Some(Capability { add_capabilities: vec!["SYS_ADMIN".to_owned()], ..Default::default() });
        }
        ids.push(pod.run_with(config)?);
    }
    let [native, module] = &ids[..] else { unreachable!() };
    mount(&["-t", "tmpfs", "tmpfs"], &node.join("late"))?;
    fs::write(node.join("late/f"), "mounted later\n")?;
    let script = "cat /etc/file /slave/late/f; ls /private/late; touch /slave/f /private/new || echo refused";
    let seen = pod.exec_prints(native, &["sh", "-c", script])?;
    assert_eq!(seen, "a file\nmounted later\nrefused\n");
    let words =
        ["cat=/etc/file", "cat=/slave/late/f", "ls=/private/late", "touch=/slave/f", "touch=/private/more"];
    let seen = pod.exec_prints(module, &[&["/main.wasm"], &words[..]].concat())?;
    assert_eq!(seen, "a file\nmounted later\n/slave/f: Read-only file system\nmade /private/more\n");
    assert!(node.join("new").exists() && node.join("more").exists());
    // And from a container to the node.
    pod.exec_prints(
        native,
        &["sh", "-c", "mount -t tmpfs tmpfs /shared/back; echo from inside > /shared/back/f"],
    )?;
    assert_eq!(fs::read_to_string(node.join("back/f"))?, "from inside\n");
    let umount = |dir: &Path| command("umount").arg(dir).finish()?.ok().map(drop);
    for dir in [node.join("back"), node.join("late"), node] {
        umount(&dir)?;
    }
    pod.end()
}
