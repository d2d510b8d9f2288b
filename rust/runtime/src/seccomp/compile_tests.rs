//! Profiles, compiled and then run as the kernel would.

use super::*;

/// The kernel's interpreter, for the instructions used here.
fn run(program: &Program, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let code = &program.instructions;
    let (mut pc, mut a) = (0, 0_u32);
    loop {
        let i = code[pc];
        let (code, jt, jf, k) = (i as u16, (i >> 16) as u8, (i >> 24) as u8, (i >> 32) as u32);
        pc += 1;
        let mut jump = |yes: bool| pc += usize::from(if yes { jt } else { jf });
        match code {
            LOAD => {
                a = match k {
                    DATA_NR => nr,
                    DATA_ARCH => arch,
                    k => {
                        let arg = args[((k - DATA_ARGS) / 8) as usize];
                        if k % 8 == 0 {
                            arg as u32
                        } else {
                            (arg >> 32) as u32
                        }
                    }
                }
            }
            AND => a &= k,
            JUMP => pc += k as usize,
            JUMP_EQ => jump(a == k),
            JUMP_GT => jump(a > k),
            JUMP_GE => jump(a >= k),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn profile(text: &str) -> Program {
    compile(&serde_json::from_str(text).unwrap()).unwrap()
}

const EPERM: u32 = RET_ERRNO | 1;

#[test]
fn an_allow_list_over_three_architectures() {
    let p = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO",
                "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
                "syscalls":[{"names":["read","write","socket","openat2","nonesuch"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    let none = [0; 6];
    for (name, column, arch, bit) in [
        ("read", X86_64, AUDIT_X86_64, 0),
        ("openat2", X86_64, AUDIT_X86_64, 0),
        ("write", I386, AUDIT_I386, 0),
        ("read", X32, AUDIT_X86_64, X32_BIT),
    ] {
        let number = syscalls::number(name, column).unwrap() | bit;
        assert_eq!(run(&p, arch, number, none), RET_ALLOW, "{name}");
    }
    assert_eq!(run(&p, AUDIT_X86_64, 165, none), EPERM, "mount");
    assert_eq!(
        run(&p, AUDIT_X86_64, 9999, none),
        RET_ERRNO | 38,
        "unheard of"
    );
    assert_eq!(run(&p, AUDIT_I386, 102, [1, 0, 0, 0, 0, 0]), RET_ALLOW);
    assert_eq!(run(&p, AUDIT_I386, 102, [2, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&p, 0xdead, 0, none), RET_KILL_THREAD);
}

#[test]
fn without_x32_its_numbers_kill() {
    let p = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    assert_eq!(run(&p, AUDIT_X86_64, X32_BIT, [0; 6]), RET_KILL_THREAD);
    assert_eq!(run(&p, AUDIT_X86_64, 5000, [0; 6]), RET_ALLOW);
    assert_eq!(run(&p, AUDIT_I386, 1, [0; 6]), RET_KILL_THREAD);
}

#[test]
fn every_operator_over_64_bits() {
    let big = 5_u64 << 32 | 7;
    let around = [
        0,
        6,
        7,
        8,
        4 << 32 | 9,
        big - 1,
        big,
        big + 1,
        6 << 32,
        u64::MAX,
    ];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(&str, Holds); 6] = [
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("EQ", |a, b| a == b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    for (name, holds) in operators {
        for value in [7, big] {
            let p = profile(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["clone"],
                    "action":"SCMP_ACT_ERRNO","errnoRet":9,
                    "args":[{{"index":2,"value":{value},"op":"SCMP_CMP_{name}"}}]}}]}}"#
            ));
            for arg in around {
                let got = run(&p, AUDIT_X86_64, 56, [0, 0, arg, 0, 0, 0]);
                let wanted = if holds(arg, value) {
                    RET_ERRNO | 9
                } else {
                    RET_ALLOW
                };
                assert_eq!(got, wanted, "{arg:#x} {name} {value:#x}");
            }
        }
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_on_several_all_hold() {
    let p = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]},
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    let ask = |nr, a, b| run(&p, AUDIT_X86_64, nr, [a, b, 0, 0, 0, 0]);
    assert_eq!(ask(135, 0, 0), RET_ALLOW);
    assert_eq!(ask(135, 8, 0), RET_ALLOW);
    assert_eq!(ask(135, 9, 0), EPERM);
    assert_eq!(ask(41, 1, 2), RET_ALLOW);
    assert_eq!(ask(41, 1, 3), EPERM);
    assert_eq!(ask(56, 0x11, 0), RET_ALLOW);
    assert_eq!(ask(56, 0x1000_0000, 0), EPERM);
}

#[test]
fn the_whole_table_in_one_profile_is_taken_by_every_jump() {
    // Every second call, so that nothing merges and subtrees pass the reach of a short jump.
    let names: Vec<_> = (0..330).step_by(2).filter_map(name_of).collect();
    let text = serde_json::json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    let p = profile(&text.to_string());
    for nr in 0..329 {
        let wanted = match nr % 2 == 0 && name_of(nr).is_some() {
            true => RET_ALLOW,
            false => 0x8000_0000,
        };
        assert_eq!(run(&p, AUDIT_X86_64, nr, [0; 6]), wanted, "{nr}");
    }
}

fn name_of(nr: u32) -> Option<&'static str> {
    syscalls::TABLE
        .iter()
        .find(|row| u32::from(row.1) == nr)
        .map(|row| row.0)
}

#[test]
fn what_is_wrong_is_named() {
    let fails = |text: &str| {
        compile(&serde_json::from_str(text).unwrap())
            .unwrap_err()
            .message
    };
    assert!(fails(r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#).contains("SCMP_ACT_MAYBE"));
    let notify = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    assert!(fails(notify).contains("listenerPath"));
    assert!(fails(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#).contains("\"X\""));
}
