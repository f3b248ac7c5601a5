//! The `controller` role as its users meet it: a real Federation API, real member API servers, the real process.

#[path = "controller/chaos.rs"]
mod chaos;
#[path = "controller/crowd.rs"]
mod crowd;
#[path = "controller/endpoints.rs"]
mod endpoints;
#[path = "controller/ingress.rs"]
mod ingress;
#[path = "controller/leader.rs"]
mod leader;
#[path = "controller/mcs.rs"]
mod mcs;
#[path = "controller/membership.rs"]
mod membership;
#[path = "controller/older.rs"]
mod older;
#[path = "controller/process.rs"]
mod process;
#[path = "controller/registration.rs"]
mod registration;
#[path = "controller/shards.rs"]
mod shards;
#[path = "controller/silence.rs"]
mod silence;
#[path = "controller/vips.rs"]
mod vips;
#[path = "controller/world.rs"]
mod world;
