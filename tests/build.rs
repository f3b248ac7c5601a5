//! Tells the benchmark where the agent's build script has put the programs that it measures.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let yardstick = std::env::var("DEP_FEDERATION_PROGRAMS_YARDSTICK")
        .expect("federation-agent's build script names the yardstick object");
    println!("cargo::rerun-if-changed={yardstick}");
    println!("cargo::rustc-env=FEDERATION_YARDSTICK={yardstick}");
}
