//! Which engine runs which lines: observed by wrapping runc and crun under podman 4.3 and conmon 2.1, containerd 1.6,
//! dockerd 20.10, CRI-O 1.26 and buildah 1.28, and read in the sources of newer ones.
//!
//! `$B` is the bundle, `$P` the pid file, `$S` a console socket, `$J` a process file, `$R` the state directory, `$L`
//! the log, `$U` a file of resources, `$I` a checkpoint.

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// podman, of which most calls come from conmon.
    Podman,
    /// containerd's shim, for ctr and the CRI.
    Containerd,
    /// The shim of dockerd's containerd.
    Docker,
    /// CRI-O, of which some calls come from conmon.
    Crio,
    Buildah,
}

pub const ENGINES: [Engine; 5] =
    [Engine::Podman, Engine::Containerd, Engine::Docker, Engine::Crio, Engine::Buildah];

/// What an engine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Start,
    Exec,
    Kill,
    Delete,
    State,
    /// Pause, and resume.
    Pause,
    Update,
    Ps,
    /// Checkpoint, and restore.
    Checkpoint,
    /// What the runtime is and can do.
    Version,
}

/// The lines that an engine runs for a verb, in all their forms; no line if it never does.
/// Nobody calls `events`: engines read the cgroup of the init process themselves.
pub fn lines(engine: Engine, verb: Verb) -> &'static [&'static str] {
    use Engine::{Buildah, Containerd, Crio, Docker, Podman};
    match (verb, engine) {
        (Verb::Create, Podman) => &[
            "create --bundle $B --pid-file $P ID",
            "--log-format=json --log $L create --bundle $B --pid-file $P ID",
            "create --bundle $B --pid-file $P --no-new-keyring --preserve-fds 2 ID",
            "create --bundle $B --pid-file $P --no-pivot --console-socket $S ID",
            // --cgroups=disabled
            "--cgroup-manager disabled create --bundle $B --pid-file $P ID",
        ],
        (Verb::Create, Containerd | Docker) => &[
            "create --bundle $B --pid-file $P ID",
            "create --bundle $B --pid-file $P --console-socket $S ID",
            "create --bundle $B --pid-file $P --no-pivot --no-new-keyring ID",
        ],
        (Verb::Create, Crio) => &[
            "--root=$R create --bundle $B --pid-file $P ID",
            "--root=$R create --bundle $B --pid-file $P --console-socket $S ID",
        ],
        (Verb::Create, Buildah) => &[
            "create --bundle $B --pid-file $P ID",
            "create --bundle $B --pid-file $P --console-socket $S ID",
            "create --bundle $B --pid-file $P --no-pivot ID",
            // --runtime-flag=log-format=text
            "--log-format=text create --bundle $B --pid-file $P ID",
        ],

        (Verb::Start, Crio) => &["--root $R start ID"],
        (Verb::Start, _) => &["start ID"],

        (Verb::Exec, Podman) => &[
            "exec --pid-file $P --process $J --detach ID",
            "--log-format=json --log $L exec --pid-file $P --process $J --detach ID",
            "exec --pid-file $P --process $J --detach --tty --console-socket $S ID",
            "exec --pid-file $P --process $J --detach --preserve-fds 2 ID",
        ],
        (Verb::Exec, Containerd | Docker) => &[
            "exec --process $J --detach --pid-file $P ID",
            "exec --process $J --console-socket $S --detach --pid-file $P ID",
        ],
        (Verb::Exec, Crio) => &[
            "--root=$R exec --pid-file $P --process $J --detach ID",
            // Streaming: in the foreground.
            "--root $R exec --process $J ID",
        ],

        (Verb::Kill, Podman) => {
            &["kill ID 15", "kill ID 10", "kill ID 9", "kill --all ID 15", "kill --all ID 9"]
        }
        (Verb::Kill, Containerd) => &["kill ID 15", "kill --all ID 9"],
        (Verb::Kill, Docker) => &["kill ID 15", "kill ID 9"],
        // Names are an image's STOPSIGNAL, as it is written there.
        (Verb::Kill, Crio) => &[
            "--root $R kill ID 15",
            "--root $R kill ID SIGUSR1",
            "--root $R kill ID SIGTERM",
            "--root $R kill ID KILL",
            "--root $R kill -a ID 9",
        ],
        (Verb::Kill, Buildah) => &["kill ID"],

        (Verb::Delete, Podman) => &["delete --force ID"],
        // The second comes from the shim's clean-up, when all is gone already.
        (Verb::Delete, Containerd | Docker) => &["delete ID", "delete --force ID"],
        (Verb::Delete, Crio) => &["--root $R delete --force ID"],
        (Verb::Delete, Buildah) => &["delete ID"],

        (Verb::State, Podman | Buildah) => &["state ID"],
        (Verb::State, Crio) => &["--root $R state ID"],

        (Verb::Pause, Podman | Containerd | Docker) => &["pause ID", "resume ID"],
        (Verb::Pause, Crio) => &["--root $R pause ID", "--root $R resume ID"],

        (Verb::Update, Podman) => &["update --resources=$U ID"],
        (Verb::Update, Containerd | Docker) => &["update --resources - ID"],
        (Verb::Update, Crio) => &["--root $R update --resources - ID"],

        (Verb::Ps, Containerd | Docker) => &["ps --format json ID"],

        (Verb::Checkpoint, Podman) => &[
            "checkpoint --image-path $I --work-path $B ID",
            "checkpoint --image-path $I --work-path $B --leave-running --tcp-established --file-locks ID",
            "checkpoint --image-path $I --work-path $B --pre-dump ID",
            "checkpoint --image-path $I --work-path $B --parent-path ../pre ID",
            "restore --bundle $B --pid-file $P --detach --image-path $I --work-path $B --tcp-established ID",
        ],
        (Verb::Checkpoint, Containerd) => &[
            "checkpoint --image-path $I --work-path $B/work/criu-work --leave-running ID",
            "restore --image-path $I --work-path $B --pid-file $P --detach --no-subreaper --bundle $B ID",
        ],
        (Verb::Checkpoint, Docker) => &[
            "checkpoint --image-path $I --work-path $B/work/criu-work ID",
            "restore --image-path $I --work-path $B --pid-file $P --detach --no-subreaper --bundle $B ID",
        ],
        (Verb::Checkpoint, Crio) => &[
            "--root $R checkpoint --image-path $I --work-path $B --leave-running ID",
            "--root=$R restore --bundle $B --pid-file $P --detach --image-path $I --work-path $B ID",
        ],

        (Verb::Version, Podman) => &["--version"],
        // The shim of containerd 2, dockerd 20.10 and 25, CRI-O from 1.29 on.
        (Verb::Version, Containerd) => &["features"],
        (Verb::Version, Docker | Crio) => &["--version", "features"],

        (Verb::Exec | Verb::Pause | Verb::Update | Verb::Checkpoint | Verb::Version, Buildah)
        | (Verb::State, Containerd | Docker)
        | (Verb::Ps, Podman | Crio | Buildah) => &[],
    }
}

/// The flags before every verb of an engine.
pub fn global(engine: Engine) -> &'static str {
    match engine {
        // No --root: the state is where it is by default.
        Engine::Podman | Engine::Buildah => "",
        Engine::Containerd | Engine::Docker => "--root $R --log $L --log-format json",
        Engine::Crio => "",
    }
}

/// What a line that is not in the table needs to find the container.
pub fn root(engine: Engine) -> &'static str {
    if engine == Engine::Crio { "--root $R " } else { "" }
}
