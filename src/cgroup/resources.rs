//! `linux.resources` to cgroup files: the one place where a field finds its controller, and the controller its
//! hierarchy. What is written, and in which order, is in [`v1`] and [`v2`].
//!
//! Zero and the empty string mean "not given", as engines send them for fields they leave alone.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::hierarchy::{Hierarchy, Version, v2_controllers};
use super::{Error, v1, v2};

type Setter = fn(&Path, &LinuxResources) -> Result<(), Error>;

/// A controller, the field of `linux.resources` that asks for it, and who writes its files.
struct Controller {
    field: &'static str,
    asked: fn(&LinuxResources) -> bool,
    v1: Option<(&'static str, Setter)>,
    v2: Option<(&'static str, Setter)>,
}

const CONTROLLERS: [Controller; 9] = [
    Controller {
        field: "cpu",
        asked: has_cpuset,
        v1: Some(("cpuset", v1::cpuset)),
        v2: Some(("cpuset", v2::cpuset)),
    },
    Controller {
        field: "memory",
        asked: has_memory,
        v1: Some(("memory", v1::memory)),
        v2: Some(("memory", v2::memory)),
    },
    Controller { field: "cpu", asked: has_cpu, v1: Some(("cpu", v1::cpu)), v2: Some(("cpu", v2::cpu)) },
    Controller {
        field: "pids",
        asked: |r| r.pids().is_some_and(|pids| pids.limit() != 0),
        v1: Some(("pids", pids)),
        v2: Some(("pids", pids)),
    },
    Controller {
        field: "blockIO",
        asked: has_block_io,
        v1: Some(("blkio", v1::blkio)),
        v2: Some(("io", v2::io)),
    },
    Controller {
        field: "hugepageLimits",
        asked: |r| r.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()),
        v1: Some(("hugetlb", v1::hugetlb)),
        v2: Some(("hugetlb", v2::hugetlb)),
    },
    Controller {
        field: "network.classID",
        asked: |r| r.network().as_ref().and_then(|n| n.class_id()).unwrap_or(0) != 0,
        v1: Some(("net_cls", v1::net_cls)),
        v2: None,
    },
    Controller {
        field: "network.priorities",
        asked: |r| {
            r.network().as_ref().and_then(|n| n.priorities().as_ref()).is_some_and(|list| !list.is_empty())
        },
        v1: Some(("net_prio", v1::net_prio)),
        v2: None,
    },
    Controller {
        field: "rdma",
        asked: |r| r.rdma().as_ref().is_some_and(|limits| !limits.is_empty()),
        v1: Some(("rdma", rdma)),
        v2: Some(("rdma", rdma)),
    },
];

fn has_cpuset(r: &LinuxResources) -> bool {
    let given = |list: &Option<String>| list.as_ref().is_some_and(|list| !list.is_empty());
    r.cpu().as_ref().is_some_and(|cpu| given(cpu.cpus()) || given(cpu.mems()))
}

fn has_memory(r: &LinuxResources) -> bool {
    r.memory().as_ref().is_some_and(|m| {
        [m.limit(), m.swap(), m.reservation(), m.kernel(), m.kernel_tcp()]
            .iter()
            .any(|value| value.unwrap_or(0) != 0)
            || m.swappiness().is_some()
            || m.disable_oom_killer() == Some(true)
            || m.use_hierarchy().is_some()
    })
}

fn has_cpu(r: &LinuxResources) -> bool {
    r.cpu().as_ref().is_some_and(|cpu| {
        [cpu.shares(), cpu.period(), cpu.realtime_period()].iter().any(|value| value.unwrap_or(0) != 0)
            || [cpu.quota(), cpu.realtime_runtime()].iter().any(|value| value.unwrap_or(0) != 0)
            || cpu.burst().is_some()
            || cpu.idle().is_some()
    })
}

fn has_block_io(r: &LinuxResources) -> bool {
    r.block_io().as_ref().is_some_and(|io| {
        let lists = [
            io.throttle_read_bps_device(),
            io.throttle_write_bps_device(),
            io.throttle_read_iops_device(),
            io.throttle_write_iops_device(),
        ];
        io.weight().unwrap_or(0) != 0
            || io.leaf_weight().unwrap_or(0) != 0
            || io.weight_device().as_ref().is_some_and(|list| !list.is_empty())
            || lists.iter().any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    })
}

/// The first limit that is asked for, device rules apart: what a container without a cgroup cannot have.
pub fn first_limit(r: &LinuxResources) -> Option<&'static str> {
    let unified = r.unified().as_ref().is_some_and(|keys| !keys.is_empty());
    let named = CONTROLLERS.iter().find(|controller| (controller.asked)(r)).map(|c| c.field);
    named.or(unified.then_some("unified"))
}

/// The v2 controllers that are asked for.
pub fn v2_controllers_asked(r: &LinuxResources) -> Vec<&str> {
    let named = CONTROLLERS.iter().filter(|c| (c.asked)(r)).filter_map(|c| Some(c.v2?.0));
    let keys = r.unified().iter().flatten().filter_map(|(key, _)| Some(key.split_once('.')?.0));
    named.chain(keys).collect()
}

/// Writes every limit of `r`, but for device rules.
pub fn apply(hierarchies: &[Hierarchy], r: &LinuxResources) -> Result<(), Error> {
    let unified = Unified::of(hierarchies);
    for controller in CONTROLLERS.iter().filter(|controller| (controller.asked)(r)) {
        let on_v1 = controller.v1.and_then(|(name, set)| Some((v1_directory(hierarchies, name)?, set)));
        let on_v2 = match (on_v1, controller.v2, &unified) {
            (None, Some((name, set)), Some(unified)) if unified.has(name)? => Some((unified.0, set)),
            _ => None,
        };
        let Some((directory, set)) = on_v1.or(on_v2) else {
            let name = controller.v2.or(controller.v1).map_or("", |(name, _)| name);
            return Err(Error::NoController { field: controller.field, controller: name });
        };
        set(directory, r)?;
    }
    let keys = r.unified().iter().flatten();
    for (key, value) in keys {
        let Some(unified) = &unified else { return Err(Error::UnifiedOnV1 { key: key.clone() }) };
        v2::unified(unified.0, key, value)?;
    }
    Ok(())
}

/// The container's directory in the v1 hierarchy of a controller.
pub fn v1_directory<'a>(hierarchies: &'a [Hierarchy], controller: &str) -> Option<&'a Path> {
    let has =
        |h: &&Hierarchy| h.version == Version::V1 && h.controllers.iter().any(|name| name == controller);
    hierarchies.iter().find(has).map(|hierarchy| hierarchy.path.as_path())
}

/// The container's directory in the v2 hierarchy.
pub fn v2_directory(hierarchies: &[Hierarchy]) -> Option<&Path> {
    hierarchies.iter().find(|h| h.version == Version::V2).map(|hierarchy| hierarchy.path.as_path())
}

/// The v2 directory, and its controllers once they are asked for.
struct Unified<'a>(&'a Path, std::cell::OnceCell<Vec<String>>);

impl<'a> Unified<'a> {
    fn of(hierarchies: &'a [Hierarchy]) -> Option<Self> {
        v2_directory(hierarchies).map(|path| Self(path, std::cell::OnceCell::new()))
    }

    fn has(&self, controller: &str) -> Result<bool, Error> {
        if self.1.get().is_none() {
            let _ = self.1.set(v2_controllers(self.0)?);
        }
        Ok(self.1.get().into_iter().flatten().any(|name| name == controller))
    }
}

/// Files that v1 and v2 have in common.
fn pids(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    match r.pids().map_or(0, |pids| pids.limit()) {
        0 => Ok(()),
        limit if limit > 0 => super::file::write(dir, "pids.max", &limit.to_string()),
        _ => super::file::write(dir, "pids.max", "max"),
    }
}

fn rdma(dir: &Path, r: &LinuxResources) -> Result<(), Error> {
    for (device, limits) in r.rdma().iter().flatten() {
        let mut line = device.clone();
        for (name, value) in [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())] {
            if let Some(value) = value {
                line += &format!(" {name}={value}");
            }
        }
        super::file::write(dir, "rdma.max", &line)?;
    }
    Ok(())
}
