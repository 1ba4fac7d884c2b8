//! Modules made to break the compiler, and what the compiler could reach if one did.
//!
//! Every module ends as an artifact or in one line that says which limit it has met: of the WebAssembly parser, or of
//! handlers/compiler/src/limits.rs. What the compiler has left while it works is looked at from outside.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::status;
use anyhow::{Context, Result, ensure};
use coracle_integration::{Finished, Host, Run, command, coracle, eventually, wat};
use rustix::process::Signal;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, CustomSection, DataSection, Encode, ExportKind, ExportSection,
    Function, FunctionSection, Instruction, MemorySection, MemoryType, Module, RawSection, TypeSection,
    ValType,
};

/// A program with these functions, the first of which is its start.
fn program(bodies: &[Function]) -> Module {
    parts(bodies, &[], &[])
}

fn parts(bodies: &[Function], memories: &[u64], data: &[(i32, &[u8])]) -> Module {
    let mut module = Module::new();
    let mut types = TypeSection::new();
    types.ty().function([], []);
    module.section(&types);
    let mut functions = FunctionSection::new();
    bodies.iter().for_each(|_| {
        functions.function(0);
    });
    module.section(&functions);
    let mut section = MemorySection::new();
    for &minimum in memories {
        let kind =
            MemoryType { minimum, maximum: None, memory64: false, shared: false, page_size_log2: None };
        section.memory(kind);
    }
    module.section(&section);
    module.section(ExportSection::new().export("_start", ExportKind::Func, 0));
    let mut code = CodeSection::new();
    bodies.iter().for_each(|body| {
        code.function(body);
    });
    module.section(&code);
    let mut section = DataSection::new();
    for (offset, bytes) in data {
        section.active(0, &ConstExpr::i32_const(*offset), bytes.iter().copied());
    }
    module.section(&section);
    module
}

fn function(locals: u32, instructions: impl IntoIterator<Item = Instruction<'static>>) -> Function {
    let mut body = Function::new([(locals, ValType::I32)]);
    for instruction in instructions.into_iter().chain([Instruction::End]) {
        body.instruction(&instruction);
    }
    body
}

fn repeated<const N: usize>(
    instructions: [Instruction<'static>; N],
    times: usize,
) -> impl Iterator<Item = Instruction<'static>> {
    std::iter::repeat_n(instructions, times).flatten()
}

/// A function that begins many blocks in each other, and ends them all.
fn nested<const N: usize>(begin: [Instruction<'static>; N], depth: usize) -> Function {
    function(1, repeated(begin, depth).chain(repeated([Instruction::End], depth)))
}

/// A section that says it has more bytes than the module.
fn claims(section: u8, length: u32) -> Vec<u8> {
    let mut bytes = Module::new().finish();
    bytes.push(section);
    length.encode(&mut bytes);
    bytes
}

/// Compiles a module into the host's cache.
fn compile(host: &Host, name: &str, module: &[u8]) -> Result<Finished> {
    let path = host.path().join(name);
    fs::write(&path, module)?;
    host.runtime().args(["wasm", "compile"]).arg(path).job()?.wait_for(Duration::from_secs(240))
}

/// The modules that make a good compiler work hard. `None`: they are compiled.
#[test]
fn a_module_made_to_break_the_compiler_meets_a_limit() -> Result<()> {
    use Instruction::{Block, Drop, I32Const, If, LocalGet, Loop};
    let empty = || function(0, []);
    let mut sections = Module::new();
    for _ in 0..100_000 {
        sections.section(&CustomSection { name: "x".into(), data: Cow::Borrowed(b"") });
    }
    let mut malformed = Module::new();
    for _ in 0..5_000 {
        malformed.section(&RawSection { id: 200, data: b"x" });
    }
    let modules: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        (
            "a-million-instructions",
            program(&[function(0, repeated([I32Const(1), Drop], 500_000))]).finish(),
            None,
        ),
        (
            "one-function-of-9-MB",
            program(&[function(0, repeated([I32Const(1), Drop], 3_000_000))]).finish(),
            Some("size"),
        ),
        ("100-000-locals", program(&[function(100_000, [])]).finish(), Some("too many locals")),
        ("50-000-locals", program(&[function(50_000, [])]).finish(), None),
        ("200-000-blocks", program(&[nested([Block(BlockType::Empty)], 200_000)]).finish(), None),
        ("50-000-loops", program(&[nested([Loop(BlockType::Empty)], 50_000)]).finish(), None),
        ("100-000-ifs", program(&[nested([LocalGet(0), If(BlockType::Empty)], 100_000)]).finish(), None),
        ("100-000-functions", program(&vec![empty(); 100_000]).finish(), None),
        (
            "1-000-001-functions",
            program(&vec![empty(); 1_000_001]).finish(),
            Some("functions count exceeds limit"),
        ),
        ("4-GiB-of-memory", parts(&[empty()], &[65_536], &[]).finish(), None),
        ("5-GiB-of-memory", parts(&[empty()], &[81_920], &[]).finish(), Some("memory size must be at most")),
        ("101-memories", parts(&[empty()], &[65_536; 101], &[]).finish(), Some("memories count")),
        (
            "100-000-data-segments",
            parts(&[empty()], &[65_536], &vec![(-16, &b"data"[..]); 100_000]).finish(),
            None,
        ),
        (
            "100-001-data-segments",
            parts(&[empty()], &[65_536], &vec![(-16, &b"data"[..]); 100_001]).finish(),
            Some("data segments count"),
        ),
        ("4-GiB-of-data", claims(11, u32::MAX), Some("unexpected end")),
        ("4-GiB-of-types", claims(1, u32::MAX), Some("unexpected end")),
        ("4-GiB-of-name", claims(0, u32::MAX), Some("unexpected end")),
        ("100-000-sections", sections.finish(), None),
        ("malformed-sections", malformed.finish(), Some("malformed section id")),
    ];
    let host = Host::new()?;
    for (name, module, refusal) in modules {
        let start = Instant::now();
        let done = compile(&host, name, &module)?;
        match refusal {
            None => drop(done.ok()?),
            Some(reason) => {
                let done = done.exits(1)?.fails_with(reason)?;
                ensure!(done.stderr.lines().count() == 1, "one line expected: {done}");
            }
        }
        println!("{name}: {:?}", start.elapsed());
    }
    Ok(())
}

/// The compiler itself, under a limit of the caller's that is lower than its own.
fn limited(host: &Host, limit: &str, module: &[u8]) -> Result<(i32, String)> {
    let (input, output) = (host.path().join("module"), host.path().join("output"));
    fs::write(&input, module)?;
    let status = Command::new("prlimit")
        .args([limit, "--"])
        .arg(coracle().with_file_name("coracle-wasmc"))
        .stdin(File::open(&input)?)
        .stdout(File::create(&output)?)
        .status()
        .context("prlimit")?;
    Ok((status.code().unwrap_or(-1), String::from_utf8_lossy(&fs::read(output)?).into_owned()))
}

#[test]
fn a_limit_that_is_met_is_named() -> Result<()> {
    let host = Host::new()?;
    let large =
        program(&vec![function(0, repeated([Instruction::I32Const(1), Instruction::Drop], 50)); 20_000]);
    let large = large.finish();
    let line = |text: &str| (1, format!("{text}\n"));
    assert_eq!(
        limited(&host, "--data=33554432", &large)?,
        line("compiling it takes more than 32 MiB of memory")
    );
    assert_eq!(limited(&host, "--cpu=1:3", &large)?, line("compiling it takes more than 1 s"));
    let (code, text) = limited(&host, "--fsize=100000", &large)?;
    ensure!(
        code == 1 && text.starts_with("the artifact has ") && text.ends_with(" 100000 are allowed\n"),
        "{text}"
    );
    Ok(())
}

fn children(pid: i32) -> Result<Vec<i32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// A module that keeps the compiler busy for seconds.
fn busy(host: &Host) -> Result<PathBuf> {
    use Instruction::{I32Add, I32Const, LocalGet, LocalSet};
    let body = function(1, repeated([LocalGet(0), I32Const(7), I32Add, LocalSet(0)], 1_000_000));
    let path = host.path().join("busy.wasm");
    fs::write(&path, program(&[body]).finish())?;
    Ok(path)
}

/// The compiler's two processes, of which the first waits for the second, once that is in its sandbox.
fn at_work(outer: impl Fn() -> Result<Option<i32>>) -> Result<[i32; 2]> {
    let mut found = None;
    eventually("a compiler in its sandbox", || {
        let Some(outer) = outer()? else { return Ok(false) };
        let Some(inner) = children(outer)?.first().copied() else { return Ok(false) };
        found = Some([outer, inner]);
        Ok(status(inner, "Seccomp").is_ok_and(|mode| mode == ["2"]))
    })?;
    found.context("the compiler")
}

/// What needs no privilege to be given up.
fn has_nothing(pid: i32) -> Result<()> {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set)?, ["0000000000000000"], "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs")?, ["1"]);
    let open: BTreeSet<_> = fs::read_dir(format!("/proc/{pid}/fd"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    assert_eq!(open, BTreeSet::from(["0".to_owned(), "1".to_owned()]));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?, "1000\n");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    for limit in ["Max data size", "Max file size", "Max cpu time"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).context("limit")?;
        ensure!(!line.contains("unlimited"), "{line}");
    }
    Ok(())
}

#[test]
fn a_compiler_at_work_has_nothing() -> Result<()> {
    let host = Host::new()?;
    let job = host.runtime().args(["wasm", "compile"]).arg(busy(&host)?).job()?;
    let [outer, inner] = at_work(|| Ok(children(job.pid())?.first().copied()))?;
    for pid in [outer, inner] {
        has_nothing(pid)?;
        assert_eq!(status(pid, "Uid")?, ["65534"; 4]);
        assert_eq!(status(pid, "Gid")?, ["65534"; 4]);
        assert_eq!(status(pid, "Groups")?, [""; 0]);
        for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
            ensure!(of(&pid.to_string())? != of("self")?, "{namespace} is the host's");
        }
        assert_eq!(fs::read_dir(format!("/proc/{pid}/root/"))?.count(), 0);
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/mountinfo"))?.lines().count(), 1);
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/environ"))?, "");
    }
    assert_eq!(status(inner, "NSpid")?.last().map(String::as_str), Some("1"));
    let network = fs::read_to_string(format!("/proc/{inner}/net/dev"))?;
    let interfaces = network.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim);
    assert_eq!(interfaces.collect::<Vec<_>>(), ["lo"]);

    // Whoever asked for the artifact is gone, and so is the compiler.
    job.signal(Signal::KILL)?;
    eventually("no compiler left", || {
        Ok([outer, inner].iter().all(|pid| !fs::exists(format!("/proc/{pid}/root/.")).unwrap_or(false)))
    })
}

/// A user without privileges, on a host that allows no user namespaces either.
#[test]
fn without_namespaces_the_rest_is_given_up() -> Result<()> {
    let host = Host::new()?;
    let script = "echo 0 > /proc/sys/user/max_user_namespaces
        exec setpriv --bounding-set=-all --inh-caps=-all \"$0\"";
    let mut compiler = command("unshare");
    compiler.args(["-Ur", "sh", "-c", script]).arg(coracle().with_file_name("coracle-wasmc"));
    let job = compiler.stdin(File::open(busy(&host)?)?).job()?;
    // Each of the programs executes the next.
    let [outer, inner] = at_work(|| Ok(Some(job.pid())))?;
    let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net"));
    ensure!(of(inner)? == fs::read_link("/proc/self/ns/net")?, "namespaces could be had");
    has_nothing(outer)?;
    has_nothing(inner)
}

#[test]
fn a_module_does_not_fill_the_disk() -> Result<()> {
    let host = Host::new()?;
    let module = wat("hello")?;
    let script = "mount -t tmpfs -o size=400k,mode=700 none \"$CORACLE_CACHE_DIR\"
        head -c \"$0\" /dev/zero > \"$CORACLE_CACHE_DIR/others\" && \"$@\" && ls \"$CORACLE_CACHE_DIR\"";
    fs::create_dir_all(host.cache_dir())?;
    let kept = |bytes: &str| -> Result<usize> {
        let mut unshare = command("unshare");
        unshare.args(["-m", "sh", "-c", script, bytes]).arg(coracle()).args(["wasm", "compile"]).arg(&module);
        unshare.env("CORACLE_CACHE_DIR", host.cache_dir());
        Ok(unshare.finish()?.ok()?.lines().filter(|name| name.len() == 64).count())
    };
    assert_eq!(kept("396000")?, 0);
    assert_eq!(kept("100000")?, 1);
    Ok(())
}
