use super::Report;
#[derive(clap::Args)]
pub struct Inject {}
impl Inject { pub fn run(self) -> anyhow::Result<Report> { anyhow::bail!("x") } }
