//! `run`: create, start, and stay until the end.

use std::os::fd::OwnedFd;

use crate::cli::Global;
use crate::container::{self, Attended, Create, Created};
use crate::init::sync::Message;
use crate::{Error, foreground, log, notify, program};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    create: super::create::Args,
    /// Return when the program runs
    #[arg(short, long)]
    detach: bool,
    /// Keep the container's state after its end, for `delete`
    #[arg(long)]
    keep: bool,
    /// Leave processes whose parents end to init instead of reaping them
    #[arg(long)]
    no_subreaper: bool,
}

/// Runs a container; the exit code is its program's.
///
/// # Errors
/// Those of [`container::create`], and an exec that failed.
pub fn run(args: &Args, global: &Global) -> Result<u8, Error> {
    program::protect()?;
    let foreground = !args.detach;
    // Before there is a process: a signal must not end us and leave it behind.
    let signals = if foreground { Some(foreground::block_signals()?) } else { None };
    if foreground && !args.no_subreaper {
        foreground::adopt_orphans()?;
    }
    let request = Create { attended: Some(Attended { foreground, signals }), ..args.create.request() };
    let created = container::create(request, global)
        .map_err(|e| Error::new(format_args!("unable to start container process: {e}")))?;
    let Created { container, pid, pidfd, socket, terminal, spec, notify } = created;
    let started = socket.send(&Message::Continue).and_then(|()| socket.receive());
    let failure = match started {
        // The stream ends with the exec.
        Ok(None) => None,
        Ok(Some(Message::Failed(text))) => {
            // The words of the container's process, which said them itself if we had been `start`.
            super::tell(text);
            let _ = container.delete(true);
            return Ok(1);
        }
        Ok(Some(_)) => Some(Error::new("an unexpected message from the container's process")),
        Err(error) => Some(error.into()),
    };
    if let Some(error) = failure {
        let error = container.ended().map_or(error, Error::from);
        // Nothing ran, so nothing is kept; the error is the one to report.
        let _ = container.delete(true);
        return Err(error);
    }
    drop(socket);
    let outcome = container.run_poststart_hooks(&spec).map_err(Error::from).and_then(|()| {
        if args.detach {
            notify.map_or(Ok(()), |proxy| proxy.serve(&pidfd, Some(pid)))?;
            return Ok(0);
        }
        if let Some(proxy) = notify {
            serve_beside(proxy, &pidfd)?;
        }
        Ok(foreground::wait(pid, pidfd, terminal)?)
    });
    match outcome {
        Ok(_) if args.detach || args.keep => {}
        Ok(_) => container.delete(true)?,
        // As above.
        Err(_) => drop(container.delete(true)),
    }
    outcome
}

/// Waits for the container's readiness while we wait for its end. We stay the process that the service manager watches.
fn serve_beside(proxy: notify::Proxy, pidfd: &OwnedFd) -> Result<(), Error> {
    let pidfd = pidfd.try_clone().map_err(Error::new)?;
    std::thread::spawn(move || {
        if let Err(error) = proxy.serve(&pidfd, None) {
            log::warn(&error);
        }
    });
    Ok(())
}
