//! Whole answers over UDP, by the packets that asked for them. Knows neither names nor messages: of two packets only the
//! number may differ, and then the answer is the same until another version of what is known comes.
//!
//! Resolvers ask for the same names again and again: what is found here need be neither read, looked up nor written.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
};

use super::responder::Responder;

/// Bytes that are kept of each listener at most: questions and answers of some ten thousand names. Beyond it all begins anew.
const MOST: usize = 4 << 20;

/// A longer question is not kept. A name has 255 bytes at most (RFC 1035, 2.3.4).
const LONGEST: usize = 512;

/// Questions of which it is remembered at most that they were asked. Beyond it that begins anew.
const NEWCOMERS: usize = 1 << 15;

/// The length of a message's number, with which it begins (RFC 1035, 4.1.1).
const NUMBER: usize = 2;

/// Answers as its responder does, from memory where it can.
pub struct PacketCache {
    responder: Arc<Responder>,
    /// Of what all answers here were made from.
    version: Option<u64>,
    /// By the hash of the question. Of two that share one, the later is kept.
    exchanges: HashMap<u64, Exchange>,
    /// What exchanges consist of, one behind the other: to forget all takes one step.
    packets: Vec<u8>,
    /// Hashes of questions that were asked: only what is asked again is kept, so that names at random push nothing out.
    newcomers: HashSet<u64>,
    hasher: RandomState,
}

/// Where a question and its answer are, both without their number.
struct Exchange {
    question: Range<usize>,
    answer: Range<usize>,
}

impl PacketCache {
    pub fn new(responder: Arc<Responder>) -> Self {
        Self {
            responder,
            version: None,
            exchanges: HashMap::new(),
            packets: Vec::new(),
            newcomers: HashSet::with_capacity(NEWCOMERS),
            hasher: RandomState::new(),
        }
    }

    /// The response to a packet; nothing where none is owed.
    pub fn over_udp(&mut self, packet: &[u8], client: SocketAddr) -> Option<Vec<u8>> {
        let (number, question) = packet.split_at_checked(NUMBER)?;
        let known = self.responder.known.load();
        self.follow(known.as_deref().map(|known| known.version));
        let hash = self.hasher.hash_one(question);
        if let Some(answer) = self.find(hash, question) {
            return Some([number, answer].concat());
        }
        let response = self.responder.over_udp(known.as_deref(), packet, client)?;
        if response.may_be_kept && question.len() <= LONGEST && self.was_asked_before(hash) {
            self.keep(hash, question, response.packet.get(NUMBER..)?);
        }
        Some(response.packet)
    }

    /// Forgets what was made from any other version.
    fn follow(&mut self, version: Option<u64>) {
        if version != self.version {
            self.version = version;
            self.forget();
        }
    }

    fn find(&self, hash: u64, question: &[u8]) -> Option<&[u8]> {
        let exchange = self.exchanges.get(&hash)?;
        let is_same = self.packets[exchange.question.clone()] == *question;
        is_same.then(|| &self.packets[exchange.answer.clone()])
    }

    fn was_asked_before(&mut self, hash: u64) -> bool {
        if self.newcomers.len() == NEWCOMERS {
            self.newcomers.clear();
        }
        !self.newcomers.insert(hash)
    }

    fn keep(&mut self, hash: u64, question: &[u8], answer: &[u8]) {
        let entries = (self.exchanges.len() + 1) * size_of::<(u64, Exchange)>();
        if entries + self.packets.len() + question.len() + answer.len() > MOST {
            self.forget();
        }
        let [question, answer] = [question, answer].map(|part| {
            let start = self.packets.len();
            self.packets.extend_from_slice(part);
            start..self.packets.len()
        });
        self.exchanges.insert(hash, Exchange { question, answer });
    }

    fn forget(&mut self) {
        self.exchanges.clear();
        self.packets.clear();
    }
}

#[cfg(test)]
mod tests;
