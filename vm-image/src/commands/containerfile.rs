//! `containerfile`: for those who have a registry, a layer on top of the upstream image.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::Report;
use crate::runtime;

/// Print a Containerfile that derives an image with Coracle from the upstream machine-os image, for `podman machine os
/// apply` or `bootc switch`
#[derive(Args)]
pub struct Containerfile {
    /// The image to derive from; its tag is podman's version
    #[arg(long, default_value = "quay.io/podman/machine-os:5.8")]
    base: String,
}

impl Containerfile {
    /// Does it.
    ///
    /// # Errors
    /// The packaged configuration is not as expected.
    pub fn run(self) -> Result<Report> {
        let text = contents(&self.base, &runtime::configuration()?);
        let json = json!({ "base": self.base, "containerfile": text });
        Ok(Report { text, json })
    }
}

/// On such a system `/usr` is the image's and `/usr/local` the machine's, so everything is in `/usr`. Only what old builders
/// know too: Debian 12's has no documents within a Containerfile.
fn contents(base: &str, configuration: &str) -> String {
    let lines: Vec<_> = configuration.lines().map(|line| format!("        {}", quoted(line))).collect();
    let lines = lines.join(" \\\n");
    format!(
        "\
# machine-os with Coracle as the default runtime. In a directory with coracle, coracle-wasi and coracle-wasmc:
#   podman build -t REGISTRY/machine-os-coracle:5.8 -f THIS_FILE DIRECTORY && podman push REGISTRY/machine-os-coracle:5.8
# and on a machine:
#   podman machine os apply REGISTRY/machine-os-coracle:5.8 --restart
FROM {base}
COPY --chmod=755 coracle /usr/bin/coracle
COPY --chmod=755 coracle-wasi coracle-wasmc /usr/libexec/coracle/
RUN ln -s coracle /usr/bin/coracle-wasm
# Podman 6 reads drop-ins in /usr/share, podman 4 and 5 in /etc alone.
RUN mkdir -p /usr/share/containers/containers.conf.d /etc/containers/containers.conf.d && \\
    printf '%s\\n' \\
{lines} \\
        > /usr/share/containers/containers.conf.d/10-coracle.conf && \\
    cp /usr/share/containers/containers.conf.d/10-coracle.conf /etc/containers/containers.conf.d/
# What is not in order is found now and not on the machines.
RUN coracle --version && if command -v ostree; then ostree container commit; fi
"
    )
}

/// A word of the shell's that is this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn the_shell_leaves_it_as_it_is() {
        for text in ["", "# it's", "runtime = \"coracle\"", "`$(x) \\n \\ '' $HOME"] {
            let script = format!("printf %s {}", quoted(text));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), text);
        }
    }
}
