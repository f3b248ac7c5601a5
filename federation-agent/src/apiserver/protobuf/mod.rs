//! Protocol Buffers, as far as kubectl insists on them: it writes the objects of its `create` commands so ([`object`]),
//! and its older versions read the `OpenAPI` document in no other form.

mod object;
mod wire;

pub use object::{MEDIA_TYPE, decode_object};
pub use wire::Writer;
