//! The host functions that Coracle's WASI handler offers to a module, as a table.
//!
//! There is one list, the macro [`for_each_import`]. This crate expands it into [`IMPORTS`], which the compiler
//! checks a module against before it spends any time on it; coracle-wasi expands it into the functions themselves,
//! whose Rust signatures must then fit. So what is promised and what is defined cannot differ.

pub mod compiler;
pub mod descriptors;

use std::fmt;

/// A type of the WebAssembly core specification that an import of ours takes or returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValType {
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
    /// A type that no import of ours uses; modules may ask for it all the same.
    Other,
}

/// One host function, by the two names and the type under which a module imports it.
///
/// Two entries may share both names when their types differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Import {
    /// The first name, such as `wasi_snapshot_preview1`.
    pub module: &'static str,
    /// The second name, such as `fd_write`.
    pub name: &'static str,
    /// Types of the parameters.
    pub params: &'static [ValType],
    /// Types of the results.
    pub results: &'static [ValType],
    /// Whether it reaches the network by itself: a module that imports none like it has no use for system calls
    /// about sockets, but on those that it was given.
    pub network: bool,
}

/// Why a module's import cannot be satisfied.
#[derive(Debug, PartialEq, Eq)]
pub enum Unsatisfied {
    /// No host function of that name.
    Unknown {
        /// The import, as `module.name`.
        import: String,
    },
    /// A host function of that name has another type.
    Type {
        /// The import, as `module.name`.
        import: String,
        /// The type that the module asks for.
        wanted: String,
        /// The type that the host function has, or its types.
        offered: String,
    },
}

impl fmt::Display for Unsatisfied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { import } => write!(f, "unknown import {import}"),
            Self::Type { import, wanted, offered } => {
                write!(f, "import {import} has type {offered}, the module wants {wanted}")
            }
        }
    }
}

impl std::error::Error for Unsatisfied {}

/// Every host function with this pair of names.
pub fn find(module: &str, name: &str) -> impl Iterator<Item = &'static Import> {
    IMPORTS.iter().filter(move |import| import.name == name && import.module == module)
}

/// The host function that satisfies a function import of a module.
///
/// # Errors
/// [`Unsatisfied`] prints as the line that a user should see.
pub fn resolve(
    module: &str,
    name: &str,
    params: &[ValType],
    results: &[ValType],
) -> Result<&'static Import, Unsatisfied> {
    if let Some(found) = find(module, name).find(|it| it.params == params && it.results == results) {
        return Ok(found);
    }
    let import = format!("{module}.{name}");
    let offered: Vec<_> = find(module, name).map(|it| signature(it.params, it.results)).collect();
    if offered.is_empty() {
        return Err(Unsatisfied::Unknown { import });
    }
    Err(Unsatisfied::Type { import, wanted: signature(params, results), offered: offered.join(" or ") })
}

fn signature(params: &[ValType], results: &[ValType]) -> String {
    let list = |types: &[ValType]| {
        let names = types.iter().map(|it| match it {
            ValType::I32 => "i32",
            ValType::I64 => "i64",
            ValType::Other => "?",
        });
        format!("({})", names.collect::<Vec<_>>().join(", "))
    };
    format!("{} -> {}", list(params), list(results))
}

/// Hands the list of host functions to the macro named, which receives three groups:
/// `both` is what `wasi_snapshot_preview1` and the older `wasi_unstable` share (by name and type; layouts behind
/// some pointers differ), `preview1` is what only the former has, and `network` is what WasmEdge added to it and beside
/// it for sockets and TLS, each part with the name of the import's module and that of the Rust module.
///
/// WasmEdge has two versions of some functions, of which it gives a module the one that fits the type of its import.
/// Both go by the plain name here as well; the second may also be asked for by a name that says so.
#[macro_export]
macro_rules! for_each_import {
    ($apply:ident) => {
        $apply! {
            both {
                fn args_get(argv: i32, argv_buf: i32) -> i32;
                fn args_sizes_get(argc: i32, argv_buf_size: i32) -> i32;
                fn environ_get(environ: i32, environ_buf: i32) -> i32;
                fn environ_sizes_get(count: i32, environ_buf_size: i32) -> i32;
                fn clock_res_get(id: i32, resolution: i32) -> i32;
                fn clock_time_get(id: i32, precision: i64, time: i32) -> i32;
                fn fd_advise(fd: i32, offset: i64, len: i64, advice: i32) -> i32;
                fn fd_allocate(fd: i32, offset: i64, len: i64) -> i32;
                fn fd_close(fd: i32) -> i32;
                fn fd_datasync(fd: i32) -> i32;
                fn fd_fdstat_get(fd: i32, stat: i32) -> i32;
                fn fd_fdstat_set_flags(fd: i32, flags: i32) -> i32;
                fn fd_fdstat_set_rights(fd: i32, base: i64, inheriting: i64) -> i32;
                fn fd_filestat_get(fd: i32, stat: i32) -> i32;
                fn fd_filestat_set_size(fd: i32, size: i64) -> i32;
                fn fd_filestat_set_times(fd: i32, atim: i64, mtim: i64, flags: i32) -> i32;
                fn fd_pread(fd: i32, iovs: i32, iovs_len: i32, offset: i64, nread: i32) -> i32;
                fn fd_prestat_get(fd: i32, prestat: i32) -> i32;
                fn fd_prestat_dir_name(fd: i32, path: i32, path_len: i32) -> i32;
                fn fd_pwrite(fd: i32, iovs: i32, iovs_len: i32, offset: i64, nwritten: i32) -> i32;
                fn fd_read(fd: i32, iovs: i32, iovs_len: i32, nread: i32) -> i32;
                fn fd_readdir(fd: i32, buf: i32, buf_len: i32, cookie: i64, used: i32) -> i32;
                fn fd_renumber(from: i32, to: i32) -> i32;
                fn fd_seek(fd: i32, offset: i64, whence: i32, position: i32) -> i32;
                fn fd_sync(fd: i32) -> i32;
                fn fd_tell(fd: i32, position: i32) -> i32;
                fn fd_write(fd: i32, iovs: i32, iovs_len: i32, nwritten: i32) -> i32;
                fn path_create_directory(fd: i32, path: i32, path_len: i32) -> i32;
                fn path_filestat_get(fd: i32, lookup: i32, path: i32, path_len: i32, stat: i32) -> i32;
                fn path_filestat_set_times(
                    fd: i32, lookup: i32, path: i32, path_len: i32, atim: i64, mtim: i64, flags: i32
                ) -> i32;
                fn path_link(
                    old_fd: i32, lookup: i32, old_path: i32, old_path_len: i32,
                    new_fd: i32, new_path: i32, new_path_len: i32
                ) -> i32;
                fn path_open(
                    fd: i32, lookup: i32, path: i32, path_len: i32, oflags: i32, base: i64, inheriting: i64,
                    flags: i32, opened: i32
                ) -> i32;
                fn path_readlink(fd: i32, path: i32, path_len: i32, buf: i32, buf_len: i32, used: i32) -> i32;
                fn path_remove_directory(fd: i32, path: i32, path_len: i32) -> i32;
                fn path_rename(
                    old_fd: i32, old_path: i32, old_path_len: i32, new_fd: i32, new_path: i32, new_path_len: i32
                ) -> i32;
                fn path_symlink(
                    old_path: i32, old_path_len: i32, fd: i32, new_path: i32, new_path_len: i32
                ) -> i32;
                fn path_unlink_file(fd: i32, path: i32, path_len: i32) -> i32;
                fn poll_oneoff(subscriptions: i32, events: i32, count: i32, stored: i32) -> i32;
                fn proc_exit(code: i32);
                fn proc_raise(signal: i32) -> i32;
                fn random_get(buf: i32, buf_len: i32) -> i32;
                fn sched_yield() -> i32;
                fn sock_recv(fd: i32, iovs: i32, iovs_len: i32, flags: i32, nread: i32, out_flags: i32) -> i32;
                fn sock_send(fd: i32, iovs: i32, iovs_len: i32, flags: i32, nwritten: i32) -> i32;
                fn sock_shutdown(fd: i32, how: i32) -> i32;
            }
            preview1 {
                fn sock_accept(fd: i32, flags: i32, accepted: i32) -> i32;
            }
            network {
                "wasi_snapshot_preview1" sockets {
                    fn sock_open(family: i32, socket_type: i32, opened: i32) -> i32;
                    fn sock_bind(fd: i32, address: i32, port: i32) -> i32;
                    fn sock_listen(fd: i32, backlog: i32) -> i32;
                    fn sock_connect(fd: i32, address: i32, port: i32) -> i32;
                    fn sock_send_to(
                        fd: i32, iovs: i32, iovs_len: i32, address: i32, port: i32, flags: i32, nwritten: i32
                    ) -> i32;
                    fn sock_getsockopt(fd: i32, level: i32, name: i32, value: i32, value_len: i32) -> i32;
                    fn sock_setsockopt(fd: i32, level: i32, name: i32, value: i32, value_len: i32) -> i32;
                    fn sock_getaddrinfo(
                        node: i32, node_len: i32, service: i32, service_len: i32, hints: i32, list: i32,
                        list_len: i32, found: i32
                    ) -> i32;
                    fn epoll_oneoff(subscriptions: i32, events: i32, count: i32, stored: i32) -> i32;
                }
                "wasi_snapshot_preview1" v1 {
                    fn sock_accept(fd: i32, accepted: i32) -> i32;
                    fn sock_recv_from(
                        fd: i32, iovs: i32, iovs_len: i32, address: i32, flags: i32, nread: i32, out_flags: i32
                    ) -> i32;
                    fn sock_getlocaladdr(fd: i32, address: i32, family: i32, port: i32) -> i32;
                    fn sock_getpeeraddr(fd: i32, address: i32, family: i32, port: i32) -> i32;
                }
                "wasi_snapshot_preview1" v2 {
                    fn sock_recv_from(
                        fd: i32, iovs: i32, iovs_len: i32, address: i32, flags: i32, port: i32, nread: i32,
                        out_flags: i32
                    ) -> i32;
                    fn sock_getlocaladdr(fd: i32, address: i32, port: i32) -> i32;
                    fn sock_getpeeraddr(fd: i32, address: i32, port: i32) -> i32;
                    fn sock_open_v2(family: i32, socket_type: i32, opened: i32) -> i32;
                    fn sock_bind_v2(fd: i32, address: i32, port: i32) -> i32;
                    fn sock_listen_v2(fd: i32, backlog: i32) -> i32;
                    fn sock_accept_v2(fd: i32, flags: i32, accepted: i32) -> i32;
                    fn sock_connect_v2(fd: i32, address: i32, port: i32) -> i32;
                    fn sock_recv_v2(
                        fd: i32, iovs: i32, iovs_len: i32, flags: i32, nread: i32, out_flags: i32
                    ) -> i32;
                    fn sock_recv_from_v2(
                        fd: i32, iovs: i32, iovs_len: i32, address: i32, flags: i32, port: i32, nread: i32,
                        out_flags: i32
                    ) -> i32;
                    fn sock_send_v2(fd: i32, iovs: i32, iovs_len: i32, flags: i32, nwritten: i32) -> i32;
                    fn sock_send_to_v2(
                        fd: i32, iovs: i32, iovs_len: i32, address: i32, port: i32, flags: i32, nwritten: i32
                    ) -> i32;
                    fn sock_getlocaladdr_v2(fd: i32, address: i32, port: i32) -> i32;
                    fn sock_getpeeraddr_v2(fd: i32, address: i32, port: i32) -> i32;
                }
                "rustls_client" rustls {
                    fn default_config() -> i32;
                    fn new_codec(config: i32, name: i32, name_len: i32) -> i32;
                    fn codec_is_handshaking(codec: i32) -> i32;
                    fn codec_wants(codec: i32) -> i32;
                    fn delete_codec(codec: i32) -> i32;
                    fn send_close_notify(codec: i32) -> i32;
                    fn process_new_packets(codec: i32, state: i32) -> i32;
                    fn write_raw(codec: i32, buf: i32, buf_len: i32) -> i32;
                    fn read_raw(codec: i32, buf: i32, buf_len: i32) -> i32;
                    fn write_tls(codec: i32, buf: i32, buf_len: i32) -> i32;
                    fn read_tls(codec: i32, buf: i32, buf_len: i32) -> i32;
                }
                "wasmedge_httpsreq" httpsreq {
                    fn wasmedge_httpsreq_send_data(
                        host: i32, host_len: i32, port: i32, body: i32, body_len: i32
                    );
                    fn wasmedge_httpsreq_get_rcv_len() -> i32;
                    fn wasmedge_httpsreq_get_rcv(buf: i32);
                }
            }
        }
    };
}

macro_rules! val_type {
    (i32) => {
        ValType::I32
    };
    (i64) => {
        ValType::I64
    };
}

macro_rules! table {
    (
        both { $( fn $name:ident($($arg:ident: $ty:tt),*) $(-> $ret:tt)?; )* }
        preview1 { $( fn $new_name:ident($($new_arg:ident: $new_ty:tt),*) $(-> $new_ret:tt)?; )* }
        network { $(
            $module:literal $from:ident { $( fn $net_name:ident($($net_arg:ident: $net_ty:tt),*) $(-> $net_ret:tt)?; )* }
        )* }
    ) => {
        /// Every host function.
        pub const IMPORTS: &[Import] = &[
            $( import!("wasi_snapshot_preview1" $name [$($ty)*] [$($ret)?] false), )*
            $( import!("wasi_unstable" $name [$($ty)*] [$($ret)?] false), )*
            $( import!("wasi_snapshot_preview1" $new_name [$($new_ty)*] [$($new_ret)?] false), )*
            $( $( import!($module $net_name [$($net_ty)*] [$($net_ret)?] true), )* )*
        ];
    };
}

macro_rules! import {
    ($module:literal $name:ident [$($param:tt)*] [$($result:tt)?] $network:literal) => {
        Import {
            module: $module,
            name: stringify!($name),
            params: &[$(val_type!($param)),*],
            results: &[$(val_type!($result))?],
            network: $network,
        }
    };
}

for_each_import!(table);

#[cfg(test)]
mod tests {
    use super::{ValType::I32, *};

    #[test]
    fn preview1_has_46_functions_and_unstable_45() {
        let count = |module| IMPORTS.iter().filter(|it| it.module == module && !it.network).count();
        assert_eq!((count("wasi_snapshot_preview1"), count("wasi_unstable")), (46, 45));
    }

    #[test]
    fn an_import_is_found_by_name_and_type() {
        let found = resolve("wasi_unstable", "proc_exit", &[I32], &[]).expect("offered");
        assert_eq!((found.module, found.name), ("wasi_unstable", "proc_exit"));
        let seek = &[I32, ValType::I64, I32, I32];
        assert!(resolve("wasi_snapshot_preview1", "fd_seek", seek, &[I32]).is_ok());
    }

    #[test]
    fn versions_are_told_apart_by_their_types() {
        let accept = |params| resolve("wasi_snapshot_preview1", "sock_accept", params, &[I32]);
        let (wasmedge, standard) = (accept(&[I32; 2]).expect("offered"), accept(&[I32; 3]).expect("offered"));
        assert!(wasmedge.network && !standard.network);
        assert_eq!(
            accept(&[I32]).expect_err("not offered").to_string(),
            "import wasi_snapshot_preview1.sock_accept has type (i32, i32, i32) -> (i32) or (i32, i32) -> (i32), \
             the module wants (i32) -> (i32)"
        );
        for (index, import) in IMPORTS.iter().enumerate() {
            let same =
                |it: &&Import| (it.module, it.name, it.params) == (import.module, import.name, import.params);
            assert!(!IMPORTS[..index].iter().any(|it| same(&it)), "{import:?} is there twice");
        }
    }

    #[test]
    fn an_unknown_import_is_named() {
        let error = resolve("env", "foo", &[], &[]).expect_err("not offered");
        assert_eq!(error.to_string(), "unknown import env.foo");
        let error = resolve("wasi_unstable", "sock_accept", &[I32; 3], &[I32]).expect_err("not offered");
        assert_eq!(error.to_string(), "unknown import wasi_unstable.sock_accept");
    }

    #[test]
    fn a_wrong_type_is_shown_beside_the_right_one() {
        let error =
            resolve("wasi_snapshot_preview1", "proc_exit", &[ValType::Other], &[I32]).expect_err("type");
        assert_eq!(
            error.to_string(),
            "import wasi_snapshot_preview1.proc_exit has type (i32) -> (), the module wants (?) -> (i32)"
        );
    }
}
