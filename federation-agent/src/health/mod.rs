//! Which backends answer, found out by asking them.
