//! The `dns` role as its users meet it: real resolvers ask the real process, which follows a real Federation API.

#[path = "dns/answers.rs"]
mod answers;
#[path = "dns/clients.rs"]
mod clients;
#[path = "dns/external.rs"]
mod external;
#[path = "dns/node.rs"]
mod node;
#[path = "dns/process.rs"]
mod process;
#[path = "dns/silence.rs"]
mod silence;
#[path = "dns/transfer.rs"]
mod transfer;
#[path = "dns/world.rs"]
mod world;
