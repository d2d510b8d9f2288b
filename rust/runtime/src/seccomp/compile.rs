//! From the profile's rules to instructions.
//!
//! What libseccomp decides, decided the same: a rule with the default verdict says nothing; an
//! unconditional rule wins over conditional ones of its call; conditions on different arguments of a
//! rule all hold, on the same argument any; names unknown to an architecture are passed over; other
//! architectures kill. Calls newer than any the profile names fail with ENOSYS, as runc has it, so
//! that programs fall back.

use std::collections::BTreeMap;

use super::{FLAG_NEW_LISTENER, FLAGS, Program, syscalls};
use crate::error::{Error, Result};
use crate::spec::{Seccomp, Syscall, SyscallArg};

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGS: u32 = 16;

const RET_KILL_THREAD: u32 = 0;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
/// What the kernel takes at most.
const MOST_INSTRUCTIONS: usize = 4096;

/// Columns of the table of numbers.
const X86_64: usize = 0;
const I386: usize = 1;
const X32: usize = 2;

/// Calls that i386 also has as a sub-call of `socketcall`, with its number.
const SOCKET_CALLS: [(&str, u64); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

fn op(code: u16, jt: u8, jf: u8, k: u32) -> u64 {
    u64::from(code) | u64::from(jt) << 16 | u64::from(jf) << 24 | u64::from(k) << 32
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    args: Vec<SyscallArgument>,
    verdict: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct SyscallArgument {
    index: u32,
    op: Operator,
    value: u64,
    second: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    Masked,
}

/// What is known of one call: a verdict for all of its uses, or conditions in order.
#[derive(Clone, Debug, PartialEq)]
enum Rule {
    Always(u32),
    When(Vec<Condition>),
}

type Rules = BTreeMap<u32, Rule>;

/// Compiles a profile for the architecture this program is built for.
pub fn compile(profile: &Seccomp) -> Result<Program> {
    if !cfg!(target_arch = "x86_64") {
        return Err(Error::unimplemented(
            "linux.seccomp on an architecture other than x86_64",
        ));
    }
    let default = verdict(&profile.default_action, profile.default_errno_ret)?;
    if default == RET_NOTIFY {
        return Err(Error::invalid(
            "linux.seccomp.defaultAction cannot be SCMP_ACT_NOTIFY",
        ));
    }
    let mut columns = vec![X86_64];
    for name in &profile.architectures {
        match name.as_str() {
            "SCMP_ARCH_X86_64" => {}
            "SCMP_ARCH_X86" => columns.push(I386),
            "SCMP_ARCH_X32" => columns.push(X32),
            // A process of this machine can never have another architecture.
            other if other.starts_with("SCMP_ARCH_") => {}
            other => {
                return Err(Error::invalid(format!(
                    "linux.seccomp.architectures: unknown {other:?}"
                )));
            }
        }
    }
    let mut program = Program::default();
    for flag in &profile.flags {
        match FLAGS.iter().find(|(name, _)| name == flag) {
            Some((_, bit)) => program.flags |= bit,
            None => {
                return Err(Error::invalid(format!(
                    "linux.seccomp.flags: unknown {flag:?}"
                )));
            }
        }
    }
    // Runtimes pass TSYNC by; the process has one thread.
    program.flags &= !1;
    let notify = profile
        .syscalls
        .iter()
        .any(|s| s.action == "SCMP_ACT_NOTIFY");
    if notify {
        if profile.listener_path.is_empty() {
            return Err(Error::invalid(
                "linux.seccomp.listenerPath is needed for SCMP_ACT_NOTIFY",
            ));
        }
        program.flags |= FLAG_NEW_LISTENER;
    }

    let native = table(
        default,
        &rules(profile, X86_64, default)?,
        match columns.contains(&X32) {
            true => Some(rules(profile, X32, default)?),
            false => None,
        },
    );
    let mut code = vec![op(LOAD, 0, 0, DATA_ARCH)];
    append_block(&mut code, AUDIT_X86_64, &native);
    if columns.contains(&I386) {
        let i386 = table(default, &rules(profile, I386, default)?, None);
        append_block(&mut code, AUDIT_I386, &i386);
    }
    code.push(op(RETURN, 0, 0, RET_KILL_THREAD));
    if code.len() > MOST_INSTRUCTIONS {
        return Err(Error::invalid(format!(
            "linux.seccomp: the filter has {} instructions, the kernel takes {MOST_INSTRUCTIONS}",
            code.len()
        )));
    }
    program.instructions = code;
    Ok(program)
}

fn verdict(action: &str, errno: Option<u32>) -> Result<u32> {
    let data = errno.unwrap_or(libc::EPERM as u32) & 0xffff;
    Ok(match action {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => RET_ERRNO | data,
        "SCMP_ACT_TRACE" => RET_TRACE | data,
        "SCMP_ACT_ALLOW" => RET_ALLOW,
        "SCMP_ACT_LOG" => RET_LOG,
        "SCMP_ACT_NOTIFY" => RET_NOTIFY,
        other => {
            return Err(Error::invalid(format!(
                "linux.seccomp: unknown action {other:?}"
            )));
        }
    })
}

fn rules(profile: &Seccomp, column: usize, default: u32) -> Result<Rules> {
    let mut rules = Rules::new();
    for syscall in &profile.syscalls {
        let verdict = verdict(&syscall.action, syscall.errno_ret)?;
        if syscall.names.is_empty() {
            return Err(Error::invalid(
                "linux.seccomp.syscalls: an entry without names",
            ));
        }
        let conditions = conditions(syscall, verdict)?;
        for name in &syscall.names {
            if verdict == RET_NOTIFY && name == "write" {
                return Err(Error::invalid(
                    "linux.seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall",
                ));
            }
            if let Some(number) = syscalls::number(name, column) {
                let rule = match verdict == default {
                    // Named, which counts for what is newer than the profile.
                    true => Rule::When(Vec::new()),
                    false if conditions.is_empty() => Rule::Always(verdict),
                    false => Rule::When(conditions.clone()),
                };
                add(&mut rules, number, rule);
            }
            if column != I386 || verdict == default || !conditions.is_empty() {
                continue;
            }
            if let Some((_, sub)) = SOCKET_CALLS.iter().find(|(call, _)| call == name)
                && let Some(number) = syscalls::number("socketcall", column)
            {
                let args = vec![SyscallArgument {
                    index: 0,
                    op: Operator::Eq,
                    value: *sub,
                    second: 0,
                }];
                add(
                    &mut rules,
                    number,
                    Rule::When(vec![Condition { args, verdict }]),
                );
            }
        }
    }
    Ok(rules)
}

fn add(rules: &mut Rules, number: u32, rule: Rule) {
    match (rules.get_mut(&number), rule) {
        (None, rule) => {
            rules.insert(number, rule);
        }
        (Some(Rule::Always(_)), _) => {}
        (Some(old), Rule::Always(verdict)) => *old = Rule::Always(verdict),
        (Some(Rule::When(old)), Rule::When(more)) => old.extend(more),
    }
}

fn conditions(syscall: &Syscall, verdict: u32) -> Result<Vec<Condition>> {
    let args = syscall
        .args
        .iter()
        .map(argument)
        .collect::<Result<Vec<_>>>()?;
    let repeated = args
        .iter()
        .enumerate()
        .any(|(i, arg)| args[..i].iter().any(|other| other.index == arg.index));
    Ok(match (args.is_empty(), repeated) {
        (true, _) => Vec::new(),
        (_, false) => vec![Condition { args, verdict }],
        (_, true) => args
            .into_iter()
            .map(|arg| Condition {
                args: vec![arg],
                verdict,
            })
            .collect(),
    })
}

fn argument(arg: &SyscallArg) -> Result<SyscallArgument> {
    if arg.index > 5 {
        return Err(Error::invalid(format!(
            "linux.seccomp: argument index {} (a call has 6)",
            arg.index
        )));
    }
    let op = match arg.op.as_str() {
        "SCMP_CMP_NE" => Operator::Ne,
        "SCMP_CMP_LT" => Operator::Lt,
        "SCMP_CMP_LE" => Operator::Le,
        "SCMP_CMP_EQ" => Operator::Eq,
        "SCMP_CMP_GE" => Operator::Ge,
        "SCMP_CMP_GT" => Operator::Gt,
        "SCMP_CMP_MASKED_EQ" => Operator::Masked,
        other => {
            return Err(Error::invalid(format!(
                "linux.seccomp: unknown operator {other:?}"
            )));
        }
    };
    Ok(SyscallArgument {
        index: arg.index,
        op,
        value: arg.value,
        second: arg.value_two,
    })
}

/// Ranges of call numbers, each from its number up to the next one's.
type Table = Vec<(u32, Rule)>;

fn table(default: u32, native: &Rules, x32: Option<Rules>) -> (Table, u32) {
    let mut table = Table::new();
    fill(&mut table, default, native, 0);
    match x32 {
        Some(rules) => fill(&mut table, default, &rules, X32_BIT),
        None => push(&mut table, X32_BIT, Rule::Always(RET_KILL_THREAD)),
    }
    (table, default)
}

fn fill(table: &mut Table, default: u32, rules: &Rules, bit: u32) {
    let permissive = [RET_ALLOW, RET_LOG].contains(&default);
    let mut next = bit;
    for (number, rule) in rules {
        let number = number | bit;
        if number > next || next == bit {
            push(table, next, Rule::Always(default));
        }
        let rule = match rule {
            Rule::When(list) if list.is_empty() => Rule::Always(default),
            other => other.clone(),
        };
        push(table, number, rule);
        next = number + 1;
    }
    let beyond = match permissive || rules.is_empty() {
        true => default,
        false => RET_ERRNO | libc::ENOSYS as u32,
    };
    push(table, next, Rule::Always(beyond));
}

fn push(table: &mut Table, start: u32, rule: Rule) {
    match table.last_mut() {
        Some(last) if last.0 == start => last.1 = rule,
        Some(last) if last.1 == rule => {}
        _ => table.push((start, rule)),
    }
}

fn append_block(code: &mut Vec<u64>, arch: u32, (table, default): &(Table, u32)) {
    let tree = tree(table, *default);
    code.push(op(JUMP_EQ, 1, 0, arch));
    code.push(op(JUMP, 0, 0, tree.len() as u32 + 1));
    code.push(op(LOAD, 0, 0, DATA_NR));
    code.extend(tree);
}

/// Code that ends in a verdict on every way.
fn tree(table: &[(u32, Rule)], default: u32) -> Vec<u64> {
    if let [(_, rule)] = table {
        return leaf(rule, default);
    }
    let (low, high) = table.split_at(table.len() / 2);
    let (left, right) = (tree(low, default), tree(high, default));
    let mut code = Vec::with_capacity(left.len() + right.len() + 2);
    match u8::try_from(left.len()) {
        Ok(distance) => code.push(op(JUMP_GE, distance, 0, high[0].0)),
        Err(_) => {
            code.push(op(JUMP_GE, 0, 1, high[0].0));
            code.push(op(JUMP, 0, 0, left.len() as u32));
        }
    }
    code.extend(left);
    code.extend(right);
    code
}

fn leaf(rule: &Rule, default: u32) -> Vec<u64> {
    match rule {
        Rule::Always(verdict) => vec![op(RETURN, 0, 0, *verdict)],
        Rule::When(conditions) => {
            let mut code = Vec::new();
            for condition in conditions {
                code.extend(conditional(condition));
            }
            code.push(op(RETURN, 0, 0, default));
            code
        }
    }
}

/// Where a jump of a condition goes: on, over some instructions, or to the end of the condition.
enum To {
    Over(u8),
    Fail,
}

fn conditional(condition: &Condition) -> Vec<u64> {
    use To::{Fail, Over};
    let mut steps: Vec<(u16, To, To, u32)> = Vec::new();
    for arg in &condition.args {
        let at = DATA_ARGS + 8 * arg.index;
        let load = |offset| (LOAD, Over(0), Over(0), offset);
        let (high, low) = ((arg.value >> 32) as u32, arg.value as u32);
        steps.push(load(at + 4));
        match arg.op {
            Operator::Eq => {
                steps.push((JUMP_EQ, Over(0), Fail, high));
                steps.push(load(at));
                steps.push((JUMP_EQ, Over(0), Fail, low));
            }
            Operator::Ne => {
                steps.push((JUMP_EQ, Over(0), Over(2), high));
                steps.push(load(at));
                steps.push((JUMP_EQ, Fail, Over(0), low));
            }
            Operator::Gt | Operator::Ge => {
                let last = if arg.op == Operator::Gt {
                    JUMP_GT
                } else {
                    JUMP_GE
                };
                steps.push((JUMP_GT, Over(3), Over(0), high));
                steps.push((JUMP_EQ, Over(0), Fail, high));
                steps.push(load(at));
                steps.push((last, Over(0), Fail, low));
            }
            Operator::Lt | Operator::Le => {
                let last = if arg.op == Operator::Lt {
                    JUMP_GE
                } else {
                    JUMP_GT
                };
                steps.push((JUMP_GT, Fail, Over(0), high));
                steps.push((JUMP_EQ, Over(0), Over(2), high));
                steps.push(load(at));
                steps.push((last, Fail, Over(0), low));
            }
            Operator::Masked => {
                let wanted = arg.second & arg.value;
                steps.push((AND, Over(0), Over(0), high));
                steps.push((JUMP_EQ, Over(0), Fail, (wanted >> 32) as u32));
                steps.push(load(at));
                steps.push((AND, Over(0), Over(0), low));
                steps.push((JUMP_EQ, Over(0), Fail, wanted as u32));
            }
        }
    }
    // One more for the verdict. Six arguments of six steps stay far below a jump's reach.
    let end = steps.len() + 1;
    let mut code: Vec<u64> = steps
        .into_iter()
        .enumerate()
        .map(|(i, (code, jt, jf, k))| {
            let distance = |to: To| match to {
                Over(n) => n,
                Fail => (end - i - 1) as u8,
            };
            op(code, distance(jt), distance(jf), k)
        })
        .collect();
    code.push(op(RETURN, 0, 0, condition.verdict));
    code
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
