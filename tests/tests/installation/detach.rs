//! What an agent leaves on its node on purpose, and how that is taken away.

use anyhow::Result;

use crate::world::{World, said};

#[tokio::test]
async fn what_stays_behind_an_agent_is_gone_after_detach_and_nothing_else() -> Result<()> {
    let world = World::new().await?;
    let namespace = world.node.namespace();
    namespace.ip(["address add 169.254.20.10/32 dev lo"])?;
    let before = world.loopback()?;
    let links = || namespace.execute("ip", &["link", "show", "dev", "eth0"]);
    let agent = world.serving().await?;
    let with_agent = world.loopback()?;
    assert!(with_agent.contains("inet 169.254.20.11/32 scope host lo:federation"), "{with_agent}");
    assert!(links()?.contains("xdp"), "{}", links()?);

    let detach = |more: &[&str]| -> Result<_> {
        let mut command = world.command("detach")?;
        command.arg("--bpf-dir").arg(&world.pins).arg("--state-dir").arg(&world.state).args(more);
        Ok(command.output()?)
    };
    let refused = detach(&[])?;
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && errors.contains(&format!("process {}", agent.id())), "{errors}");

    assert!(agent.terminate().await?.success());
    assert_eq!(world.loopback()?, with_agent, "the address stays for the next agent");
    assert!(links()?.contains("xdp") && world.pins.exists());

    let done = detach(&[])?;
    assert!(done.status.success(), "{done:?}");
    let told = said(&done)?;
    assert!(told.contains("programs detached") && told.contains("169.254.20.11 is taken from"), "{told}");
    assert_eq!(world.loopback()?, before);
    assert!(!links()?.contains("xdp") && !world.pins.exists());
    assert!(world.state.join("federation").exists(), "what it knew stays unless it is asked for");

    std::fs::write(world.state.join("not-ours"), "")?;
    assert!(detach(&["--remove-state"])?.status.success());
    let left: Vec<_> =
        std::fs::read_dir(&world.state)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(left, ["not-ours"]);
    std::fs::remove_file(world.state.join("not-ours"))?;
    assert!(detach(&["--remove-state"])?.status.success());
    assert!(!world.state.exists());
    Ok(())
}
