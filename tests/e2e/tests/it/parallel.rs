//! Many clients at once.

use std::collections::HashSet;

use hostler_e2e::Instance;

#[test]
fn a_hundred_vms_are_created_at_once() {
    let hostler = Instance::start();
    hostler.import_tiny();
    std::thread::scope(|scope| {
        for worker in 0..10 {
            let hostler = &hostler;
            scope.spawn(move || {
                let names: Vec<_> = (0..10).map(|n| format!("web-{worker}-{n}")).collect();
                let mut running: Vec<_> = names
                    .iter()
                    .map(|name| {
                        let create =
                            ["vm", "create", name, "--image", "tiny", "--memory", "128MiB"];
                        hostler.command(&create).spawn().expect("hostler runs")
                    })
                    .collect();
                for child in &mut running {
                    assert!(child.wait().unwrap().success());
                }
            });
        }
    });
    let list = hostler.json(&["vm", "list"]);
    let items = list["items"].as_array().or(list.as_array()).cloned().unwrap();
    assert_eq!(items.len(), 100);
    let macs: HashSet<_> =
        items.iter().map(|vm| vm["spec"]["nics"][0]["mac"].to_string()).collect();
    assert_eq!(macs.len(), 100, "no MAC address is given twice");
    assert!(items.iter().all(|vm| vm["status"]["power"] == "stopped"));
}

#[test]
fn one_name_is_given_once() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB"];
    let children: Vec<_> =
        (0..10).map(|_| hostler.command(&create).spawn().expect("hostler runs")).collect();
    let won =
        children.into_iter().filter_map(|mut child| child.wait().ok()).filter(|s| s.success());
    assert_eq!(won.count(), 1);
    assert_eq!(hostler.leftovers().files.len(), 1, "the others left no files");
}
