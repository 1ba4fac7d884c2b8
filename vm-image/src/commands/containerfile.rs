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

/// On such a system `/usr` is the image's and `/usr/local` the machine's, so everything is in `/usr`.
fn contents(base: &str, configuration: &str) -> String {
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
COPY <<\"END\" /usr/share/containers/containers.conf.d/10-coracle.conf
{configuration}END
# Podman 4 and 5 read drop-ins here alone.
RUN mkdir -p /etc/containers/containers.conf.d && \\
    cp /usr/share/containers/containers.conf.d/10-coracle.conf /etc/containers/containers.conf.d/
# What is not in order is found now and not on the machines.
RUN coracle --version && if command -v ostree; then ostree container commit; fi
"
    )
}

#[cfg(test)]
mod tests {
    use super::contents;

    #[test]
    fn the_configuration_is_a_document_of_its_own() {
        let text = contents("registry.example/base:1", "[engine]\nruntime = \"coracle\"\n");
        assert!(text.contains("FROM registry.example/base:1\n"), "{text}");
        assert!(text.contains("10-coracle.conf\n[engine]\nruntime = \"coracle\"\nEND\n"), "{text}");
    }
}
