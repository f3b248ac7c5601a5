//! Listens for questions and sends the answers of [`names`](super::names), over UDP and TCP.

use std::{
    future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use hickory_proto::{
    op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, RData, Record,
        rdata::{A, AAAA, SOA, SRV},
    },
};
use hickory_server::{
    Server,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Mutex,
};
use tracing::{info, warn};

use super::names::{Answer, Names, Zone, Zones, answer};
use crate::{model::Federation, settings::FederationSettings};

/// How long a VIP may be remembered, in seconds. It never changes while its service lives; what bounds this is how
/// long the name of a deleted service may still lead somewhere.
pub const VIP_TTL_SECONDS: u32 = 300;

/// How long it may be remembered that there is nothing, in seconds. `CoreDNS` remembers for no less than this.
pub const NEGATIVE_TTL_SECONDS: u32 = 5;

/// Largest answer over UDP, in bytes: fits through every path unfragmented (DNS flag day 2020).
const MAX_UDP_PAYLOAD: u16 = 1232;

/// A TCP connection on which nothing is asked for this long is closed. `CoreDNS` keeps its own for 10 s.
const TCP_IDLE: Duration = Duration::from_secs(30);

/// Answers on one TCP connection that wait to be sent.
const TCP_ANSWERS: usize = 32;

/// Answers for the federation's names.
pub struct Dns {
    names: Arc<ArcSwapOption<Names>>,
    listens: bool,
    server: Mutex<Server<Authority>>,
}

impl Dns {
    /// Listens at every address of `listen`. Questions are answered by SERVFAIL until the first [`update`](Self::update).
    ///
    /// # Errors
    /// The federation has no name that DNS could carry, or an address cannot be listened at.
    pub async fn bind(listen: &[SocketAddr], settings: &FederationSettings) -> Result<Self> {
        let zones = Zones::new(settings)?;
        let zone_names = zones.apexes().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let names = Arc::new(ArcSwapOption::empty());
        let mut server = Server::new(Authority { zones, names: names.clone() });
        for address in listen {
            let udp = UdpSocket::bind(address).await.with_context(|| cannot_listen("UDP", *address))?;
            // Port 0 takes a free one, and both transports have to have the same.
            let address = udp.local_addr().context("ask for the address that was bound")?;
            let tcp = TcpListener::bind(address).await.with_context(|| cannot_listen("TCP", address))?;
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
            info!(%address, zones = zone_names, "DNS listens");
        }
        Ok(Self { names, listens: !listen.is_empty(), server: Mutex::new(server) })
    }

    /// Answers from this federation from now on.
    pub fn update(&self, federation: &Federation) {
        self.names.store(Some(Arc::new(Names::new(federation))));
    }

    /// Does not return while questions can be answered.
    ///
    /// # Errors
    /// A socket has broken.
    pub async fn serve(&self) -> Result<()> {
        if !self.listens {
            return future::pending().await;
        }
        self.server.lock().await.block_until_done().await.context("DNS has ended")
    }
}

fn cannot_listen(transport: &str, address: SocketAddr) -> String {
    format!(
        "cannot answer DNS at {address} over {transport}: end what holds this address and port, or choose another one"
    )
}

/// Turns requests into questions, and their answers into responses.
struct Authority {
    zones: Zones,
    names: Arc<ArcSwapOption<Names>>,
}

/// The parts of a response that depend on the request.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    soa: Option<Record>,
}

#[async_trait]
impl RequestHandler for Authority {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            // What we say here also bounds what is sent (`MessageResponse::encode`).
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_UDP_PAYLOAD)).set_version(0);
            edns
        });
        let reply = self.reply(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;

        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &reply.answers, [], &reply.soa, []);
        response_handle.send_response(response).await.unwrap_or_else(|error| {
            warn!(client = %request.src(), %error, "an answer could not be sent");
            metadata.response_code = ResponseCode::ServFail;
            Header { metadata, counts: HeaderCounts::default() }.into()
        })
    }
}

impl Authority {
    fn reply(&self, request: &Request) -> Reply {
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            return Reply::refusal(ResponseCode::NotImp);
        }
        if request.version() > 0 {
            return Reply::refusal(ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else { return Reply::refusal(ResponseCode::FormErr) };
        // As it was written: a client that mixes cases to be safe from forgery compares them.
        let question = info.query.original();
        if question.query_class() != DNSClass::IN {
            return Reply::refusal(ResponseCode::Refused);
        }
        let names = self.names.load();
        match answer(&self.zones, names.as_deref(), question.name(), question.query_type()) {
            Answer::Elsewhere => Reply::refusal(ResponseCode::Refused),
            Answer::NotYet => Reply::refusal(ResponseCode::ServFail),
            Answer::NoName(zone) => Reply::nothing(ResponseCode::NXDomain, zone),
            Answer::NoData(zone) => Reply::nothing(ResponseCode::NoError, zone),
            Answer::Authority(zone) => Reply::answer(vec![soa(zone)]),
            Answer::Ports { ports, target } => {
                // One target: there is nothing to choose from (RFC 2782).
                let srv = |port| RData::SRV(SRV::new(0, 0, port, target.clone()));
                let record = |port| Record::from_rdata(question.name().clone(), VIP_TTL_SECONDS, srv(port));
                Reply::answer(ports.into_iter().map(record).collect())
            }
            Answer::Addresses(addresses) => Reply::answer(
                addresses
                    .into_iter()
                    .map(|address| {
                        Record::from_rdata(question.name().clone(), VIP_TTL_SECONDS, data(address))
                    })
                    .collect(),
            ),
        }
    }
}

impl Reply {
    fn answer(answers: Vec<Record>) -> Self {
        Self { code: ResponseCode::NoError, authoritative: true, answers, soa: None }
    }

    /// With the SOA that says how long this may be remembered (RFC 2308).
    fn nothing(code: ResponseCode, zone: &Zone) -> Self {
        Self { code, authoritative: true, answers: Vec::new(), soa: Some(soa(zone)) }
    }

    fn refusal(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), soa: None }
    }
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// The same on every node and for ever: nobody copies the zone, so nobody compares serials.
fn soa(zone: &Zone) -> Record {
    let soa =
        SOA::new(zone.primary.clone(), zone.mailbox.clone(), 1, 7200, 1800, 86400, NEGATIVE_TTL_SECONDS);
    Record::from_rdata(zone.apex.clone(), NEGATIVE_TTL_SECONDS, RData::SOA(soa))
}
