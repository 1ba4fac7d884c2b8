//! `coracle wasm`: the cache of compiled modules, for its administrator.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use clap::Subcommand;
use serde::Serialize;

use crate::cli::Global;
use crate::error::{Error, Os};
use crate::wasm::cache::{Cache, Entry};
use crate::wasm::directory::Directory;

/// Arguments of `wasm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Compile modules now, so that their first container starts as fast as the next
    Compile {
        /// Modules, in binary or text form
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List compiled modules
    Ls {
        /// Form of the list
        #[arg(long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
    },
    /// Remove compiled modules that are not needed; the default is those unused for 30 days
    Prune {
        /// Remove everything
        #[arg(long, conflicts_with_all = ["older_than", "max_size"])]
        all: bool,
        /// Remove what has not been used for this many days
        #[arg(long, value_name = "DAYS")]
        older_than: Option<u64>,
        /// Remove the least recently used until the rest is no larger than this (bytes, or with K, M, G)
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        max_size: Option<u64>,
    },
    /// Check every compiled module byte by byte and remove damaged ones
    Verify,
}

/// Runs `wasm`.
///
/// # Errors
/// Why the cache cannot be used, or a module not be compiled.
pub fn run(args: &Args, _global: &Global) -> Result<u8, Error> {
    let cache = Cache::new(Directory::open_default().map_err(Error::new)?);
    match &args.verb {
        Verb::Compile { files } => compile_all(&cache, files),
        Verb::Ls { format } => list(&cache, format == "json").map(|()| 0),
        Verb::Prune { all: true, .. } => cache.clear().map(|()| 0).map_err(|e| io_error(&cache, e)),
        Verb::Prune { older_than, max_size, .. } => prune(&cache, *older_than, *max_size).map(|()| 0),
        Verb::Verify => verify(&cache),
    }
}

/// One bad module does not keep the others from being compiled.
fn compile_all(cache: &Cache, files: &[PathBuf]) -> Result<u8, Error> {
    let mut failures: Vec<Error> = files.iter().filter_map(|file| compile(cache, file).err()).collect();
    let Some(last) = failures.pop() else {
        return Ok(0);
    };
    for failure in failures {
        super::tell(failure);
    }
    Err(last)
}

fn compile(cache: &Cache, path: &Path) -> Result<(), Error> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| Error::new(format_args!("{name}: {}", Os(e))))?;
    let start = Instant::now();
    let found = crate::wasm::warm(cache, file.as_fd(), &name, true).map_err(Error::new)?;
    let size = File::from(found.artifact).metadata().map(|m| m.len()).unwrap_or_default();
    let how = if found.compiled { "compiled" } else { "cached" };
    super::print(format_args!(
        "{}  {}  {how} in {:.1?}  {name}",
        short(&found.module),
        human(size),
        start.elapsed()
    ))?;
    Ok(())
}

/// One entry as `ls --format json` prints it. Times are seconds since 1970.
#[derive(Serialize)]
struct Row {
    module: String,
    module_size: u64,
    size: u64,
    created: u64,
    used: u64,
    compiler: String,
    file: PathBuf,
}

fn list(cache: &Cache, json: bool) -> Result<(), Error> {
    let entries = entries(cache)?;
    if json {
        let rows: Vec<Row> = entries.iter().map(|entry| row(cache, entry)).collect();
        return super::print(serde_json::to_string_pretty(&rows).map_err(Error::new)?);
    }
    super::print(format_args!(
        "{:12}  {:>9}  {:>9}  {:>12}  {:>12}",
        "MODULE", "WASM", "COMPILED", "CREATED", "USED"
    ))?;
    for entry in &entries {
        super::print(format_args!(
            "{:12}  {:>9}  {:>9}  {:>12}  {:>12}",
            short(&entry.module),
            human(entry.module_size),
            human(entry.size),
            ago(entry.created),
            ago(entry.used)
        ))?;
    }
    Ok(())
}

fn row(cache: &Cache, entry: &Entry) -> Row {
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH).map(|t| t.as_secs()).unwrap_or_default()
    };
    Row {
        module: entry.module.to_hex().to_string(),
        module_size: entry.module_size,
        size: entry.size,
        created: seconds(entry.created),
        used: seconds(entry.used),
        compiler: entry.compiler.to_hex().to_string(),
        file: cache.path().join(&entry.name),
    }
}

/// The most recently used first.
fn entries(cache: &Cache) -> Result<Vec<Entry>, Error> {
    let mut entries = cache.entries().map_err(|e| io_error(cache, e))?;
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.used));
    Ok(entries)
}

fn prune(cache: &Cache, older_than: Option<u64>, max_size: Option<u64>) -> Result<(), Error> {
    let days = older_than.or(if max_size.is_none() { Some(30) } else { None });
    let age = days.map(|days| Duration::from_secs(days.saturating_mul(24 * 3600)));
    let (mut kept, mut freed, mut count) = (0_u64, 0, 0);
    for entry in entries(cache)? {
        let old = age.is_some_and(|age| entry.used.elapsed().is_ok_and(|unused| unused >= age));
        let too_much = max_size.is_some_and(|max| kept + entry.size > max);
        if old || too_much {
            cache.remove(&entry.name).map_err(|e| io_error(cache, e))?;
            freed += entry.size;
            count += 1;
        } else {
            kept += entry.size;
        }
    }
    cache.sweep();
    super::print(format_args!("removed {count} compiled modules, {}", human(freed)))?;
    Ok(())
}

fn verify(cache: &Cache) -> Result<u8, Error> {
    let (sound, bad) = cache.verify().map_err(|e| io_error(cache, e))?;
    for (name, reason) in &bad {
        super::print(format_args!("{name}: {reason}; removed"))?;
    }
    super::print(format_args!("{sound} sound, {} removed", bad.len()))?;
    Ok(u8::from(!bad.is_empty()))
}

fn io_error(cache: &Cache, reason: std::io::Error) -> Error {
    Error::new(format_args!("{}: {}", cache.path().display(), Os(reason)))
}

fn short(digest: &blake3::Hash) -> String {
    digest.to_hex()[..12].to_owned()
}

fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

fn ago(time: SystemTime) -> String {
    indicatif::HumanDuration(time.elapsed().unwrap_or_default()).to_string()
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) => (number, 10 * (1 + "KMG".find(&text[text.len() - 1..]).unwrap_or_default())),
        None => (text, 0),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text}: not a size"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text}: too large"))
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(parse_size("1000"), Ok(1000));
        assert_eq!(parse_size("3K"), Ok(3072));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert!(parse_size("1T").is_err());
        assert!(parse_size("").is_err());
        assert!(parse_size("99999999999999G").is_err());
    }
}
