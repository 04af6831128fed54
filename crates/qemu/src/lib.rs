//! VM spec to command line, process, accelerator probe; the only crate that knows QEMU arguments.
