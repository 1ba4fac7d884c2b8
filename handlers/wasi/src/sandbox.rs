//! What is left to the process once the module is mapped, whatever the container's own profile allows.
//!
//! The system calls are those of seccomp/handlers/coracle-wasi.ARCH.json: no exec, no new process or thread, no new
//! socket, no memory that can be executed. For a module that imports functions of the network, those of
//! coracle-wasi-network.ARCH.json come to them. Code that escapes from the guest's sandbox finds little more than what
//! the guest could do anyway. What is not in the list fails with EPERM rather than ending the process: the C library
//! asks for things it can do without.

use coracle_confine::{Error, WASI, WASI_NETWORK, drop_capabilities};
use rustix::thread::CapabilitySet;

/// The capabilities that change what preview1's functions may do: they are all about files. A guest cannot make a
/// device, change an owner or send a signal, so the capabilities to do so can serve nobody but an intruder.
const USEFUL: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Confines this process, for good. `network` is for a module that can open sockets: then low ports stay as well.
///
/// # Errors
/// The kernel's refusal.
pub fn enter(network: bool) -> Result<(), Error> {
    if network {
        drop_capabilities(USEFUL | CapabilitySet::NET_BIND_SERVICE)?;
        WASI_NETWORK.install()
    } else {
        drop_capabilities(USEFUL)?;
        WASI.install()
    }
}
