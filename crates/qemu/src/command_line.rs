//! From a plan to QEMU's command line.

use std::ffi::OsString;

use crate::{
    argument::Arguments,
    devices,
    devices::ports::Ports,
    machine,
    plan::{LaunchPlan, PlanError},
};

/// The arguments, without the program's name.
///
/// # Errors
/// [`PlanError`] for what no machine can have.
pub fn command_line(plan: &LaunchPlan) -> Result<Vec<OsString>, PlanError> {
    let mut args = Arguments::default();
    machine::process(&mut args, plan);
    machine::machine(&mut args, plan)?;
    machine::firmware(&mut args, plan)?;

    // The order of the devices is part of what a guest sees and what a saved state holds: change
    // it only with the machine type.
    let ports = Ports::for_plan(plan)?;
    ports.add(&mut args);
    devices::disks::add(&mut args, plan, &ports)?;
    devices::cdroms::add(&mut args, plan)?;
    devices::nics::add(&mut args, plan, &ports)?;
    devices::channels::add(&mut args, plan);
    devices::basics::add(&mut args);
    devices::screen::add(&mut args, plan)?;
    machine::memory_device(&mut args, plan);
    machine::start(&mut args, plan);
    Ok(args.into_vec())
}
