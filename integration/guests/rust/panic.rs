// expect: exit 134, stdout `before`, stderr `the reason`
fn main() {
    println!("before");
    let values: Vec<u32> = std::env::args().skip(9).map(|a| a.len() as u32).collect();
    assert!(!values.is_empty(), "the reason");
}
