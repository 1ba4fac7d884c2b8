use super::Report;
#[derive(clap::Args)]
pub struct Containerfile {}
impl Containerfile { pub fn run(self) -> anyhow::Result<Report> { anyhow::bail!("x") } }
