//! Linux: datastores and volumes, images, seeds, bridges, taps, packet filter, cgroups.
