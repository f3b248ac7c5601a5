//! Requests and responses: what the protocol asks of an authoritative server around the answers of
//! [`answers`](super::answers). Knows messages, not sockets.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use hickory_proto::{
    ProtoError,
    op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, Record, RecordType},
    serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder},
};
use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use ipnet::IpNet;
use tracing::{debug, info, warn};

use super::{
    answers::{Answer, Authority, Known},
    transfer,
    zones::Zone,
};

/// Largest answer over UDP, in bytes: fits through every path unfragmented (DNS flag day 2020).
const MAX_UDP_PAYLOAD: u16 = 1232;

/// What every client can take (RFC 1035, 4.2.1).
const MIN_UDP_PAYLOAD: u16 = 512;

/// Answers the requests of one view.
pub struct Responder {
    pub authority: Authority,
    pub known: Arc<ArcSwapOption<Known>>,
    /// Who may copy whole zones.
    pub transfer: Vec<IpNet>,
}

/// The same as a handler of requests over TCP.
pub struct OverTcp(pub Arc<Responder>);

/// A response over UDP.
pub struct Response {
    pub packet: Vec<u8>,
    /// With authority, and the same for every client until another version is known.
    pub may_be_kept: bool,
}

/// The parts of a response that depend on the request.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    soa: Option<Record>,
    additionals: Vec<Record>,
}

impl Responder {
    /// The response to a packet; nothing where none is owed.
    pub fn over_udp(&self, known: Option<&Known>, packet: &[u8], client: SocketAddr) -> Option<Response> {
        let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
        // Two servers that answer each other's answers would never end.
        if header.message_type == MessageType::Response {
            return None;
        }
        match Request::from_bytes(packet.to_vec(), client, Protocol::Udp) {
            Ok(request) => {
                let (reply, depends_on_client) = match question(&request) {
                    Err(code) => (Reply::refusal(code), false),
                    Ok(question) if question.is_transfer() => {
                        (self.only_the_serial(&request, &question, known), true)
                    }
                    Ok(question) => (self.reply(&question, known), false),
                };
                let may_be_kept = reply.authoritative && !depends_on_client;
                match encode(&request, reply) {
                    Ok(packet) => Some(Response { packet, may_be_kept }),
                    Err(error) => {
                        warn!(%client, %error, "an answer could not be encoded");
                        bare(&header.metadata, ResponseCode::ServFail)
                    }
                }
            }
            Err(error) => {
                debug!(%client, %error, "a malformed request");
                bare(&header.metadata, ResponseCode::FormErr)
            }
        }
    }

    /// What is said to a question, unless it is for a transfer.
    fn reply(&self, question: &Question<'_>, known: Option<&Known>) -> Reply {
        let authority = &self.authority;
        let Question { name, lower, wanted } = *question;
        let serial = known.map_or(0, |known| known.serial);
        match authority.answer(known, name, lower, wanted) {
            Answer::Elsewhere => Reply::refusal(ResponseCode::Refused),
            Answer::NotYet => Reply::refusal(ResponseCode::ServFail),
            Answer::NoName(zone) => {
                let soa = Some(Authority::soa(zone, serial));
                Reply { soa, ..Reply::of(ResponseCode::NXDomain) }
            }
            Answer::Found(zone, records) => {
                // With the SOA that says how long an absence may be remembered (RFC 2308).
                let is_there = records
                    .answers
                    .iter()
                    .any(|record| record.record_type() == wanted || wanted == RecordType::ANY);
                let is_absent = !is_there && !records.leads_out;
                let soa = is_absent.then(|| Authority::soa(zone, serial));
                let (answers, additionals) = (records.answers, records.additionals);
                Reply { answers, soa, additionals, ..Reply::of(ResponseCode::NoError) }
            }
        }
    }

    /// What is said over UDP to who asks for a transfer, which takes TCP: who asks for the difference is told the serial
    /// (RFC 1995, 2).
    fn only_the_serial(&self, request: &Request, question: &Question<'_>, known: Option<&Known>) -> Reply {
        match self.transfer_of(request, question, known) {
            Ok((zone, known)) if question.wanted == RecordType::IXFR => {
                let answers = vec![Authority::soa(zone, known.serial)];
                Reply { answers, ..Reply::of(ResponseCode::NoError) }
            }
            Ok(_) => Reply::refusal(ResponseCode::Refused),
            Err(code) => Reply::refusal(code),
        }
    }

    /// The zone whose transfer is asked for, if it may be.
    fn transfer_of<'s, 'k>(
        &'s self,
        request: &Request,
        question: &Question<'_>,
        known: Option<&'k Known>,
    ) -> Result<(&'s Zone, &'k Known), ResponseCode> {
        let client = request.src().ip().to_canonical();
        if !self.transfer.iter().any(|peers| peers.contains(&client)) {
            return Err(ResponseCode::Refused);
        }
        let mut zones = self.authority.zones.iter().filter(|zone| self.authority.serves(zone));
        let zone = zones.find(|zone| zone.apex == *question.lower).ok_or(ResponseCode::NotAuth)?;
        Ok((zone, known.ok_or(ResponseCode::ServFail)?))
    }

    /// Sends a whole zone, in as many messages as it takes.
    async fn send_zone<R: ResponseHandler>(
        &self,
        request: &Request,
        question: &Question<'_>,
        to: &mut R,
    ) -> Option<ResponseInfo> {
        let known = self.known.load_full();
        let messages = match self.transfer_of(request, question, known.as_deref()) {
            Ok((zone, known)) => transfer::messages(&self.authority, known, zone, request),
            Err(code) => return Some(send(request, Reply::refusal(code), to).await),
        };
        let count = messages.iter().map(Vec::len).sum::<usize>();
        info!(client = %request.src(), zone = %question.name, records = count, "a zone is transferred");
        let mut sent = None;
        for answers in messages {
            sent = Some(send(request, Reply { answers, ..Reply::of(ResponseCode::NoError) }, to).await);
        }
        sent
    }
}

#[async_trait]
impl RequestHandler for OverTcp {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let question = match question(request) {
            Ok(question) => question,
            Err(code) => return send(request, Reply::refusal(code), &mut response_handle).await,
        };
        if question.is_transfer()
            && let Some(sent) = self.0.send_zone(request, &question, &mut response_handle).await
        {
            return sent;
        }
        let reply = self.0.reply(&question, self.0.known.load().as_deref());
        send(request, reply, &mut response_handle).await
    }
}

/// What is asked, of class IN.
struct Question<'r> {
    /// As it was written: a client that mixes cases to be safe from forgery compares them.
    name: &'r Name,
    lower: &'r Name,
    wanted: RecordType,
}

fn question(request: &Request) -> Result<Question<'_>, ResponseCode> {
    if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if request.version() > 0 {
        return Err(ResponseCode::BADVERS);
    }
    let info = request.request_info().map_err(|_| ResponseCode::FormErr)?;
    let original = info.query.original();
    // A question that is pressed together stands for more bytes than were sent. Nobody honest does it: there is nothing
    // before the first name that it could refer to.
    let spelled_out = original.name().iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 4;
    if request.queries.as_bytes().len() != spelled_out {
        return Err(ResponseCode::FormErr);
    }
    if info.query.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    Ok(Question { name: original.name(), lower: info.query.name(), wanted: info.query.query_type() })
}

impl Question<'_> {
    fn is_transfer(&self) -> bool {
        matches!(self.wanted, RecordType::AXFR | RecordType::IXFR)
    }
}

/// The answer to an EDNS request, where it is one.
fn edns(request: &Request) -> Option<Edns> {
    let asked = request.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_max_payload(asked.max_payload().clamp(MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD)).set_version(0);
    edns.flags_mut().dnssec_ok = asked.flags().dnssec_ok;
    Some(edns)
}

fn metadata(request: &Request, reply: &Reply) -> Metadata {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = reply.code;
    metadata.authoritative = reply.authoritative;
    metadata
}

async fn send<R: ResponseHandler>(request: &Request, reply: Reply, to: &mut R) -> ResponseInfo {
    let edns = edns(request);
    let mut metadata = metadata(request, &reply);
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &edns {
        builder.edns(edns);
    }
    let response = builder.build(metadata, &reply.answers, [], &reply.soa, &reply.additionals);
    to.send_response(response).await.unwrap_or_else(|error| {
        warn!(client = %request.src(), %error, "an answer could not be sent");
        metadata.response_code = ResponseCode::ServFail;
        Header { metadata, counts: HeaderCounts::default() }.into()
    })
}

/// As much of it as a packet carries: first without what was not asked for, then with as many answers as fit, marked as
/// truncated, which sends who asked to TCP.
fn encode(request: &Request, mut reply: Reply) -> Result<Vec<u8>, ProtoError> {
    let edns = edns(request);
    let limit = edns.as_ref().map_or(MIN_UDP_PAYLOAD, Edns::max_payload);
    let mut metadata = metadata(request, &reply);
    loop {
        let mut bytes = Vec::with_capacity(usize::from(MIN_UDP_PAYLOAD));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(limit);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &reply.answers, [], &reply.soa, &reply.additionals);
        let whole = (reply.answers.len(), reply.additionals.len() + usize::from(edns.is_some()));
        let counts = response.destructive_emit(&mut encoder)?.counts();
        if (usize::from(counts.answers), usize::from(counts.additionals)) == whole {
            return Ok(bytes);
        }
        if reply.additionals.is_empty() {
            metadata.truncation = true;
            reply.soa = None;
            reply.answers.truncate(reply.answers.len() / 2);
        } else {
            reply.additionals.clear();
        }
    }
}

/// A response of twelve bytes.
fn bare(request: &Metadata, code: ResponseCode) -> Option<Response> {
    let mut metadata = Metadata::response_from_request(request);
    metadata.response_code = code;
    let mut packet = Vec::new();
    let header = Header { metadata, counts: HeaderCounts::default() };
    header.emit(&mut BinEncoder::new(&mut packet)).ok()?;
    Some(Response { packet, may_be_kept: false })
}

impl Reply {
    /// With authority, and nothing in it yet.
    fn of(code: ResponseCode) -> Self {
        Self { code, authoritative: true, answers: Vec::new(), soa: None, additionals: Vec::new() }
    }

    fn refusal(code: ResponseCode) -> Self {
        Self { authoritative: false, ..Self::of(code) }
    }
}

#[cfg(test)]
mod tests;
