//! Who owns which field: the paths of an object's fields, their `FieldsV1` notation, and the managers that hold them.
//!
//! The model is that of `structured-merge-diff`: an object is flattened into leaves by the shape of its kind (which
//! lists merge by key, which values are replaced whole), and ownership is sets of such leaves.

mod apply;
mod managers;
mod path;
mod shape;

pub use apply::apply;
pub use managers::{Managers, Operation, Owner};
pub use path::{FieldSet, Leaves, Path};
pub use shape::{Rule, Shape};
