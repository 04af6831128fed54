//! A template `golden` with one version, which is the VM `golden-v1`.

use hostler_api::template;
use hostler_endpoint::{Call, Routes};
use hostler_types::{Object, Ref, Template, TemplateSpec, TemplateStatus, TemplateVersion, Vm};

use super::{Shared, page};
use crate::world;

pub(super) fn serve(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .serve(|state: Shared, _: Call<template::List>| async move {
            let vm = state.vm(&"golden-v1".parse().map(Ref::Name).unwrap())?;
            Ok(page(vec![golden(&vm)]))
        })
        .serve(|state: Shared, _: Call<template::Show>| async move {
            Ok(golden(&state.vm(&"golden-v1".parse().map(Ref::Name).unwrap())?))
        })
}

fn golden(vm: &Vm) -> Template {
    let version = vm.spec.template.as_ref().unwrap();
    let version = TemplateVersion {
        version: version.version,
        vm: vm.id(),
        description: version.description.clone(),
        made_from: version.name.clone(),
        at: version.at,
        by: version.by.clone(),
        cpus: vm.spec.cpus,
        memory: vm.spec.memory,
        firmware: vm.spec.firmware,
        disks: Vec::new(),
        datastore: vm.status.datastore,
        seal: None,
        used_by: Vec::new(),
    };
    let status = TemplateStatus { last: version.version, versions: vec![version] };
    let (name, at) = ("golden".parse().unwrap(), world::at(0));
    Object::new(name, Default::default(), at, TemplateSpec::default(), status)
}
