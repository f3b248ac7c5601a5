//! The process: what it refuses to start with.

use anyhow::{Context as _, Result};
use federation_tests::lab::program;

use crate::world::{DNS, in_world};

#[test]
fn what_cannot_work_ends_in_a_sentence() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        world.start_dns("dns", DNS)?;
        world.eventually("my-federation", "NOERROR").await?;

        let kubeconfig = world.kubeconfig();
        let kubeconfig = kubeconfig.to_str().context("a path of ASCII")?;
        let good = ["--kubeconfig", kubeconfig, "--federation", "my-federation", "--domain", "example.com"];
        for (changed, sentence) in [
            // The first process holds it.
            (["--listen", "127.0.0.1:53"], "cannot answer DNS at 127.0.0.1:53"),
            (["--listen", "192.0.2.1:53"], "cannot answer DNS at 192.0.2.1:53"),
            (["--kubeconfig", "/nowhere"], "read the kubeconfig /nowhere"),
            (["--federation", "a..b"], "--federation \"a..b\" cannot be part of a DNS name"),
            (["--domain", "my-federation"], "make the zone my-federation. twice"),
            (["--vip-range", "198.18.0.0/16,198.19.0.0/16"], "--vip-range"),
        ] {
            let mut arguments: Vec<_> = good
                .into_iter()
                .chain(["--vip-range", "198.18.0.0/16", "--listen", "127.0.0.1:54"])
                .collect();
            let place = arguments.iter().position(|flag| *flag == changed[0]).context("a flag of ours")?;
            arguments[place + 1] = changed[1];
            let mut command = world.host.namespace().command(program("federation-agent")?);
            let output = command.arg("dns").args(arguments).output()?;
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{changed:?} was taken");
            assert!(errors.contains(sentence), "{changed:?}: {errors}");
        }
        Ok(())
    })
}
