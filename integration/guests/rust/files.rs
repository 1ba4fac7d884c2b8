// expect: exit 0, stdout `ok`
//! What Rust's standard library does with files, from a guest.
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant, SystemTime};

fn main() -> std::io::Result<()> {
    fs::create_dir_all("/tmp/a/b")?;
    let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open("/tmp/a/f")?;
    file.write_all(b"hello world")?;
    file.seek(SeekFrom::Start(6))?;
    let mut rest = String::new();
    file.read_to_string(&mut rest)?;
    assert_eq!(rest, "world");
    file.set_len(5)?;
    assert_eq!(file.metadata()?.len(), 5);
    assert!(file.metadata()?.modified()? <= SystemTime::now() + Duration::from_secs(1));
    drop(file);
    fs::rename("/tmp/a/f", "/tmp/a/b/g")?;
    fs::hard_link("/tmp/a/b/g", "/tmp/a/h")?;
    fs::copy("/tmp/a/h", "/tmp/a/i")?;
    assert_eq!(fs::read_to_string("/tmp/a/i")?, "hello");
    let names: BTreeSet<_> =
        fs::read_dir("/tmp/a")?.map(|e| e.map(|e| e.file_name().into_string().unwrap())).collect::<Result<_, _>>()?;
    assert_eq!(names, ["b", "h", "i"].map(String::from).into());
    for n in 0..500 {
        fs::write(format!("/tmp/a/b/file-with-a-long-name-{n}"), "")?;
    }
    assert_eq!(fs::read_dir("/tmp/a/b")?.count(), 501);
    fs::remove_dir_all("/tmp/a")?;
    assert_eq!(fs::metadata("/tmp/a").unwrap_err().kind(), std::io::ErrorKind::NotFound);

    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(20));
    assert!(start.elapsed() >= Duration::from_millis(20));
    println!("ok");
    Ok(())
}
