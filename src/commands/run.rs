//! `run`: create, start, and stay until the end.

use crate::cli::Global;
use crate::container::{self, Attended, Create, Created};
use crate::init::sync::Message;
use crate::{Error, foreground, program};

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
    let request = Create { attended: Some(Attended { foreground, signals }), ..args.create.request() };
    let created = container::create(request, global)
        .map_err(|e| Error::new(format_args!("unable to start container process: {e}")))?;
    let Created { container, pid, pidfd, socket, terminal, spec } = created;
    let started = socket.send(&Message::Continue).and_then(|()| socket.receive());
    let failure = match started {
        // The stream ends with the exec.
        Ok(None) => None,
        Ok(Some(Message::Failed(text))) => Some(Error::new(text)),
        Ok(Some(_)) => Some(Error::new("an unexpected message from the container's process")),
        Err(error) => Some(error.into()),
    };
    if let Some(error) = failure {
        // Nothing ran, so nothing is kept; the error is the one to report.
        let _ = container.delete(true);
        return Err(error);
    }
    drop(socket);
    container.run_poststart_hooks(&spec)?;
    if args.detach {
        return Ok(0);
    }
    let code = foreground::wait(pid, pidfd, terminal)?;
    if !args.keep {
        container.delete(true)?;
    }
    Ok(code)
}
