# shellcheck shell=bash disable=SC2154 # work and root come from build-image
# The appliance: kernel and initramfs in which Hostler looks into a guest's
# disks without trusting them (see appliance/init). The result is a directory
# with `vmlinuz`, `initrd`, and the names and versions of the Debian packages
# that they are made of in `packages`. Sourced by build-image, which gives $work and $root.

appliance_modules='virtio_pci virtio_blk virtio_console qemu_fw_cfg'
# The kernel asks for them when something is mounted.
appliance_file_systems='ext4 xfs btrfs vfat nls_cp437 nls_ascii nls_iso8859_1 nls_utf8'

build_appliance() {
  local kernel package applet version from to module path
  local stage=$work/stage initramfs=$work/initramfs
  # shellcheck source=/dev/null
  . "$root/scripts/images/tiny.sh"
  log "fetching packages"
  kernel=$(tiny_kernel_package)
  mkdir -p "$work/debs" "$stage" "$work/appliance"
  download_packages "$work/debs" "$kernel" busybox-static
  for package in "$work"/debs/*.deb; do dpkg-deb -x "$package" "$stage"; done

  mkdir -p "$initramfs"/{bin,sbin,etc,dev,proc,sys,mnt,root,tmp}
  cp "$stage/bin/busybox" "$initramfs/bin/"
  for applet in $("$stage/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$initramfs/bin/$applet"
  done
  ln -s ../bin/busybox "$initramfs/sbin/modprobe"
  install "$root/scripts/images/appliance/init" "$initramfs/init"
  tiny_modules=$appliance_modules tiny_modules_on_demand=$appliance_file_systems
  tiny_kernel_modules
  (cd "$initramfs" && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc -R 0:0 --quiet) |
    zstd -q -19 -T0 >"$work/appliance/initrd"
  cp "$stage"/boot/vmlinuz-* "$work/appliance/vmlinuz"
  for package in "$work"/debs/*.deb; do
    dpkg-deb --show --showformat='${source:Package} ${source:Version}: ${Package} ${Version}\n' "$package"
  done >"$work/appliance/packages"
}
