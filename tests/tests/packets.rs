//! What the loaded programs make of packets: bytes in, bytes out, and what is remembered. Needs root and a kernel, but no
//! network; expected bytes are computed by another library than the programs'.

#[path = "packets/evidence.rs"]
mod evidence;
#[path = "packets/families.rs"]
mod families;
#[path = "packets/frames.rs"]
mod frames;
#[path = "packets/loaded.rs"]
mod loaded;
#[path = "packets/node.rs"]
mod node;
#[path = "packets/state.rs"]
mod state;
#[path = "packets/wire.rs"]
mod wire;

#[path = "packets/adoption.rs"]
mod adoption;
#[path = "packets/backends.rs"]
mod backends;
#[path = "packets/collisions.rs"]
mod collisions;
#[path = "packets/echo.rs"]
mod echo;
#[path = "packets/errors.rs"]
mod errors;
#[path = "packets/flows.rs"]
mod flows;
#[path = "packets/fragments.rs"]
mod fragments;
#[path = "packets/hairpin.rs"]
mod hairpin;
#[path = "packets/health.rs"]
mod health;
#[path = "packets/malformed.rs"]
mod malformed;
#[path = "packets/measured.rs"]
mod measured;
#[path = "packets/properties.rs"]
mod properties;
#[path = "packets/refusals.rs"]
mod refusals;
#[path = "packets/strangers.rs"]
mod strangers;
#[path = "packets/timeouts.rs"]
mod timeouts;
#[path = "packets/translation.rs"]
mod translation;
