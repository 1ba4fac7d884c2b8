//! A guest that means harm: calls of host functions, made from the input, with addresses, lengths, descriptors and paths
//! of which many are good, so that the calls get far, and the others lie just beside.
//!
//! The functions are called as the engine would, but with a memory of ours: what comes before and after it must stay as
//! it is, and must not get out.

use std::mem::ManuallyDrop;
use std::os::fd::AsFd;

use arbitrary::{Result, Unstructured};
use coracle_abi::Import;
use coracle_wasi::descriptors::{Descriptor, Descriptors, Preopen};
use coracle_wasi::memory::Memory;
use coracle_wasi::resolve::{Confinement, open_preopen};
use coracle_wasi::sockets::{self, v1, v2};
use coracle_wasi::state::State;
use coracle_wasi::types::filetype;
use coracle_wasi::{httpsreq, preview1, rustls, unstable};

use crate::sandbox;

/// The guest's memory, a page of WebAssembly's, and what no guest may see or change, on both sides of it.
const SIZE: usize = 1 << 16;
const MARGIN: usize = 1 << 12;
/// What stands in the margins.
const SECRET: [u8; 8] = *b"\xde\xad\x5e\xc4\xe7\xbe\xef\x01";
/// Where the guest has its lists of buffers and of subscriptions, its strings, and room for results.
const BUFFERS: u32 = 0x1000;
const SUBSCRIPTIONS: u32 = 0x2000;
const STRINGS: u32 = 0x4000;
const RESULTS: u32 = 0x8000;
/// As many calls as one guest makes.
const CALLS: usize = 64;

/// Paths in the sandbox and out of it.
const PATHS: &[&[u8]] = &[
    b"file",
    b"new",
    b"dir",
    b"dir/inner",
    b"dir/inner/deep",
    b"relative",
    b"absolute",
    b"up",
    b"loop",
    b"parent/x",
    b".",
    b"..",
    b"/",
    b"",
    b"dir/",
    b"dir/../../outside/canary",
    b"up/canary",
    b"../outside/canary",
    b"outside/canary",
    b"guest/file",
    b"proc/self/mem",
    b"proc/self/fd/0",
    b"proc/self/root/outside",
    b"proc/thread-self/fd",
    b"proc/1/cwd",
    b"proc/self/exe",
    b"proc/sys/kernel/core_pattern",
    b"a\0b",
    b"\xff\xfe",
    &[b'n'; 300],
];

/// Runs the guest that an input describes.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let _ = Guest::new(&mut input).and_then(|mut guest| guest.run(&mut input));
}

struct Guest {
    memory: Vec<u8>,
    size: usize,
    state: State,
    whole: bool,
    canary: Vec<u8>,
    /// Where the strings are, and how long.
    strings: Vec<(u32, u32)>,
}

impl Guest {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        sandbox::fill();
        let whole = input.ratio(1, 4)?;
        let mut descriptors = Descriptors::default();
        for stream in sandbox::streams() {
            let descriptor = Descriptor::new(stream).expect("an open file");
            descriptors.insert(descriptor).expect("there is room");
        }
        for (index, path, name) in [(0, c"/guest", c"/"), (1, c"/guest/dir", c"data"), (2, c"/", c"/all")] {
            if index == 2 && !whole {
                continue;
            }
            let mut directory =
                Descriptor::new(open_preopen(path).expect("a directory")).expect("an open file");
            directory.preopen = Some(Preopen::Directory(name.to_owned()));
            directory.confinement = if index == 2 { Confinement::Container } else { Confinement::Beneath };
            descriptors.insert(directory).expect("there is room");
        }
        let state = State {
            args: vec![c"guest", c"argument"],
            environment: vec![c"A=b"],
            descriptors: ManuallyDrop::new(descriptors),
            ..State::default()
        };
        let size = if input.ratio(1, 16)? { input.int_in_range(0..=SIZE)? } else { SIZE };
        let mut memory: Vec<u8> = SECRET.iter().copied().cycle().take(MARGIN).collect();
        memory.resize(MARGIN + size, 0);
        memory.extend(SECRET.iter().cycle().take(MARGIN));
        let mut guest = Self { memory, size, state, whole, canary: sandbox::canary(), strings: Vec::new() };
        let mut at = STRINGS;
        let own = input.bytes(input.len().min(16))?.to_vec();
        for path in PATHS.iter().copied().chain([own.as_slice()]) {
            guest.store(at, path);
            guest.strings.push((at, path.len() as u32));
            at += path.len() as u32 + 1;
        }
        for index in 0..16 {
            let (address, length) = (RESULTS + index * 64, 8 << (index % 5));
            guest.store(BUFFERS + index * 8, &address.to_le_bytes());
            guest.store(BUFFERS + index * 8 + 4, &u32::to_le_bytes(length));
        }
        Ok(guest)
    }

    /// What the guest itself writes: as far as it goes.
    fn store(&mut self, address: u32, bytes: &[u8]) {
        let memory = &mut self.memory[MARGIN..MARGIN + self.size];
        if let Some(place) = memory.get_mut(address as usize..address as usize + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn run(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..CALLS {
            if input.is_empty() {
                break;
            }
            if input.ratio(1, 6)? {
                let address = self.address(input, BUFFERS)?;
                let bytes: [u8; 8] = input.arbitrary()?;
                self.store(address, &bytes);
            } else {
                self.call(input)?;
            }
        }
        self.judge();
        Ok(())
    }

    fn call(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let number = input.int_in_range(0..=coracle_abi::IMPORTS.len() - 1)?;
        let import = &coracle_abi::IMPORTS[number];
        // These end the process, as they should.
        if matches!(import.name, "proc_exit" | "proc_raise") || import.module == "wasmedge_httpsreq" {
            return Ok(());
        }
        let names = parameters(import);
        let mut arguments = Vec::with_capacity(names.len());
        let mut string = (STRINGS, 0);
        for (name, kind) in names.iter().zip(import.params) {
            arguments.push(self.argument(import.name, name, *kind, &mut string, input)?);
        }
        if matches!(import.name, "poll_oneoff" | "epoll_oneoff") {
            self.hurry(import.module, &arguments);
        }
        let base = self.memory[MARGIN..].as_mut_ptr();
        // SAFETY: the vector is not touched during the call.
        let memory = unsafe { Memory::new(base, self.size as u64) };
        call(import, &mut self.state, memory, &arguments);
        for descriptor in self.state.descriptors.iter() {
            if matches!(descriptor.filetype, filetype::SOCKET_STREAM | filetype::SOCKET_DGRAM) {
                rustix::io::ioctl_fionbio(&descriptor.fd, true).expect("a socket");
            }
        }
        Ok(())
    }

    /// An argument by what its name in the specification says it is.
    fn argument(
        &self,
        function: &str,
        name: &str,
        kind: coracle_abi::ValType,
        string: &mut (u32, u32),
        input: &mut Unstructured<'_>,
    ) -> Result<u64> {
        if kind == coracle_abi::ValType::I64 {
            return Ok(match name {
                "base" | "inheriting" if input.ratio(7, 8)? => (1 << 29) - 1,
                _ if input.ratio(3, 4)? => input.int_in_range(0..=64)?,
                _ => input.arbitrary()?,
            });
        }
        if input.ratio(1, 24)? {
            return Ok(input.arbitrary::<u32>()?.into());
        }
        let is_path = name.ends_with("path") && function.starts_with("path_") || name == "lookup_path";
        Ok(u64::from(match name {
            "fd" | "old_fd" | "new_fd" | "from" | "to" => input.int_in_range(0..=9)?,
            _ if is_path => {
                *string = *input.choose(&self.strings)?;
                string.0
            }
            "path_len" | "old_path_len" | "new_path_len" if function.starts_with("path_") => string.1,
            "iovs" => self.address(input, BUFFERS)?,
            "subscriptions" => self.address(input, SUBSCRIPTIONS)?,
            "iovs_len" | "count" if input.ratio(7, 8)? => input.int_in_range(0..=8)?,
            "family" | "socket_type" | "level" | "codec" | "config" => input.int_in_range(0..=3)?,
            "name" if function.ends_with("sockopt") => input.int_in_range(0..=15)?,
            "lookup" | "oflags" | "flags" | "advice" | "whence" | "how" | "id" => {
                input.int_in_range(0..=31)?
            }
            _ if name.ends_with("len") => input.int_in_range(0..=512)?,
            _ => self.address(input, RESULTS)?,
        }))
    }

    /// An address near one that is good, or at the end of the memory.
    fn address(&self, input: &mut Unstructured<'_>, near: u32) -> Result<u32> {
        Ok(match input.int_in_range(0..=15)? {
            0 => (self.size as u32).wrapping_sub(input.int_in_range(0..=64)?),
            1 => u32::MAX - input.int_in_range(0..=64)?,
            2 => input.arbitrary()?,
            _ => near + input.int_in_range(0..=0x7f)? * 8,
        })
    }

    /// Nobody wants to wait here: makes every clock of a poll one that is over at once.
    fn hurry(&mut self, module: &str, arguments: &[u64]) {
        let (size, timeout) = if module == "wasi_unstable" { (56, 32) } else { (48, 24) };
        for record in 0..16 {
            let at = (arguments[0] as u32).saturating_add(record * size + timeout);
            self.store(at, &1u64.to_le_bytes());
        }
    }

    /// Panics if the guest reached anything that is not its own.
    fn judge(&mut self) {
        let (before, rest) = self.memory.split_at(MARGIN);
        let (memory, after) = rest.split_at(self.size);
        for margin in [before, after] {
            assert!(margin.chunks(8).all(|it| it == SECRET), "memory beside the guest's was changed");
        }
        let sees = |bytes: &[u8]| bytes.windows(8).any(|it| it == SECRET);
        assert!(!sees(memory), "the guest has read memory beside its own");
        for fd in 0..64 {
            let Ok(descriptor) = self.state.descriptors.get(fd) else { continue };
            let path = sandbox::path(descriptor.fd.as_fd());
            let file = path.rsplit('/').next().unwrap_or_default();
            let in_proc = path.starts_with("/proc/");
            assert!(!(in_proc && matches!(file, "mem" | "environ" | "exe" | "auxv")), "the guest has {path}");
            let own = ["/guest", "/streams", "socket:"].iter().any(|own| path.starts_with(own));
            assert!(own || self.whole, "the guest has {path}");
            assert!(
                path.starts_with('/') || path.contains(':'),
                "the guest has {path}, out of the container"
            );
        }
        for content in sandbox::contents() {
            assert!(!sees(&content), "the guest has written memory beside its own to a file");
        }
        if !self.whole {
            assert_eq!(
                sandbox::canary(),
                self.canary,
                "the guest has changed what is outside of its directory"
            );
        }
        // SAFETY: the state is not used again.
        unsafe { ManuallyDrop::drop(&mut self.state.descriptors) };
    }
}

macro_rules! dispatch {
    (
        both { $( fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?; )* }
        preview1 { $( fn $new_name:ident($($new_arg:ident: $new_ty:ty),*) $(-> $new_ret:ty)?; )* }
        network { $(
            $module:literal $from:ident { $( fn $net_name:ident($($net_arg:ident: $net_ty:ty),*) $(-> $net_ret:ty)?; )* }
        )* }
    ) => {
        /// The names of a function's parameters.
        fn parameters(import: &Import) -> &'static [&'static str] {
            let lists: &[(&str, &[&str])] = &[
                $( (stringify!($name), &[$(stringify!($arg)),*]), )*
                $( (stringify!($new_name), &[$(stringify!($new_arg)),*]), )*
                $( $( (stringify!($net_name), &[$(stringify!($net_arg)),*]), )* )*
            ];
            let own = |it: &&(&str, &[&str])| it.0 == import.name && it.1.len() == import.params.len();
            lists.iter().find(own).expect("a function of the list").1
        }

        fn call(import: &Import, state: &mut State, memory: Memory<'_>, arguments: &[u64]) {
            let mut arguments = arguments.iter().copied();
            let mut next = || arguments.next().expect("as many as there are parameters");
            match (import.module, import.name) {
                $( ("wasi_snapshot_preview1", stringify!($name)) => {
                    dispatch!(preview1 state memory next $name($($arg),*))
                } )*
                $( ("wasi_unstable", stringify!($name)) => {
                    dispatch!(unstable state memory next $name($($arg),*))
                } )*
                $( $( ($module, stringify!($net_name))
                    if import.params.len() == <[&str]>::len(&[$(stringify!($net_arg)),*]) =>
                {
                    dispatch!($from state memory next $net_name($($net_arg),*))
                } )* )*
                $( ("wasi_snapshot_preview1", stringify!($new_name)) => {
                    dispatch!(preview1 state memory next $new_name($($new_arg),*))
                } )*
                _ => unreachable!("a function of the list"),
            }
        }
    };
    ($from:ident $state:ident $memory:ident $next:ident $name:ident($($arg:ident),*)) => {{
        $( let $arg = $next(); )*
        let _ = $from::$name($state, $memory, $($arg as _),*);
    }};
}

coracle_abi::for_each_import!(dispatch);
