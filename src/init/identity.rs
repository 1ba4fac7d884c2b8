//! Who the container's program runs as: user, groups, capabilities.
//!
//! Order matters, and this is the place where privileges end: the bounding set shrinks while we may still shrink it,
//! ids change while we may still change them, and what is left of our own capabilities lasts only until
//! [`Identity::settle`].

use oci_spec::runtime::{Capabilities, LinuxCapabilities, User};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::Error;

/// The capability sets of capabilities(7), as bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    uid: u32,
    gid: u32,
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Identity {
    /// What config.json says. Without `process.capabilities` the program gets none, as with runc.
    pub fn new(user: &User, capabilities: Option<&LinuxCapabilities>) -> Self {
        let bits = |set: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            capabilities.and_then(|c| set(c).as_ref()).map_or(0, bits)
        };
        Self {
            uid: user.uid(),
            gid: user.gid(),
            bounding: bits(LinuxCapabilities::bounding),
            effective: bits(LinuxCapabilities::effective),
            permitted: bits(LinuxCapabilities::permitted),
            inheritable: bits(LinuxCapabilities::inheritable),
            ambient: bits(LinuxCapabilities::ambient),
        }
    }

    /// Shrinks the bounding set and changes user and groups; our permitted capabilities stay, and without `groups` our
    /// supplementary groups.
    ///
    /// # Errors
    /// [`Error::Step`] or [`Error::Capabilities`].
    pub fn assume(&self, groups: Option<&[u32]>) -> Result<(), Error> {
        self.limit_bounding()?;
        groups.map_or(Ok(()), set_groups)?;
        let gid = Gid::from_raw(self.gid);
        thread::set_thread_res_gid(gid, gid, gid).map_err(|e| Error::id("setgid", self.gid, e))?;
        let uid = Uid::from_raw(self.uid);
        // Leaving uid 0 would otherwise take every capability away, those the program is to have too. The
        // exec ends this by itself.
        thread::set_keep_capabilities(true).map_err(|e| Error::step("keep capabilities", e))?;
        thread::set_thread_res_uid(uid, uid, uid).map_err(|e| Error::id("setuid", self.uid, e))
    }

    fn limit_bounding(&self) -> Result<(), Error> {
        for index in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << index);
            if self.bounding & (1 << index) != 0 {
                continue;
            }
            match thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Past the last capability that this kernel knows.
                Err(Errno::INVAL) => break,
                // Without CAP_SETPCAP the set cannot shrink; that is no loss when there is nothing in it.
                Err(Errno::PERM) if thread::capability_is_in_bounding_set(capability) == Ok(false) => {}
                Err(errno) => return Err(Error::Capabilities(errno.into())),
            }
        }
        Ok(())
    }

    /// From now on access is checked as it will be for the program. What we need later stays permitted. A capability
    /// that we do not have cannot be granted, which is a warning and no error (config.md, "Linux Process").
    ///
    /// # Errors
    /// [`Error::Capabilities`].
    pub fn act(&mut self) -> Result<Option<String>, Error> {
        let ours = thread::capabilities(None).map_err(|e| Error::Capabilities(e.into()))?;
        let missing = self.keep_only(ours.permitted.bits() | ours.inheritable.bits());
        let effective = CapabilitySet::from_bits_retain(self.effective);
        thread::set_capabilities(None, CapabilitySets { effective, ..ours })
            .map_err(|e| Error::Capabilities(e.into()))?;
        if missing == 0 {
            return Ok(None);
        }
        let names: Vec<_> = (0..64).filter(|index| missing & (1 << index) != 0).map(name).collect();
        Ok(Some(unavailable(&names)))
    }

    /// Narrows the sets to these bits, and returns what fell away.
    fn keep_only(&mut self, bits: u64) -> u64 {
        let sets = [&mut self.effective, &mut self.permitted, &mut self.inheritable, &mut self.ambient];
        sets.into_iter().fold(0, |missing, set| {
            let lost = *set & !bits;
            *set &= bits;
            missing | lost
        })
    }

    /// Takes up everything permitted once more: a filter without no_new_privs needs CAP_SYS_ADMIN (seccomp(2)).
    ///
    /// # Errors
    /// [`Error::Capabilities`].
    pub fn regain() -> Result<(), Error> {
        let ours = thread::capabilities(None).map_err(|e| Error::Capabilities(e.into()))?;
        thread::set_capabilities(None, CapabilitySets { effective: ours.permitted, ..ours })
            .map_err(|e| Error::Capabilities(e.into()))
    }

    /// The last step: exactly the sets that the configuration names. As with runc, an ambient capability that the other
    /// sets do not allow is left out, and told by a warning.
    ///
    /// # Errors
    /// [`Error::Capabilities`].
    pub fn settle(&self) -> Result<Vec<String>, Error> {
        let sets = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(self.effective),
            permitted: CapabilitySet::from_bits_retain(self.permitted),
            inheritable: CapabilitySet::from_bits_retain(self.inheritable),
        };
        thread::set_capabilities(None, sets).map_err(|e| Error::Capabilities(e.into()))?;
        let mut warnings = Vec::new();
        if self.ambient == 0 {
            return Ok(warnings);
        }
        for index in 0..64 {
            if self.ambient & (1 << index) != 0 {
                let capability = CapabilitySet::from_bits_retain(1 << index);
                match thread::configure_capability_in_ambient_set(capability, true) {
                    Ok(()) => {}
                    Err(errno @ Errno::PERM) => warnings.push(format!(
                        "can't raise ambient capability {}: {}",
                        name(index),
                        crate::error::Os::from(errno)
                    )),
                    Err(errno) => return Err(Error::Capabilities(errno.into())),
                }
            }
        }
        Ok(warnings)
    }

    /// The uid the program runs with.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The gid the program runs with.
    pub fn gid(&self) -> u32 {
        self.gid
    }
}

/// The supplementary groups. In a user namespace made by an ordinary user they may not be changed
/// (user_namespaces(7), CVE-2014-8989); that is an error only when some were asked for.
fn set_groups(additional: &[u32]) -> Result<(), Error> {
    let groups: Vec<Gid> = additional.iter().copied().map(Gid::from_raw).collect();
    match thread::set_thread_groups(&groups) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) if groups.is_empty() => Ok(()),
        Err(errno) => Err(Error::step("set the supplementary groups", errno)),
    }
}

/// The warning about capabilities that are left out, in runc's words.
pub fn unavailable(names: &[String]) -> String {
    format!("ignoring unknown or unavailable capabilities: [{}]", names.join(" "))
}

/// The name of a capability by its number.
fn name(index: u8) -> String {
    let known = caps::all().into_iter().find(|capability| capability.index() == index);
    known.map_or_else(|| index.to_string(), |capability| capability.to_string())
}

fn bits(capabilities: &Capabilities) -> u64 {
    let names = capabilities.iter().map(|c| format!("CAP_{}", c.to_string().trim_start_matches("CAP_")));
    names.filter_map(|name| name.parse::<caps::Capability>().ok()).fold(0, |set, c| set | c.bitmask())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    #[test]
    fn names_become_the_bits_of_the_kernel() {
        let set =
            Capabilities::from([Capability::Chown, Capability::SysAdmin, Capability::CheckpointRestore]);
        assert_eq!(bits(&set), 1 | 1 << 21 | 1 << 40);
    }

    #[test]
    fn what_cannot_be_granted_falls_out_of_every_set() {
        let mut identity =
            Identity { effective: 0b011, permitted: 0b110, ambient: 0b100, ..Identity::default() };
        assert_eq!(identity.keep_only(0b001), 0b110);
        assert_eq!((identity.effective, identity.permitted, identity.ambient), (1, 0, 0));
        assert_eq!(identity.keep_only(0b001), 0);
    }
}
