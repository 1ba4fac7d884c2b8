//! The first instructions of the program, before those of the C library.
//!
//! A command that enters a container runs from a read-only view of our file (`coracle::program`), so it is started twice.
//! Each start of a static program costs half a millisecond in a virtual machine, for the C library asks the processor
//! about its caches by instructions that trap. So the first start ends here, if all goes well; if anything does not, the
//! program starts as usual, and `coracle::program::protect` finds out what it was.
//!
//! Nothing of the C library may be called in here, and no function that the compiler takes from it: there is no
//! thread-local storage, and memcpy(3) and its like have not found their code yet. So memory is read byte by byte with
//! volatile reads, which are never made into a call, arguments are numbers and pointers, and nothing here can panic.

use std::arch::{asm, naked_asm};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::{addr_of_mut, null};

use coracle::program::DIRECTORY;

/// Where the kernel starts the program: on the stack are the number of arguments, and the pointers to arguments and
/// environment, each list with a null pointer at its end (the x86-64 ABI, "Initial Stack and Register State").
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn coracle_entry() -> ! {
    naked_asm!(
        "mov rdi, rsp",
        // For the C library; and the stack stays aligned.
        "push rdx",
        "sub rsp, 8",
        "call {first}",
        "add rsp, 8",
        "pop rdx",
        "jmp _start",
        first = sym first,
    )
}

const EXE: &CStr = c"/proc/self/exe";
const PATH: usize = libc::PATH_MAX as usize;
const POINTERS: usize = 1024;
/// `DIRECTORY=`
const PREFIX: usize = DIRECTORY.len() + 1;

/// The variable that names our directory; before it is cut off at the last slash, the path of our file.
static mut VARIABLE: [u8; PREFIX + PATH] = {
    let mut variable = [0; PREFIX + PATH];
    let mut index = 0;
    while index < DIRECTORY.len() {
        variable[index] = DIRECTORY.as_bytes()[index];
        index += 1;
    }
    variable[index] = b'=';
    variable
};

/// The environment of the second start.
static mut ENVIRONMENT: [*const u8; POINTERS] = [null(); POINTERS];

/// Starts the program again, or returns.
unsafe extern "C" fn first(stack: *const usize) {
    // SAFETY: the stack is as the kernel made it, and the statics are ours: there is one thread.
    unsafe {
        let arguments = stack.add(1).cast::<*const u8>();
        let environment = arguments.add(stack.read() + 1);
        let variable = addr_of_mut!(VARIABLE).cast::<u8>();
        if !enters_container(arguments) || !extend(environment, variable) || is_read_only() {
            return;
        }
        let path = variable.add(PREFIX);
        let length = call(libc::SYS_readlink, EXE.as_ptr() as usize, path as usize, PATH - 1, 0, 0);
        if length <= 0 {
            return;
        }
        let clone = libc::OPEN_TREE_CLONE as usize | libc::OPEN_TREE_CLOEXEC as usize;
        let view = call(libc::SYS_open_tree, at(libc::AT_FDCWD), path as usize, clone, 0, 0);
        if view < 0 {
            return;
        }
        let attributes =
            libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
        let empty = c"".as_ptr() as usize;
        let view = view.cast_unsigned();
        let (pointer, size) = (&raw const attributes as usize, size_of::<libc::mount_attr>());
        if call(libc::SYS_mount_setattr, view, empty, at(libc::AT_EMPTY_PATH), pointer, size) == 0 {
            cut(path, length.cast_unsigned());
            let again = addr_of_mut!(ENVIRONMENT) as usize;
            call(libc::SYS_execveat, view, empty, arguments as usize, again, at(libc::AT_EMPTY_PATH));
        }
        call(libc::SYS_close, view, 0, 0, 0, 0);
    }
}

/// Whether an argument has the name of a command that enters containers. That it may mean something else costs a start.
unsafe fn enters_container(mut argument: *const *const u8) -> bool {
    // SAFETY: the list ends with a null pointer.
    unsafe {
        loop {
            argument = argument.add(1);
            let text = argument.read_volatile();
            if text.is_null() {
                return false;
            }
            if begins(text, b"create\0") || begins(text, b"run\0") || begins(text, b"exec\0") {
                return true;
            }
        }
    }
}

/// Whether our file is on a read-only mount already.
fn is_read_only() -> bool {
    // struct statfs of the kernel's asm-generic/statfs.h, whose flags the C library hides.
    const FLAGS: usize = 10;
    let mut found = MaybeUninit::<[u64; 15]>::uninit();
    // SAFETY: the kernel fills the structure in if it returns 0; if not, the answer keeps us from doing anything.
    unsafe {
        let asked = call(libc::SYS_statfs, EXE.as_ptr() as usize, found.as_mut_ptr() as usize, 0, 0, 0);
        asked != 0 || found.as_ptr().cast::<u64>().add(FLAGS).read_volatile() & libc::ST_RDONLY != 0
    }
}

/// Copies the environment and adds the variable. False if it is there already, for this is not the first start then, or
/// if there is no room.
unsafe fn extend(mut old: *const *const u8, variable: *const u8) -> bool {
    // SAFETY: the list ends with a null pointer, and the new one is not written past its end.
    unsafe {
        let mut new = addr_of_mut!(ENVIRONMENT).cast::<*const u8>();
        let end = new.add(POINTERS - 2);
        while new < end {
            let text = old.read_volatile();
            if text.is_null() {
                new.write_volatile(variable);
                new.add(1).write_volatile(null());
                return true;
            }
            if begins(text, DIRECTORY.as_bytes()) {
                return false;
            }
            new.write_volatile(text);
            (old, new) = (old.add(1), new.add(1));
        }
        false
    }
}

/// Makes a path that of its directory.
unsafe fn cut(path: *mut u8, length: usize) {
    // SAFETY: the path has this length, and begins with a slash.
    unsafe {
        let mut last = length;
        while last > 1 {
            last -= 1;
            if path.add(last).read_volatile() == b'/' {
                path.add(last).write_volatile(0);
                return;
            }
        }
        path.add(1).write_volatile(0);
    }
}

/// Whether a string begins with these bytes.
unsafe fn begins(text: *const u8, with: &[u8]) -> bool {
    let mut index = 0;
    while index < with.len() {
        // SAFETY: what differs is not read on, and that is the null byte at the end if nothing else.
        if unsafe { text.add(index).read_volatile() != with.as_ptr().add(index).read_volatile() } {
            return false;
        }
        index += 1;
    }
    true
}

const fn at(constant: libc::c_int) -> usize {
    constant as isize as usize
}

/// A system call, without the C library's errno, which is thread-local.
unsafe fn call(number: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result;
    // SAFETY: what the call does is the caller's to answer for; the registers are those of syscall(2).
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
