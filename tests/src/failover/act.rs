//! Doing what a scenario says, and undoing it.

use anyhow::{Result, ensure};
use federation_agent::api::FederatedService;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    book::{AT_ONCE, AT_THE_SECOND_SYN, Haste},
    scenario::Act,
    world::{HOME, NEXT, SAME_REGION, World},
};
use crate::{
    client::Answer,
    federation::{Member, NAMESPACE, SERVICE},
    lab::Host,
};

impl Act {
    /// Whether the answer is of one who cannot, or shall not, be used afterwards.
    pub fn strikes(self, world: &World) -> Box<dyn Fn(&Answer) -> bool + Sync> {
        match self {
            Self::LoseReadiness | Self::KillServers | Self::SlowDown => {
                Box::new(|answer| answer.cluster == HOME)
            }
            Self::CutNode => Box::new(World::is_on(&world.other)),
            Self::CutRegion => Box::new(|answer| [NEXT, SAME_REGION].contains(&answer.cluster.as_str())),
            Self::CutControlPlane => Box::new(|answer| answer.cluster != HOME),
            Self::CutNext
            | Self::CutNextWithoutHub
            | Self::CutNextWithoutAgent
            | Self::MuteNext
            | Self::PartNext => Box::new(|answer| answer.cluster == NEXT),
        }
    }

    /// How soon requests are answered again once it has come to rest.
    pub fn haste(self) -> Haste {
        match self {
            // The programs alone act, each time on the client's second SYN.
            Self::CutNextWithoutAgent => AT_THE_SECOND_SYN,
            _ => AT_ONCE,
        }
    }

    /// What has to be so before it happens.
    pub async fn prepare(self, world: &World) -> Result<()> {
        match self {
            Self::CutNextWithoutHub => {
                world.federation.processes()?.iter().try_for_each(|process| process.freeze())
            }
            Self::CutNextWithoutAgent => agent(world)?.freeze(),
            Self::SlowDown => {
                let check = json!({
                    "protocol": "HTTP", "path": "/",
                    "intervalMilliseconds": 500, "timeoutMilliseconds": 500,
                    "healthyThreshold": 2, "unhealthyThreshold": 2,
                });
                check_health(world, check).await
            }
            _ => Ok(()),
        }
    }

    /// Does it.
    pub async fn perform(self, world: &World) -> Result<()> {
        let lab = world.federation.lab();
        match self {
            Self::LoseReadiness => world.home()?.set_all_ready(false).await,
            Self::KillServers => {
                world.home()?.servers().iter().try_for_each(|pod| pod.process()?.signal(Signal::SIGKILL))
            }
            Self::CutNode => world.other.power_off(),
            Self::CutNext | Self::CutNextWithoutHub | Self::CutNextWithoutAgent => {
                lab.power_off(&world.next()?.cluster().hosts())
            }
            Self::CutRegion => lab.power_off(&rest_of_region(world)?),
            Self::CutControlPlane => world.home()?.cluster().control_plane().power_off(),
            Self::MuteNext => lab.mute(&world.next()?.cluster().hosts()),
            Self::PartNext => lab.part(world.near.host(), &world.next()?.cluster().hosts()),
            Self::SlowDown => signal_all(world.home()?, Signal::SIGUSR1),
        }
    }

    /// Makes it as if it had not been, except for readiness.
    pub async fn undo(self, world: &World) -> Result<()> {
        match self {
            Self::LoseReadiness => Ok(()),
            Self::KillServers => {
                let home = world.home()?;
                for pod in home.servers() {
                    // One that has not ended yet would answer in the place of the new one.
                    pod.process()?.kill();
                    home.start_server(world.federation.lab(), &pod).await?;
                }
                Ok(())
            }
            Self::CutNode => world.other.power_on(),
            Self::CutNext => world.next()?.cluster().power_on(),
            Self::CutRegion => rest_of_region(world)?.iter().try_for_each(Host::power_on),
            Self::CutControlPlane => world.home()?.cluster().control_plane().power_on(),
            Self::CutNextWithoutHub => {
                world.federation.processes()?.iter().try_for_each(|process| process.thaw())?;
                world.next()?.cluster().power_on()
            }
            Self::CutNextWithoutAgent => {
                agent(world)?.thaw()?;
                world.next()?.cluster().power_on()
            }
            Self::MuteNext | Self::PartNext => world.federation.lab().end_losses(),
            Self::SlowDown => {
                signal_all(world.home()?, Signal::SIGUSR2)?;
                check_health(world, Value::Null).await
            }
        }
    }
}

/// The agent of the client's node.
fn agent(world: &World) -> Result<std::sync::Arc<crate::lab::Process>> {
    world.federation.agent(world.home()?, &world.near)
}

fn rest_of_region(world: &World) -> Result<Vec<Host>> {
    let also = world.federation.member(SAME_REGION)?;
    Ok([world.next()?, also].iter().flat_map(|member| member.cluster().hosts()).collect())
}

fn signal_all(member: &Member, signal: Signal) -> Result<()> {
    let servers = member.servers();
    ensure!(!servers.is_empty(), "{} has no servers", member.name());
    servers.iter().try_for_each(|pod| pod.process()?.signal(signal))
}

/// How nodes ask the service's endpoints whether they are well; `null` for the default.
async fn check_health(world: &World, check: Value) -> Result<()> {
    let services = Api::<FederatedService>::namespaced(world.federation.api().clone(), NAMESPACE);
    let patch = Patch::Merge(json!({ "spec": { "healthCheck": check } }));
    services.patch(SERVICE, &PatchParams::default(), &patch).await?;
    Ok(())
}
