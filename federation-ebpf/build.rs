//! Arguments for bpf-linker, which links the programs; nothing for other targets.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf") {
        // By default the zeroing of a struct becomes a call that loops over bytes, which takes many times the
        // instructions. Not beside it, though it would help: `--cpu-features=+alu32`. LLVM 22 has it without the jumps
        // that belong to it, and compares a sign-extended half of a register with the whole of a number: an ICMPv6 type
        // of 128 equalled nothing.
        println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    }
}
