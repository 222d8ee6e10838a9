//! Every verdict, from facts made up for it.

use rustix::thread::CapabilitySet;

use super::{host::Btf, *};
use crate::process::rights::{self, Rights};

/// A host without a defect.
fn good() -> Host {
    Host {
        user: 0,
        capabilities: u64::MAX,
        kernel: "6.18.44-x".into(),
        btf: Some(Btf { sched_exit: true }),
        pid_namespace: Some(INITIAL_PID_NAMESPACE),
        lockdown: Some("none".into()),
        cycles: Ok(()),
        irq_time: Some(true),
        clocksource: Some("tsc".into()),
        kallsyms: true,
        map_files: true,
        descriptors: 1 << 20,
        agent: None,
    }
}

/// The checks that are not fine.
fn complaints(host: &Host) -> Vec<(&'static str, Status)> {
    let complaints = checks(host).into_iter().filter(|check| check.status != Status::Ok);
    complaints.map(|check| (check.id, check.status)).collect()
}

/// A good host with one defect: its complaints must be exactly this one.
fn with(change: impl FnOnce(&mut Host)) -> (&'static str, Status, Option<String>) {
    let mut host = good();
    change(&mut host);
    let complaints = complaints(&host);
    let [(id, status)] = complaints.as_slice() else { panic!("{complaints:?}") };
    (id, *status, refusal(&host))
}

#[test]
fn a_good_host_is_recorded() {
    assert_eq!(complaints(&good()), []);
    assert_eq!(refusal(&good()), None);
}

#[test]
fn each_fatal_defect_refuses_with_cause_and_remedy() {
    let bpf = !(Capability::Bpf.bit() | Capability::SysAdmin.bit());
    let cases = [
        (
            with(|host| host.capabilities = bpf),
            "privileges",
            "user 0 lacks CAP_BPF: run hotspan as root",
        ),
        (
            with(|host| host.kernel = "5.15.0-91-generic".into()),
            "kernel",
            "Linux 5.15.0-91-generic is older than 6.1: upgrade",
        ),
        (with(|host| host.kernel = "6.0.19".into()), "kernel", "Linux 6.0.19 is older than 6.1"),
        (
            with(|host| host.pid_namespace = Some(4_026_532_201)),
            "pid-namespace",
            "not in the initial pid namespace: start the container with",
        ),
        (
            with(|host| host.pid_namespace = None),
            "pid-namespace",
            "not in the initial pid namespace",
        ),
        (
            with(|host| host.lockdown = Some("confidentiality".into())),
            "lockdown",
            "kernel lockdown is in confidentiality mode: boot with",
        ),
    ];
    for ((id, status, refusal), expected, text) in cases {
        assert_eq!((id, status), (expected, Status::Fail));
        let refusal = refusal.unwrap();
        assert!(refusal.starts_with(text) && !refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn without_btf_nothing_is_recorded() {
    let host = Host { btf: None, ..good() };
    assert_eq!(complaints(&host), [("btf", Status::Fail), ("sched-exit", Status::Warn)]);
    assert!(refusal(&host).unwrap().starts_with("no BTF at /sys/kernel/btf/vmlinux: use a kernel"));
}

#[test]
fn an_ordinary_user_is_told_about_root_first() {
    let host = Host { user: 1000, capabilities: 0, kernel: "5.4.0".into(), ..good() };
    assert_eq!(
        refusal(&host).unwrap(),
        "user 1000 lacks CAP_BPF and CAP_PERFMON: run hotspan as root (sudo), or give it these \
         capabilities"
    );
}

#[test]
fn each_lesser_defect_warns_and_records() {
    let without = |capability: Capability| !capability.bit();
    let cases = [
        (with(|host| host.capabilities = without(Capability::SysPtrace)), "processes"),
        (with(|host| host.capabilities = without(Capability::DacReadSearch)), "processes"),
        (with(|host| host.capabilities = without(Capability::SysNice)), "priority"),
        (with(|host| host.btf = Some(Btf { sched_exit: false })), "sched-exit"),
        (with(|host| host.cycles = Err(io::ErrorKind::NotFound.into())), "cycles"),
        (with(|host| host.irq_time = Some(false)), "irq-time"),
        (with(|host| host.irq_time = None), "irq-time"),
        (with(|host| host.clocksource = Some("hpet".into())), "clocksource"),
        (with(|host| host.clocksource = None), "clocksource"),
        (with(|host| host.kallsyms = false), "kallsyms"),
        (with(|host| host.map_files = false), "map-files"),
    ];
    for ((id, status, refusal), expected) in cases {
        assert_eq!((id, status, refusal), (expected, Status::Warn, None));
    }
}

#[test]
fn every_complaint_says_what_it_costs_and_what_helps() {
    let bad = Host {
        user: 1000,
        capabilities: 0,
        kernel: String::new(),
        btf: None,
        pid_namespace: None,
        lockdown: Some("confidentiality".into()),
        cycles: Err(io::ErrorKind::NotFound.into()),
        irq_time: None,
        clocksource: None,
        kallsyms: false,
        map_files: false,
        descriptors: 1024,
        agent: Some((
            1,
            Rights { capabilities: CapabilitySet::all(), no_new_privs: false, is_filtered: false },
        )),
    };
    for check in checks(&bad) {
        assert_ne!(check.status, Status::Ok, "{}", check.id);
        assert!(!check.cost.is_empty() && !check.remedy.is_empty(), "{}", check.id);
    }
}

#[test]
fn json_has_its_keys() {
    let verdict = Verdict { checks: vec![cycles(&good())], ok: true };
    let expected = serde_json::json!({
        "checks": [{
            "id": "cycles",
            "status": "ok",
            "found": "samples by hardware cycles",
            "cost": "",
            "remedy": "",
        }],
        "ok": true,
    });
    assert_eq!(serde_json::to_value(&verdict).unwrap(), expected);
}

#[test]
fn publishers_that_cannot_be_read_are_named() {
    let mut survey = Survey { publishers: 3, ..Survey::default() };
    assert_eq!(publishers(&survey).status, Status::Ok);
    for pid in 0..7 {
        survey.unread.insert(pid, "not sealed".into());
    }
    let check = publishers(&survey);
    assert_eq!(check.status, Status::Warn);
    assert!(check.found.contains("pid 0 (not sealed)"), "{}", check.found);
    assert!(check.found.ends_with("pid 4 (not sealed), 2 more"), "{}", check.found);
}

#[test]
fn few_descriptors_are_worth_a_word() {
    let (id, status, refusal) = with(|host| host.descriptors = 1024);
    assert_eq!((id, status, refusal), ("descriptors", Status::Warn, None));
}

#[test]
fn an_agent_that_kept_too_much_is_named() {
    let kept = Rights { capabilities: rights::KEPT, no_new_privs: true, is_filtered: true };
    let mut host = good();
    host.agent = Some((812, kept));
    assert_eq!(complaints(&host), []);
    let cases = [
        (Rights { capabilities: rights::KEPT | CapabilitySet::SYS_ADMIN, ..kept }, "(0x200000)"),
        (Rights { no_new_privs: false, ..kept }, "no_new_privs"),
        (Rights { is_filtered: false, ..kept }, "no seccomp filter"),
    ];
    for (rights, word) in cases {
        host.agent = Some((812, rights));
        assert_eq!(complaints(&host), [("agent", Status::Warn)]);
        let found = agent(&host).found;
        assert!(found.starts_with("pid 812 ") && found.contains(word), "{found}");
    }
}
