//! XDP programs of a few instructions: loaded without a compiler, and kept by the interface that they are attached to.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};

use super::Namespace;

// `enum bpf_cmd` and `enum bpf_prog_type` of linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const PROG_TYPE_XDP: u32 = 6;

/// `XDP_PASS` of `enum xdp_action`.
const VERDICT_PASS: i32 = 2;

/// `struct bpf_insn`; the instructions themselves are in RFC 9669.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    pub code: u8,
    /// The source in the upper half, the destination in the lower.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// Ends a program whose end is reached, with every packet passed on.
pub const PASS: [Instruction; 2] = verdict(VERDICT_PASS);

/// What `BPF_PROG_LOAD` needs of `union bpf_attr`.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// What `BPF_OBJ_PIN` needs of `union bpf_attr`.
#[repr(C)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

/// Sets the verdict and ends.
pub const fn verdict(action: i32) -> [Instruction; 2] {
    [
        Instruction { code: 0xb7, registers: 0, offset: 0, immediate: action },
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ]
}

/// Attaches `program` natively to an interface, in the place of one that is there. `pins` is a folder in a BPF file
/// system, used for as long as this takes.
pub fn attach(namespace: &Namespace, interface: &str, program: &[Instruction], pins: &Path) -> Result<()> {
    let attached = || {
        let program = load(program)?;
        let pin = pins.join(format!("{}-{interface}", namespace.name()));
        pin_at(&program, &pin).with_context(|| format!("pin it at {}", pin.display()))?;
        let path = pin.to_str().context("the path is not text")?;
        let attached =
            namespace.execute("ip", &["-force", "link", "set", "dev", interface, "xdpdrv", "pinned", path]);
        fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        attached
    };
    attached().with_context(|| format!("attach an XDP program to {interface} of {}", namespace.name()))?;
    Ok(())
}

fn load(program: &[Instruction]) -> Result<OwnedFd> {
    let load = Load {
        kind: PROG_TYPE_XDP,
        count: u32::try_from(program.len())?,
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    let descriptor = i32::try_from(bpf(PROG_LOAD, &load).context("load it")?)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn pin_at(program: &OwnedFd, path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let pin = Pin { path: path.as_ptr() as u64, object: u32::try_from(program.as_raw_fd())?, flags: 0 };
    bpf(OBJ_PIN, &pin)?;
    Ok(())
}

fn bpf<Attributes>(command: libc::c_int, attributes: &Attributes) -> io::Result<i64> {
    // SAFETY: pointer and size are those of attributes that outlive the call, and so does what they point to.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<Attributes>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
