//! Waiting for descriptors and clocks: ppoll(2), and clock_nanosleep(2) where only that is right.
//!
//! Every clock subscription becomes a deadline on its own clock, and after each wait the clocks are read again: a
//! subscription fires when its clock has reached its deadline, not when some other measure of time says so.

use std::{mem, os::fd::AsFd, ptr};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{SeekFrom, fstat, seek},
    io::{Errno as Os, ioctl_fionread},
    thread::clock_nanosleep_absolute,
    time::{ClockId, Timespec},
};

use super::clock::now;
use crate::{
    descriptors::Descriptor,
    memory::{Memory, u32_at, u64_at},
    state::State,
    types::{Errno, Result, filetype, rights},
};

/// More than a process can have descriptors (by default); a list is copied before it is used.
const MAX_SUBSCRIPTIONS: u32 = 1 << 20;

/// What a subscription waits for, whatever version of the record it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A clock.
    Clock {
        /// `clockid`.
        id: u32,
        /// Nanoseconds: a duration, or a time.
        timeout: u64,
        /// Whether it is a time.
        absolute: bool,
    },
    /// A descriptor to read from.
    Read(u32),
    /// A descriptor to write to.
    Write(u32),
}

/// One subscription: the guest's own number for it, and what it waits for.
pub type Subscription = (u64, Wait);

/// What has happened to a subscription.
pub struct Event {
    userdata: u64,
    error: Option<Errno>,
    tag: u8,
    bytes: u64,
    hangup: bool,
}

impl Event {
    fn new(&(userdata, wait): &Subscription) -> Self {
        let tag = match wait {
            Wait::Clock { .. } => 0,
            Wait::Read(_) => 1,
            Wait::Write(_) => 2,
        };
        Self { userdata, error: None, tag, bytes: 0, hangup: false }
    }

    fn failed(subscription: &Subscription, error: Errno) -> Self {
        Self { error: Some(error), ..Self::new(subscription) }
    }

    fn layout(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.userdata.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.error.map_or(0, |it| it as u16).to_le_bytes());
        bytes[10] = self.tag;
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24] = u8::from(self.hangup);
        bytes
    }
}

/// Waits until at least one subscription has something to say.
pub fn poll_oneoff(
    state: &mut State,
    memory: Memory<'_>,
    subscriptions: u32,
    events: u32,
    count: u32,
    stored: u32,
) -> Result {
    poll_for(state, memory, subscriptions, events, count, stored, parse, wait)
}

/// `subscription` of preview1, which takes 48 bytes.
pub fn parse(record: &[u8; 48]) -> Result<Subscription> {
    let wait = match record[8] {
        0 => {
            Wait::Clock { id: u32_at(record, 16), timeout: u64_at(record, 24), absolute: record[40] & 1 != 0 }
        }
        1 => Wait::Read(u32_at(record, 16)),
        2 => Wait::Write(u32_at(record, 16)),
        _ => return Err(Errno::Inval),
    };
    Ok((u64_at(record, 0), wait))
}

/// [`poll_oneoff`] with subscriptions of `N` bytes, and its own idea of waiting.
pub fn poll_for<const N: usize>(
    state: &State,
    memory: Memory<'_>,
    subscriptions: u32,
    events: u32,
    count: u32,
    stored: u32,
    parse: impl Fn(&[u8; N]) -> Result<Subscription>,
    wait: impl Fn(&State, &[Subscription]) -> Result<Vec<Event>>,
) -> Result {
    if count == 0 || count > MAX_SUBSCRIPTIONS {
        return Err(Errno::Inval);
    }
    // Both lists are checked before anything is allocated for them.
    let len = |size: u32| count.checked_mul(size).ok_or(Errno::Fault);
    memory.range(subscriptions, len(N as u32)?)?;
    memory.range(events, len(32)?)?;
    memory.range(stored, 4)?;
    let wanted: Vec<Subscription> = (0..count)
        .map(|it| parse(&memory.array::<N>(subscriptions + it * N as u32)?))
        .collect::<Result<_>>()?;
    let happened = wait(state, &wanted)?;
    for (index, event) in happened.iter().enumerate() {
        memory.write(events + index as u32 * 32, &event.layout())?;
    }
    memory.write_u32(stored, happened.len() as u32)
}

/// A clock subscription that can fire: which one, its clock, and when.
pub struct Deadline {
    index: usize,
    clock: ClockId,
    at: u64,
}

/// `clockid` of a clock that runs while this process waits.
fn waiting_clock(id: u32) -> Result<ClockId> {
    match id {
        0 => Ok(ClockId::Realtime),
        1 => Ok(ClockId::Monotonic),
        2 | 3 => Err(Errno::NotSup),
        _ => Err(Errno::Inval),
    }
}

/// Subscriptions by what they wait for.
pub struct Sorted<'a> {
    wanted: &'a [Subscription],
    /// What there is to say already: errors. Then the rest is looked at without waiting.
    pub happened: Vec<Event>,
    /// Clocks.
    pub deadlines: Vec<Deadline>,
    /// Files, with their places in the list.
    pub files: Vec<(usize, &'a Descriptor)>,
}

impl<'a> Sorted<'a> {
    /// Looks up what the guest subscribed to.
    pub fn new(state: &'a State, wanted: &'a [Subscription]) -> Self {
        let mut sorted = Self { wanted, happened: Vec::new(), deadlines: Vec::new(), files: Vec::new() };
        for (index, subscription) in wanted.iter().enumerate() {
            let known = match subscription.1 {
                Wait::Clock { id, timeout, absolute } => waiting_clock(id).map(|clock| {
                    let at = if absolute { timeout } else { now(clock).saturating_add(timeout) };
                    sorted.deadlines.push(Deadline { index, clock, at });
                }),
                Wait::Read(fd) | Wait::Write(fd) => state.descriptors.peek(fd).and_then(|descriptor| {
                    if descriptor.rights & rights::POLL_FD_READWRITE == 0 {
                        return Err(Errno::NotCapable);
                    }
                    sorted.files.push((index, descriptor));
                    Ok(())
                }),
            };
            if let Err(errno) = known {
                sorted.happened.push(Event::failed(subscription, errno));
            }
        }
        sorted
    }

    /// What the kernel has to be asked for on behalf of the subscription at `index`.
    pub fn interest(&self, index: usize) -> PollFlags {
        match self.wanted[index].1 {
            Wait::Read(_) => PollFlags::IN | PollFlags::RDHUP,
            _ => PollFlags::OUT,
        }
    }

    /// Takes down the kernel's answer, if it is one to the subscription at `index`.
    pub fn file(&mut self, index: usize, descriptor: &Descriptor, answer: PollFlags) {
        let always = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        if answer.intersects(self.interest(index) | always) {
            self.happened.push(file_event(&self.wanted[index], descriptor, answer));
        }
    }

    /// Takes down that the file could not be asked about.
    pub fn failed(&mut self, index: usize, errno: Errno) {
        self.happened.push(Event::failed(&self.wanted[index], errno));
    }

    /// Takes down which clocks have reached their deadlines; gives all that has happened, if anything has.
    pub fn clocks(&mut self) -> Option<Vec<Event>> {
        let expired = self.deadlines.iter().filter(|it| now(it.clock) >= it.at);
        self.happened.extend(expired.map(|it| Event::new(&self.wanted[it.index])));
        if self.happened.is_empty() { None } else { Some(mem::take(&mut self.happened)) }
    }
}

/// A file that is waited for, however many subscriptions there are to it.
struct Waited<'a> {
    descriptor: &'a Descriptor,
    subscriptions: &'a [(usize, &'a Descriptor)],
    interest: PollFlags,
    answer: PollFlags,
}

impl Waited<'_> {
    /// What the guest was not told of it; none if there is something that the kernel would tell unasked.
    fn untold(&self) -> Option<PollFlags> {
        let told = self.descriptor.told.get();
        let unasked = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        (!told.intersects(unasked)).then(|| self.interest - told)
    }
}

/// Asks the kernel about each of the files, for what `interest` says of it, and adds its answers. Waits as [`pause`] does.
fn ask(
    files: &mut [Waited<'_>],
    interest: impl Fn(&Waited<'_>) -> Option<PollFlags>,
    deadlines: &[Deadline],
    limit: Option<u64>,
) -> Result {
    let question = |file| {
        let file: &mut Waited<'_> = file;
        let poll = PollFd::from_borrowed_fd(file.descriptor.fd.as_fd(), interest(file)?);
        Some((poll, &mut file.answer))
    };
    let (mut polled, answers): (Vec<_>, Vec<_>) = files.iter_mut().filter_map(question).unzip();
    pause(&mut polled, deadlines, limit)?;
    for (poll, answer) in polled.iter().zip(answers) {
        *answer |= poll.revents();
    }
    Ok(())
}

/// Waits as long as a subscription stays true: level-triggered.
pub fn wait(state: &State, wanted: &[Subscription]) -> Result<Vec<Event>> {
    let mut sorted = Sorted::new(state, wanted);
    let mut subscriptions = mem::take(&mut sorted.files);
    // A guest that reads and writes a file asks for both; the kernel needs to look at the file but once. It takes no more
    // questions than a process may have descriptors, either.
    subscriptions.sort_by_key(|it| ptr::from_ref(it.1));
    let file = |subscriptions| {
        let subscriptions: &[(usize, _)] = subscriptions;
        let interest = subscriptions.iter().map(|&(index, _)| sorted.interest(index)).collect();
        Waited { descriptor: subscriptions[0].1, subscriptions, interest, answer: PollFlags::empty() }
    };
    let mut files: Vec<_> = subscriptions.chunk_by(|one, other| ptr::eq(one.1, other.1)).map(file).collect();
    loop {
        let limit = if sorted.happened.is_empty() { None } else { Some(0) };
        ask(&mut files, |it| Some(it.interest), &sorted.deadlines, limit)?;
        let in_vain = sorted.happened.is_empty()
            && files.iter().any(|it| !it.answer.is_empty())
            && files.iter().all(|it| it.descriptor.told.get().contains(it.answer));
        if let Some(delay) = state.patience.with(!in_vain) {
            ask(&mut files, |it| it.untold(), &sorted.deadlines, Some(delay))?;
        }
        for file in &mut files {
            let answer = mem::replace(&mut file.answer, PollFlags::empty());
            for &(index, descriptor) in file.subscriptions {
                sorted.file(index, descriptor, answer);
            }
            file.descriptor.told.set(answer);
        }
        if let Some(happened) = sorted.clocks() {
            return Ok(happened);
        }
    }
}

/// Waits for the files, but not beyond the first deadline, nor longer than `limit` nanoseconds; may return early.
pub fn pause(polled: &mut [PollFd<'_>], deadlines: &[Deadline], limit: Option<u64>) -> Result {
    if let ([], [only], None) = (&*polled, deadlines, limit) {
        // Follows the clock when it is set, which a duration could not. Also the most frequent case: sleep(3).
        let at = Timespec { tv_sec: (only.at / 1_000_000_000) as _, tv_nsec: (only.at % 1_000_000_000) as _ };
        return match clock_nanosleep_absolute(only.clock, &at) {
            Ok(()) | Err(Os::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
    }
    let left = deadlines.iter().map(|it| it.at.saturating_sub(now(it.clock))).chain(limit).min();
    let timeout =
        left.map(|it| Timespec { tv_sec: (it / 1_000_000_000) as _, tv_nsec: (it % 1_000_000_000) as _ });
    match poll(polled, timeout.as_ref()) {
        Ok(_) | Err(Os::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn file_event(subscription: &Subscription, descriptor: &Descriptor, answer: PollFlags) -> Event {
    let mut event = Event::new(subscription);
    // A peer that sends no more may still receive.
    event.hangup = answer.intersects(match subscription.1 {
        Wait::Read(_) => PollFlags::HUP | PollFlags::RDHUP,
        _ => PollFlags::HUP,
    });
    if answer.contains(PollFlags::NVAL) {
        event.error = Some(Errno::BadF);
    }
    if matches!(subscription.1, Wait::Read(_)) {
        event.bytes = readable(descriptor);
    }
    event
}

/// How much can be read at once. Nothing that cannot be told is an error here. Of sockets it is said that there is
/// something: servers ask all the time, and then read until there is no more.
fn readable(descriptor: &Descriptor) -> u64 {
    let fd = &descriptor.fd;
    match descriptor.filetype {
        filetype::REGULAR_FILE => {
            let size = fstat(fd).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
            size.saturating_sub(seek(fd, SeekFrom::Current(0)).unwrap_or(0))
        }
        filetype::SOCKET_STREAM | filetype::SOCKET_DGRAM => 1,
        _ => ioctl_fionread(fd).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        mem::ManuallyDrop,
        time::{Duration, Instant},
    };

    use rustix::{
        net::{AddressFamily, SocketFlags, SocketType, socketpair},
        pipe::pipe,
    };

    use super::*;
    use crate::descriptors::Descriptors;

    const MS: u64 = 1_000_000;

    /// Descriptors 3 and 4 are the ends of a pipe.
    fn with_pipe() -> State {
        let mut descriptors = Descriptors::default();
        let (reader, writer) = pipe().expect("a pipe");
        for end in [reader, writer] {
            descriptors.insert(Descriptor::new(end).expect("a descriptor")).expect("a number");
        }
        State { descriptors: ManuallyDrop::new(descriptors), ..State::default() }
    }

    /// The subscriptions that fired, by their place in the list.
    fn fired(state: &State, waits: &[Wait]) -> Vec<(u64, Option<Errno>)> {
        let list: Vec<_> = waits.iter().enumerate().map(|(index, &it)| (index as u64, it)).collect();
        wait(state, &list).expect("a result").iter().map(|it| (it.userdata, it.error)).collect()
    }

    fn after(timeout: u64) -> Wait {
        Wait::Clock { id: 1, timeout, absolute: false }
    }

    #[test]
    fn the_first_deadline_of_either_clock_fires() {
        let state = with_pipe();
        let realtime = |timeout| Wait::Clock { id: 0, timeout, absolute: true };
        let soon = now(ClockId::Realtime) + 20 * MS;
        assert_eq!(fired(&state, &[after(u64::MAX), realtime(soon)]), [(1, None)]);
        assert!(now(ClockId::Realtime) >= soon);
        assert_eq!(fired(&state, &[realtime(u64::MAX), after(10 * MS), after(u64::MAX)]), [(1, None)]);
        assert_eq!(fired(&state, &[realtime(1), after(0)]), [(0, None), (1, None)]);
    }

    #[test]
    fn a_pipe_fires_as_long_as_there_is_something() {
        let mut state = with_pipe();
        assert_eq!(fired(&state, &[Wait::Read(3), after(MS)]), [(1, None)]);
        assert_eq!(fired(&state, &[Wait::Read(3), Wait::Write(4)]), [(1, None)]);
        rustix::io::write(&state.descriptors.get(4).expect("open").fd, b"xyz").expect("a pipe");
        for _ in 0..2 {
            let events = wait(&state, &[(7, Wait::Read(3)), (8, after(u64::MAX))]).expect("a result");
            assert_eq!(
                (events.len(), events[0].userdata, events[0].bytes, events[0].hangup),
                (1, 7, 3, false)
            );
        }
        drop(state.descriptors.remove(4));
        assert!(wait(&state, &[(7, Wait::Read(3))]).expect("a result")[0].hangup);
    }

    #[test]
    fn several_can_subscribe_to_one_descriptor() {
        let mut state = with_pipe();
        let ends = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (here, there) = ends.expect("a pair of sockets");
        assert_eq!(state.descriptors.insert(Descriptor::new(here).expect("a descriptor")), Ok(5));
        let all = [Wait::Read(5), Wait::Read(3), Wait::Write(5), Wait::Read(5), Wait::Write(5)];
        assert_eq!(fired(&state, &all), [(2, None), (4, None)]);
        rustix::io::write(&there, b"x").expect("a socket");
        assert_eq!(fired(&state, &all), [(0, None), (2, None), (3, None), (4, None)]);
    }

    #[test]
    fn what_is_told_in_vain_is_told_more_slowly() {
        let state = with_pipe();
        let (reader, writer) = pipe().expect("a pipe");
        let write = |state: &State| {
            let start = Instant::now();
            assert_eq!(fired(state, &[Wait::Read(3), Wait::Write(4)]).last(), Some(&(1, None)));
            start.elapsed()
        };
        let all: Duration = (0..12).map(|_| write(&state)).sum();
        assert!(all > Duration::from_millis(1 + 2 + 4 + 8 + 16 + 32), "{all:?}");
        // A clock is not, nor what is new; and who does something is told at once again.
        let start = Instant::now();
        assert_eq!(fired(&state, &[Wait::Write(4), after(MS)]), [(0, None), (1, None)]);
        assert!(start.elapsed() < Duration::from_millis(60));
        rustix::io::write(&writer, b"x").expect("a pipe");
        let mut state = state;
        let new = state.descriptors.insert(Descriptor::new(reader).expect("a descriptor")).expect("a number");
        let start = Instant::now();
        assert_eq!(fired(&state, &[Wait::Write(4), Wait::Read(new)]), [(0, None), (1, None)]);
        assert!(start.elapsed() < Duration::from_millis(60));
        for _ in 0..12 {
            state.descriptors.with(4, rights::FD_WRITE).expect("open");
            assert!(write(&state) < Duration::from_millis(60));
        }
    }

    #[test]
    fn what_cannot_be_waited_for_is_said_at_once() {
        let state = with_pipe();
        let cpu = Wait::Clock { id: 2, timeout: 1, absolute: false };
        assert_eq!(fired(&state, &[after(u64::MAX), Wait::Read(9)]), [(1, Some(Errno::BadF))]);
        assert_eq!(fired(&state, &[cpu, Wait::Write(4)]), [(0, Some(Errno::NotSup)), (1, None)]);
    }

    #[test]
    fn records_have_the_layout_of_the_witx() {
        let mut record = [0; 48];
        record[0] = 9;
        record[16] = 1;
        record[24] = 5;
        record[40] = 1;
        assert_eq!(parse(&record), Ok((9, Wait::Clock { id: 1, timeout: 5, absolute: true })));
        record[8] = 2;
        assert_eq!(parse(&record), Ok((9, Wait::Write(1))));
        record[8] = 3;
        assert_eq!(parse(&record), Err(Errno::Inval));
        let event = Event { userdata: 1, error: Some(Errno::BadF), tag: 2, bytes: 3, hangup: true }.layout();
        assert_eq!((event[0], event[8], event[10], event[16], event[24]), (1, 8, 2, 3, 1));
    }
}
