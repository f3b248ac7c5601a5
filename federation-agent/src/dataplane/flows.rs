//! What the entries of flows say about connections: how long they are silent, and whom they still need. Pure.

use std::{collections::BTreeSet, time::Duration};

use federation_ebpf::maps::{Flow, Protocol, TICK_NANOSECONDS, elapsed, tick};

/// A moment on the clock of flows' `last_seen`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u32);

impl Moment {
    /// `uptime` is the monotonic clock's.
    pub(super) fn at(uptime: Duration) -> Self {
        // Of five hundred years the first half suffices.
        Self(tick(u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Ticks since a flow's last packet. The clock of ticks wraps, and the kernel may be a tick ahead of this moment.
    fn since<A>(self, flow: &Flow<A>) -> u32 {
        elapsed(flow.last_seen, self.0)
    }

    /// The time since a tick that the programs have written.
    pub(super) fn after(self, tick: u32) -> Duration {
        Duration::from_nanos(u64::from(elapsed(tick, self.0)) * TICK_NANOSECONDS)
    }

    /// The time since a flow's last packet, to about a second.
    pub(super) fn silence<A>(self, flow: &Flow<A>) -> Duration {
        self.after(flow.last_seen)
    }

    /// Whether the flow was silent for longer than connections of its kind are.
    pub(super) fn ends<A>(self, flow: &Flow<A>, protocol: Protocol) -> bool {
        self.since(flow) > flow.state.timeout(protocol)
    }
}

/// Backends with flows that may still see packets.
pub(super) fn backends_in_use<'a, A: 'a>(
    flows: impl IntoIterator<Item = (Protocol, &'a Flow<A>)>,
    now: Moment,
) -> BTreeSet<u32> {
    let live = flows.into_iter().filter(|(protocol, flow)| !now.ends(flow, *protocol));
    live.map(|(_, flow)| flow.backend).collect()
}

#[cfg(test)]
mod tests {
    use federation_ebpf::{
        maps::{Direction, TICKS_PER_SECOND},
        tcp::TcpState,
    };

    use super::*;

    fn flow(backend: u32, state: TcpState, last_seen: u32) -> Flow<[u8; 4]> {
        Flow {
            address: [10, 8, 2, 2],
            backend,
            generation: 1,
            frontend: 0,
            last_seen,
            port: 8080,
            client_port: 40000,
            direction: Direction::Forward,
            state,
            handshake: 0,
        }
    }

    #[test]
    fn silence_survives_the_clocks_wrap_and_a_kernel_that_is_ahead() {
        let flow = flow(1, TcpState::None, u32::MAX - 9);
        for (now, ticks) in [(u32::MAX - 9, 0), (u32::MAX, 9), (10, 20), (u32::MAX - 10, 0)] {
            assert_eq!(Moment(now).since(&flow), ticks, "{now}");
        }
    }

    #[test]
    fn a_backend_is_in_use_while_a_connection_of_its_may_go_on() {
        let now = Moment::at(Duration::from_hours(24));
        let ago = |seconds: u32| now.0 - seconds * TICKS_PER_SECOND;
        let flows = [
            (Protocol::Tcp, flow(1, TcpState::Established, ago(7000))),
            (Protocol::Tcp, flow(2, TcpState::Established, ago(7500))),
            (Protocol::Tcp, flow(3, TcpState::Closing, ago(200))),
            (Protocol::Tcp, flow(4, TcpState::Closing, ago(250))),
            (Protocol::Udp, flow(5, TcpState::None, ago(290))),
            (Protocol::Udp, flow(6, TcpState::None, ago(310))),
            (Protocol::Sctp, flow(7, TcpState::None, ago(310))),
        ];
        let in_use = backends_in_use(flows.iter().map(|(protocol, flow)| (*protocol, flow)), now);
        assert_eq!(in_use, [1, 3, 5, 7].into());
    }
}
