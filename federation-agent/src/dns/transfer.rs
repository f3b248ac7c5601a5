//! A whole zone for who keeps a copy of it (RFC 5936).

use hickory_proto::rr::{RData, Record, RecordType};
use hickory_server::server::Request;

use super::{
    answers::{Authority, Known},
    zones::Zone,
};

/// Records of one message: with the longest names and data that there can be they fill no more than the 64 KiB of one.
const RECORDS_OF_A_MESSAGE: usize = 100;

/// The answers of each message. Who says which serial it has is told no more than that where it is ours (RFC 1995, 4).
pub fn messages(authority: &Authority, known: &Known, zone: &Zone, request: &Request) -> Vec<Vec<Record>> {
    let soa = Authority::soa(zone, known.serial);
    if held(request) == Some(known.serial) {
        return vec![vec![soa]];
    }
    let mut records = vec![soa.clone()];
    records.extend(authority.every_record(known, zone));
    records.push(soa);
    records.chunks(RECORDS_OF_A_MESSAGE).map(<[_]>::to_vec).collect()
}

/// The serial of the copy that who asks has already.
fn held(request: &Request) -> Option<u32> {
    let soa = request.authorities.iter().find(|record| record.record_type() == RecordType::SOA)?;
    if let RData::SOA(soa) = &soa.data { Some(soa.serial) } else { None }
}
