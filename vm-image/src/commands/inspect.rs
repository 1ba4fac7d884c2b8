use super::Report;
#[derive(clap::Args)]
pub struct Inspect {}
impl Inspect { pub fn run(self) -> anyhow::Result<Report> { anyhow::bail!("x") } }
