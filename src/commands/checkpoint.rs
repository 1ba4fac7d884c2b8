//! `checkpoint`: a running container, saved to files.

use std::path::PathBuf;

use crate::Error;
use crate::cli::Global;
use crate::container::{Checkpoint, Container};
use crate::criu::Options;

/// Arguments of `checkpoint`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// Images of the pre-dump before this one, relative to --image-path
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Save memory only, and let the container run; the next checkpoint saves what has changed since
    #[arg(long)]
    pre_dump: bool,
    /// Let the container run after it was saved
    #[arg(long)]
    leave_running: bool,
    /// Leave out TCP connections that are just being established
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give files that are open but deleted a name again
    #[arg(long)]
    link_remap: bool,
    /// Serve memory pages there, instead of writing them to files
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = page_server)]
    page_server: Option<(String, u16)>,
    /// Descriptor that gets a zero byte when --lazy-pages can be asked for pages
    #[arg(long, value_name = "FD", value_parser = writable, requires = "lazy_pages")]
    status_fd: Option<i32>,
    /// Id of the container
    id: String,
}

/// Saves the container, and removes it unless it is to run on.
///
/// # Errors
/// Those of [`Container::checkpoint`].
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    let request = Checkpoint {
        options: &args.options,
        parent_path: args.parent_path.as_deref(),
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        page_server: args.page_server.as_ref().map(|(address, port)| (address.as_str(), *port)),
        status_fd: args.status_fd,
    };
    Container::load(&global.root, &args.id)?.checkpoint(&request)?;
    Ok(0)
}

fn page_server(text: &str) -> Result<(String, u16), String> {
    let (address, port) =
        text.rsplit_once(':').filter(|(address, _)| !address.is_empty()).ok_or("not ADDRESS:PORT")?;
    let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    Ok((address.trim_matches(['[', ']']).to_owned(), port))
}

fn writable(text: &str) -> Result<i32, String> {
    let number = text.parse().map_err(|_| "not a number")?;
    // SAFETY: reads the flags of a descriptor, or fails because there is none.
    match unsafe { libc::fcntl(number, libc::F_GETFL) } {
        -1 => Err(crate::error::Os::last().to_string()),
        flags if flags & libc::O_ACCMODE == libc::O_RDONLY => Err("not writable".into()),
        _ => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::page_server;

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        assert_eq!(page_server("0.0.0.0:27277"), Ok(("0.0.0.0".into(), 27277)));
        assert_eq!(page_server("[::1]:1"), Ok(("::1".into(), 1)));
        for text in ["host", ":1", "host:", "host:x", "host:70000"] {
            assert!(page_server(text).is_err(), "{text}");
        }
    }
}
