//! Hosts are emptied and filled again under guests that go on working, as users do it.

use std::time::Duration;

use hostler_e2e::eventually;

use crate::migrate::Mine;

#[test]
fn qemu_a_host_is_emptied_under_guests_that_go_on_and_takes_them_back() {
    let lab = Mine::up("maint", 3);
    for vm in ["web01", "web02"] {
        lab.boot(vm, "host1");
    }
    let create = ["vm", "create", "off01", "--image", "tiny", "--memory", "256MiB"];
    lab.ok(&[&create[..], &["--host", "host1", "--network", "lab"]].concat());
    let talk = lab.talk("web01");
    let boot = lab.exec("web01", "cat /proc/sys/kernel/random/boot_id");
    talk.longest_gap();

    let plan = lab.ok(&["host", "maintenance", "enter", "host1", "--dry-run"]);
    for vm in ["web01", "web02", "off01"] {
        assert!(plan.contains(vm), "{plan}");
    }
    assert_eq!(lab.guests(3), [2, 0, 0], "nothing has moved");
    lab.ok(&["host", "maintenance", "enter", "host1"]);
    talk.goes_on();
    assert!(talk.longest_gap() < Duration::from_secs(5), "it was away only for a moment");
    eventually("the host is empty", Duration::from_secs(10), || lab.guests(3)[0] == 0);
    assert_ne!(lab.host_of("off01"), "host1");
    assert_eq!(lab.exec("web01", "cat /proc/sys/kernel/random/boot_id"), boot);
    let hosts = lab.ok(&["host", "list"]);
    assert!(hosts.contains("maintenance"), "{hosts}");
    // Nothing comes.
    let refused = lab.fails(&["vm", "migrate", "web01", "--host", "host1"]);
    assert!(refused.contains("it is in maintenance"), "{refused}");
    let refused = lab.fails(&["host", "maintenance", "enter", "host1"]);
    assert!(refused.contains("in maintenance already"), "{refused}");

    lab.ok(&["host", "maintenance", "exit", "host1", "--bring-back"]);
    talk.goes_on();
    lab.guests_become(&[2, 0, 0]);
    assert_eq!(lab.host_of("off01"), "host1");
    assert_eq!(lab.exec("web01", "cat /proc/sys/kernel/random/boot_id"), boot);

    // Balancing as it is asked for, and then by itself.
    lab.ok(&["rule", "create", "apart", "anti-affinity", "--vm", "web01", "--vm", "web02"]);
    let told = lab.ok(&["drs", "recommendations"]);
    assert!(told.contains("apart"), "{told}");
    lab.ok(&["drs", "apply"]);
    assert_ne!(lab.host_of("web01"), lab.host_of("web02"));
    let done = lab.ok(&["drs", "history"]);
    assert!(done.contains("1 of 1") && done.contains("1 → 0"), "{done}");
    lab.ok(&["drs", "apply"]);
    lab.ok(&["rule", "delete", "--yes", "apart"]);
    lab.ok(&[
        "rule", "create", "here", "run-on", "--vm", "web01", "--vm", "web02", "--host", "host3",
    ]);
    lab.ok(&["cluster", "set", "--drs", "full"]);
    eventually("the balancer brings them there", Duration::from_secs(120), || {
        lab.host_of("web01") == "host3" && lab.host_of("web02") == "host3"
    });
    talk.goes_on();
    lab.guests_become(&[0, 0, 2]);

    // What is in the way is told, and nothing is done.
    let refused = lab.fails(&["host", "maintenance", "enter", "host3"]);
    assert!(refused.contains("vm `web01`") && refused.contains("rule `here`"), "{refused}");
    lab.guests_become(&[0, 0, 2]);
}
