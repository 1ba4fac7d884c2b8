//! How container engines call a runtime, and what they read back: every line that one of them runs, in the surroundings
//! that it gives it, and every error whose words one of them looks at.
//!
//! `table` has the lines, `caller` the surroundings, `readers` the engines' ways to read an error. `life` goes through
//! the lines that succeed, `errors` through those that fail, `pods` through what chooses a handler in a pod.

mod caller;
mod errors;
mod life;
mod pods;
mod readers;
mod table;

use anyhow::Result;
use table::Engine;

#[test]
fn podman() -> Result<()> {
    life::every_line(Engine::Podman)
}

#[test]
fn containerd() -> Result<()> {
    life::every_line(Engine::Containerd)
}

#[test]
fn dockerd() -> Result<()> {
    life::every_line(Engine::Docker)
}

#[test]
fn crio() -> Result<()> {
    life::every_line(Engine::Crio)
}

#[test]
fn buildah() -> Result<()> {
    life::every_line(Engine::Buildah)
}
