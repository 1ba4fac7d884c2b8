//! What a user sees of a trap.

use std::fmt::Write;

use wasmer::{FrameInfo, RuntimeError};

/// As with abort(3): 128 and SIGABRT.
pub const EXIT_CODE: i32 = 134;

/// A recursion without end is thousands of frames, and the ends of it say what is to say.
const FIRST_FRAMES: usize = 24;
const LAST_FRAMES: usize = 8;

/// The reason, and where the guest was, innermost function first.
pub fn describe(trap: &RuntimeError) -> String {
    let mut text = format!("wasm trap: {}\n", trap.message());
    frames(&mut text, trap.trace().iter().map(frame));
    text
}

fn frames(text: &mut String, frames: impl ExactSizeIterator<Item = String>) {
    let count = frames.len();
    let left_out = if count > FIRST_FRAMES + LAST_FRAMES { FIRST_FRAMES..count - LAST_FRAMES } else { 0..0 };
    for (index, frame) in frames.enumerate() {
        // Writing to a String does not fail.
        if !left_out.contains(&index) {
            let _ = writeln!(text, "  {index:>3}: {frame}");
        } else if index == left_out.start {
            let _ = writeln!(text, "  ... {} frames left out", left_out.len());
        }
    }
}

/// A function by the name that the module's name section gives it, else by its number.
fn frame(frame: &FrameInfo) -> String {
    let place = format!("function {}, offset {:#x}", frame.func_index(), frame.module_offset());
    match frame.function_name() {
        // Leaves the names of other languages as they are, and the hash at the end out.
        Some(name) => format!("{:#} ({place})", rustc_demangle::demangle(name)),
        None => place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(count: usize) -> String {
        let mut text = String::new();
        frames(&mut text, (0..count).map(|it| format!("f{it}")).collect::<Vec<_>>().into_iter());
        text
    }

    #[test]
    fn few_frames_are_printed_whole() {
        assert_eq!(printed(2), "    0: f0\n    1: f1\n");
        assert_eq!(printed(32).lines().count(), 32);
    }

    #[test]
    fn many_frames_are_shortened_in_the_middle() {
        let text = printed(1000);
        assert_eq!(text.lines().count(), FIRST_FRAMES + 1 + LAST_FRAMES);
        assert!(text.contains("   23: f23\n  ... 968 frames left out\n  992: f992\n"));
    }
}
