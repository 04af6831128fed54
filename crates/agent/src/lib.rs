//! The host daemon: one actor per VM, inventory, reports.
