//! The guest's linear memory as host functions see it.
//!
//! Invariant: every access is checked against the memory's present size, and fails with `EFAULT`. The guest is
//! the only one that grows its memory and it does not run while a host function does, so a view stays good
//! for the length of one call. Nothing here keeps a reference into the memory: bytes are copied, or their
//! address goes to the kernel, so a guest may pass overlapping buffers as it likes.

use std::{marker::PhantomData, slice};

use crate::types::{Errno, Result};

/// The memory for the length of one call.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    base: *mut u8,
    size: u64,
    lifetime: PhantomData<&'a ()>,
}

/// The most buffers that one system call takes (`IOV_MAX`); a longer list is cut, which makes a short read or write.
const MAX_BUFFERS: u32 = 1024;

impl<'a> Memory<'a> {
    /// # Safety
    /// `size` bytes at `base` must be readable and writable for `'a`, and no reference to them may exist.
    pub unsafe fn new(base: *mut u8, size: u64) -> Self {
        Self { base, size, lifetime: PhantomData }
    }

    /// The memory of a module that exports none: every access fails.
    pub fn empty() -> Self {
        Self { base: std::ptr::NonNull::dangling().as_ptr(), size: 0, lifetime: PhantomData }
    }

    /// Address of `len` bytes at `offset`, for a system call or a copy.
    pub fn range(self, offset: u32, len: u32) -> Result<*mut u8> {
        if u64::from(offset) + u64::from(len) > self.size {
            return Err(Errno::Fault);
        }
        // SAFETY: the sum above is within the memory.
        Ok(unsafe { self.base.add(offset as usize) })
    }

    /// Copies a string or list out of the memory.
    pub fn bytes(self, offset: u32, len: u32) -> Result<Vec<u8>> {
        let start = self.range(offset, len)?;
        // SAFETY: `range` checked it, and the slice is gone before the guest runs again.
        Ok(unsafe { slice::from_raw_parts(start, len as usize) }.to_vec())
    }

    /// Copies an array out of the memory.
    pub fn array<const N: usize>(self, offset: u32) -> Result<[u8; N]> {
        let start = self.range(offset, N as u32)?;
        // SAFETY: `range` checked it; an array of bytes has no alignment.
        Ok(unsafe { start.cast::<[u8; N]>().read() })
    }

    /// Copies bytes into the memory.
    pub fn write(self, offset: u32, bytes: &[u8]) -> Result {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        let start = self.range(offset, len)?;
        // SAFETY: `range` checked it, and `bytes` is host memory.
        unsafe { start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Stores a number, little-endian as WebAssembly has it.
    pub fn write_u32(self, offset: u32, value: u32) -> Result {
        self.write(offset, &value.to_le_bytes())
    }

    /// Stores a number, little-endian as WebAssembly has it.
    pub fn write_u64(self, offset: u32, value: u64) -> Result {
        self.write(offset, &value.to_le_bytes())
    }

    /// The buffers of an `iovec_array` or `ciovec_array`, for the kernel to fill or read.
    pub fn buffers(self, list: u32, count: u32) -> Result<Vec<libc::iovec>> {
        let count = count.min(MAX_BUFFERS);
        self.range(list, count * 8)?;
        let buffer = |index| {
            let record = self.array::<8>(list + index * 8)?;
            let (offset, len) = (u32_at(&record, 0), u32_at(&record, 4));
            Ok(libc::iovec { iov_base: self.range(offset, len)?.cast(), iov_len: len as usize })
        };
        (0..count).map(buffer).collect()
    }
}

/// The number at `offset` of a record copied from the guest. Panics when it is not there, as an index does.
pub fn u32_at(record: &[u8], offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[offset..offset + 4]);
    u32::from_le_bytes(bytes)
}

/// The number at `offset` of a record copied from the guest. Panics when it is not there, as an index does.
pub fn u64_at(record: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(bytes: &mut [u8], act: impl FnOnce(Memory<'_>) -> T) -> T {
        // SAFETY: the slice is borrowed for the call and not used otherwise.
        act(unsafe { Memory::new(bytes.as_mut_ptr(), bytes.len() as u64) })
    }

    #[test]
    fn access_ends_at_the_last_byte() {
        with(&mut [0; 16], |memory| {
            assert!(memory.range(16, 0).is_ok());
            assert!(memory.write_u64(8, 1).is_ok());
            assert_eq!(memory.write_u64(9, 1), Err(Errno::Fault));
            assert_eq!(memory.range(17, 0), Err(Errno::Fault));
            assert_eq!(memory.range(u32::MAX, u32::MAX), Err(Errno::Fault));
        });
        assert_eq!(Memory::empty().range(0, 1), Err(Errno::Fault));
    }

    #[test]
    fn buffers_are_checked_one_by_one() {
        let mut bytes = [0; 32];
        bytes[0] = 16;
        bytes[4] = 16;
        with(&mut bytes, |memory| {
            let buffers = memory.buffers(0, 2).expect("in range");
            assert_eq!((buffers[0].iov_len, buffers[1].iov_len), (16, 0));
        });
        bytes[4] = 17;
        with(&mut bytes, |memory| assert_eq!(memory.buffers(0, 1).err(), Some(Errno::Fault)));
    }

    #[test]
    fn a_long_list_of_buffers_is_cut() {
        let mut bytes = vec![0; 8 * 2000];
        with(&mut bytes, |memory| assert_eq!(memory.buffers(0, 2000).expect("in range").len(), 1024));
    }
}
