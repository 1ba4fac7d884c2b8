use super::Report;
#[derive(clap::Args)]
pub struct Pack {}
impl Pack { pub fn run(self) -> anyhow::Result<Report> { anyhow::bail!("x") } }
