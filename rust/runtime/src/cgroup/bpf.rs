//! Device rules on v2: an eBPF program that answers for each access.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::v1::is_wildcard;
use crate::error::{Context, Error, Result};
use crate::spec::DeviceRule;
use crate::sys;

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

// Registers: the type, the access, major and minor of what is asked; a scratch one.
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQ: u8 = 0x15;
const JUMP_NE: u8 = 0x55;
const EXIT: u8 = 0x95;

fn op(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    u64::from(code)
        | u64::from(target) << 8
        | u64::from(source) << 12
        | u64::from(offset as u16) << 16
        | u64::from(value as u32) << 32
}

/// The last rule that fits answers; if none does, nothing is allowed once a rule has denied all.
fn program(rules: &[DeviceRule]) -> Result<Vec<u64>> {
    let mut code = vec![
        op(LOAD_WORD, TYPE, 1, 0, 0),
        op(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        op(AND, TYPE, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(LOAD_WORD, MAJOR, 1, 4, 0),
        op(LOAD_WORD, MINOR, 1, 8, 0),
    ];
    let answer = |allow: bool| [op(MOVE, 0, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)];
    for rule in rules.iter().rev() {
        if is_wildcard(rule) {
            code.extend(answer(rule.allow));
            return Ok(code);
        }
        code.extend(check(rule)?);
    }
    code.extend(answer(true));
    Ok(code)
}

fn check(rule: &DeviceRule) -> Result<Vec<u64>> {
    let kind = match rule.kind.as_str() {
        "b" => BLOCK,
        "c" => CHARACTER,
        other => {
            return Err(Error::invalid(format!(
                "linux.resources.devices: unknown type {other:?}"
            )));
        }
    };
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            other => {
                return Err(Error::invalid(format!(
                    "linux.resources.devices: unknown access {other:?}"
                )));
            }
        };
    }
    let access = if access == 0 { 7 } else { access };
    // (code, register, value) of jumps past the rule, with the scratch register made in between.
    let mut code = vec![op(JUMP_NE, TYPE, 0, 0, kind)];
    code.push(op(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
    if rule.allow {
        // Everything asked for is in the rule.
        code.push(op(AND, SCRATCH, 0, 0, 7 & !access));
        code.push(op(JUMP_NE, SCRATCH, 0, 0, 0));
    } else {
        code.push(op(AND, SCRATCH, 0, 0, access));
        code.push(op(JUMP_EQ, SCRATCH, 0, 0, 0));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number.filter(|n| *n >= 0) {
            let number = i32::try_from(number)
                .map_err(|_| Error::invalid(format!("linux.resources.devices: {number}")))?;
            code.push(op(JUMP_NE, register, 0, 0, number));
        }
    }
    code.push(op(MOVE, 0, 0, 0, i32::from(rule.allow)));
    code.push(op(EXIT, 0, 0, 0, 0));
    let end = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if matches!(*instruction as u8, JUMP_EQ | JUMP_NE) {
            *instruction |= ((end - at - 1) as u64) << 16;
        }
    }
    Ok(code)
}

/// The programs that are attached to the cgroup itself.
fn attached(cgroup: RawFd) -> sys::Result<Vec<OwnedFd>> {
    const MOST: usize = 64;
    let mut ids = [0_u32; MOST];
    let mut query = [0_u8; 32];
    query[..4].copy_from_slice(&(cgroup as u32).to_ne_bytes());
    query[4..8].copy_from_slice(&ATTACH_CGROUP_DEVICE.to_ne_bytes());
    query[16..24].copy_from_slice(&(ids.as_mut_ptr() as u64).to_ne_bytes());
    query[24..28].copy_from_slice(&(MOST as u32).to_ne_bytes());
    sys::bpf(PROG_QUERY, &mut query)?;
    let count = u32::from_ne_bytes([query[24], query[25], query[26], query[27]]);
    let open = |id: &u32| {
        let mut by_id = [0_u8; 12];
        by_id[..4].copy_from_slice(&id.to_ne_bytes());
        let fd = sys::bpf(PROG_BY_ID, &mut by_id)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    };
    ids.iter().take(count as usize).map(open).collect()
}

fn words(list: &[u32]) -> [u8; 20] {
    let mut attributes = [0; 20];
    for (at, value) in list.iter().enumerate() {
        attributes[at * 4..at * 4 + 4].copy_from_slice(&value.to_ne_bytes());
    }
    attributes
}

/// Loads the program and attaches it to the cgroup, in the place of those that are there; it stays as
/// long as the cgroup does.
pub fn attach(path: &Path, rules: &[DeviceRule]) -> Result<()> {
    let code = program(rules)?;
    let what = || {
        format!(
            "linux.resources.devices: the device program of {}",
            path.display()
        )
    };
    let cgroup = File::open(path).context(what)?;
    let mut load = [0_u8; 72];
    load[..4].copy_from_slice(&PROG_TYPE_CGROUP_DEVICE.to_ne_bytes());
    load[4..8].copy_from_slice(&(code.len() as u32).to_ne_bytes());
    load[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    load[16..24].copy_from_slice(&(c"Apache".as_ptr() as u64).to_ne_bytes());
    let fd = sys::bpf(PROG_LOAD, &mut load).context(what)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let old = attached(cgroup.as_raw_fd()).context(what)?;
    let target = cgroup.as_raw_fd() as u32;
    let mut attach = words(&[
        target,
        program.as_raw_fd() as u32,
        ATTACH_CGROUP_DEVICE,
        ALLOW_MULTI,
    ]);
    sys::bpf(PROG_ATTACH, &mut attach).context(what)?;
    for old in old {
        let mut detach = words(&[target, old.as_raw_fd() as u32, ATTACH_CGROUP_DEVICE]);
        sys::bpf(PROG_DETACH, &mut detach).context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's interpreter, for the instructions used here.
    fn run(code: &[u64], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_i64; 8];
        let mut pc = 0;
        loop {
            let i = code[pc];
            let (target, source) = ((i >> 8 & 0xf) as usize, (i >> 12 & 0xf) as usize);
            let (offset, value) = ((i >> 16) as i16, i64::from((i >> 32) as i32));
            pc += 1;
            match i as u8 {
                LOAD_WORD => registers[target] = context[offset as usize / 4].into(),
                MOVE_REGISTER => registers[target] = registers[source],
                MOVE => registers[target] = value,
                AND => registers[target] &= value,
                SHIFT_RIGHT => registers[target] >>= value,
                JUMP_EQ if registers[target] == value => pc += offset as usize,
                JUMP_NE if registers[target] != value => pc += offset as usize,
                JUMP_EQ | JUMP_NE => {}
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_fits_answers() {
        let rules: Vec<DeviceRule> = serde_json::from_str(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","access":"m"},
                {"allow":true,"type":"c","major":1,"minor":3,"access":"rw"},
                {"allow":true,"type":"b","major":8},
                {"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]"#,
        )
        .unwrap();
        let code = program(&rules).unwrap();
        assert!(run(&code, CHARACTER, 6, 1, 3));
        assert!(run(&code, CHARACTER, 1, 9, 9));
        assert!(!run(&code, CHARACTER, 2, 9, 9));
        assert!(!run(&code, BLOCK, 1, 9, 9));
        assert!(run(&code, BLOCK, 6, 8, 0));
        assert!(run(&code, BLOCK, 2, 8, 1));
        assert!(!run(&code, BLOCK, 6, 8, 1));
    }
}
