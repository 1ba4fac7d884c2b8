//! Waiting for changes: [`epoll_oneoff`] is poll_oneoff that tells of a file only when something new has happened to it
//! (epoll(7), "edge-triggered").
//!
//! The kernel has to know between the calls what was told already, so the files stay in an epoll instance as long as the
//! guest goes on subscribing to them. Each descriptor knows what it is watched for; when it is closed, so is that.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use rustix::{
    event::{
        PollFd, PollFlags,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno as Os,
    time::Timespec,
};

use crate::{
    descriptors::Descriptor,
    memory::Memory,
    preview1::poll::{Event, Sorted, Subscription, parse, pause, poll_for},
    state::State,
    types::{Errno, Result},
};

/// Events taken from the kernel at once.
const BATCH: usize = 256;

/// Waits until something has happened to at least one subscription since it was last told.
pub fn epoll_oneoff(
    state: &mut State,
    memory: Memory<'_>,
    subscriptions: u32,
    events: u32,
    count: u32,
    stored: u32,
) -> Result {
    if state.epoll.is_none() {
        state.epoll = Some(epoll::create(CreateFlags::CLOEXEC)?);
    }
    poll_for(state, memory, subscriptions, events, count, stored, parse, wait)
}

fn wait(state: &State, wanted: &[Subscription]) -> Result<Vec<Event>> {
    let epoll = state.epoll.as_ref().ok_or(Errno::BadF)?.as_fd();
    let mut sorted = Sorted::new(state, wanted);
    let files = std::mem::take(&mut sorted.files);
    let mut interests: BTreeMap<RawFd, (EventFlags, &Descriptor)> = BTreeMap::new();
    for &(index, descriptor) in &files {
        let flags = EventFlags::from_bits_retain(sorted.interest(index).bits().into());
        let entry = interests.entry(descriptor.fd.as_raw_fd()).or_insert((EventFlags::ET, descriptor));
        entry.0 |= flags;
    }
    for descriptor in state.descriptors.iter() {
        if !descriptor.watched.get().is_empty() && !interests.contains_key(&descriptor.fd.as_raw_fd()) {
            epoll::delete(epoll, &descriptor.fd)?;
            descriptor.watched.set(EventFlags::empty());
        }
    }
    let mut refused = BTreeMap::new();
    for (fd, (flags, descriptor)) in interests {
        if let Err(errno) = watch(epoll, descriptor, flags) {
            refused.insert(fd, errno);
        }
    }
    for &(index, descriptor) in &files {
        match refused.get(&descriptor.fd.as_raw_fd()) {
            None => {}
            // A regular file: it never makes anybody wait (epoll_ctl(2)).
            Some(&Os::PERM) => sorted.file(index, descriptor, PollFlags::IN | PollFlags::OUT),
            Some(&errno) => sorted.failed(index, errno.into()),
        }
    }
    loop {
        pause(
            &mut [PollFd::from_borrowed_fd(epoll, PollFlags::IN)],
            &sorted.deadlines,
            if sorted.happened.is_empty() { None } else { Some(0) },
        )?;
        for (fd, answer) in news(epoll)? {
            for &(index, descriptor) in files.iter().filter(|(_, it)| it.fd.as_raw_fd() == fd) {
                sorted.file(index, descriptor, answer);
            }
        }
        if let Some(happened) = sorted.clocks() {
            return Ok(happened);
        }
    }
}

/// Has the kernel watch a descriptor for these events, and no others.
fn watch(epoll: BorrowedFd<'_>, descriptor: &Descriptor, flags: EventFlags) -> rustix::io::Result<()> {
    let watched = descriptor.watched.get();
    if watched != flags {
        let data = EventData::new_u64(descriptor.fd.as_raw_fd() as u64);
        if watched.is_empty() {
            epoll::add(epoll, &descriptor.fd, data, flags)?;
        } else {
            epoll::modify(epoll, &descriptor.fd, data, flags)?;
        }
        descriptor.watched.set(flags);
    }
    Ok(())
}

/// What has happened, by the host's descriptors.
fn news(epoll: BorrowedFd<'_>) -> Result<BTreeMap<RawFd, PollFlags>> {
    let mut all = BTreeMap::new();
    loop {
        let mut events = Vec::with_capacity(BATCH);
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::io::retry_on_intr(|| {
            epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&none))
        })?;
        let last = events.len() < BATCH;
        for event in events {
            let (flags, data) = (event.flags, event.data);
            let flags = PollFlags::from_bits_retain(flags.bits() as u16);
            all.insert(data.u64() as RawFd, flags);
        }
        if last {
            return Ok(all);
        }
    }
}
