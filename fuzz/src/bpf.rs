//! Runs a seccomp program as the kernel would, and refuses what the kernel would refuse (kernel/seccomp.c,
//! seccomp_check_filter).

/// `struct seccomp_data`, the system call that a program judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Number of the call.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Call {
    /// The four bytes at an offset of the structure, whose instruction pointer is 0.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            8 | 12 => 0,
            _ => {
                let argument = self.arguments[(offset as usize - 16) / 8].to_ne_bytes();
                let at = offset as usize % 8;
                u32::from_ne_bytes([argument[at], argument[at + 1], argument[at + 2], argument[at + 3]])
            }
        }
    }
}

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    constant: u32,
}

/// A program of instructions that the kernel would take.
pub struct Program(Vec<Instruction>);

impl Program {
    /// Reads a program. Panics where the kernel would refuse it.
    pub fn new(bytes: &[u8]) -> Self {
        let (instructions, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty() && (1..=4096).contains(&instructions.len()), "{} bytes", bytes.len());
        let instruction = |[a, b, jump_true, jump_false, constant @ ..]: &[u8; 8]| Instruction {
            code: u16::from_ne_bytes([*a, *b]),
            jump_true: *jump_true,
            jump_false: *jump_false,
            constant: u32::from_ne_bytes(*constant),
        };
        let program: Vec<_> = instructions.iter().map(instruction).collect();
        for (at, instruction) in program.iter().enumerate() {
            let targets = match instruction.code {
                0x05 => vec![instruction.constant as usize],
                code if code & 7 == 5 => vec![instruction.jump_true.into(), instruction.jump_false.into()],
                0x20 => {
                    assert!(
                        instruction.constant < 64 && instruction.constant.is_multiple_of(4),
                        "{instruction:?}"
                    );
                    vec![]
                }
                _ => vec![],
            };
            assert!(targets.iter().all(|jump| at + 1 + jump < program.len()), "{at}: {instruction:?}");
        }
        assert!(
            program.last().is_some_and(|last| matches!(last.code, 0x06 | 0x16)),
            "it does not end by returning"
        );
        Self(program)
    }

    /// What the program answers: `SECCOMP_RET_*` and its data.
    pub fn run(&self, call: &Call) -> u32 {
        let (mut at, mut accumulator, mut index, mut memory) = (0, 0u32, 0u32, [0u32; 16]);
        loop {
            let Instruction { code, jump_true, jump_false, constant } = self.0[at];
            at += 1;
            let source = if code & 0x08 == 0 { constant } else { index };
            let condition = match code {
                0x06 => return constant,
                0x16 => return accumulator,
                0x20 => {
                    accumulator = call.word(constant);
                    continue;
                }
                0x00 => {
                    accumulator = constant;
                    continue;
                }
                0x01 => {
                    index = constant;
                    continue;
                }
                0x60 => {
                    accumulator = memory[constant as usize];
                    continue;
                }
                0x61 => {
                    index = memory[constant as usize];
                    continue;
                }
                0x02 => {
                    memory[constant as usize] = accumulator;
                    continue;
                }
                0x03 => {
                    memory[constant as usize] = index;
                    continue;
                }
                0x07 => {
                    index = accumulator;
                    continue;
                }
                0x87 => {
                    accumulator = index;
                    continue;
                }
                0x44 | 0x4c => {
                    accumulator |= source;
                    continue;
                }
                0x54 | 0x5c => {
                    accumulator &= source;
                    continue;
                }
                0x05 => {
                    at += constant as usize;
                    continue;
                }
                0x15 | 0x1d => accumulator == source,
                0x25 | 0x2d => accumulator > source,
                0x35 | 0x3d => accumulator >= source,
                0x45 | 0x4d => accumulator & source != 0,
                code => panic!("an instruction that no seccomp compiler writes: {code:#x}"),
            };
            at += usize::from(if condition { jump_true } else { jump_false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Vec<u8> {
        let bytes = |(code, yes, no, constant): &(u16, u8, u8, u32)| {
            let ([a, b], [c, d, e, f]) = (code.to_ne_bytes(), constant.to_ne_bytes());
            [a, b, *yes, *no, c, d, e, f]
        };
        instructions.iter().flat_map(bytes).collect()
    }

    #[test]
    fn words_of_arguments_are_found() {
        // The upper half of the second argument.
        let upper = if cfg!(target_endian = "little") { 28 } else { 24 };
        let bytes = program(&[(0x20, 0, 0, upper), (0x15, 0, 1, 7), (0x06, 0, 0, 1), (0x06, 0, 0, 2)]);
        let program = Program::new(&bytes);
        let call = |value| Call { arguments: [0, value, 0, 0, 0, 0], ..Call::default() };
        assert_eq!([call(7 << 32), call(7)].map(|call| program.run(&call)), [1, 2]);
    }

    #[test]
    #[should_panic(expected = "0: Instruction")]
    fn a_jump_behind_the_end_is_refused() {
        Program::new(&program(&[(0x15, 0, 1, 7), (0x06, 0, 0, 1)]));
    }
}
