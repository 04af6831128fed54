# shellcheck shell=bash disable=SC2154 # work and root come from build-image
# The tiny test guest: Debian's cloud kernel and an initramfs that is the whole
# system (see tiny/init), on a disk that BIOS boots with syslinux and UEFI with
# systemd-boot. Sourced by build-image, which gives $work and $root.
#
# Disk: MBR; partition 1 FAT (boot), partition 2 ext4 "tiny-data" (see
# tiny/data-disk). No loop device and no mount is needed to make it.

# In the order of sectors of 512 bytes.
boot_start=2048
boot_sectors=49152
data_start=$((boot_start + boot_sectors))
data_sectors=32768

# The kernel's own messages would cost half a second on the serial port, and
# init prints enough. The second line spares a guest under TCG another second
# (self-tests, patching, page tables that guard nothing here), and 64 MiB that
# Linux sets aside for bounce buffers as soon as memory could grow past 4 GiB.
tiny_cmdline='console=tty0 console=ttyS0 loglevel=4 memhp_default_state=online random.trust_cpu=on'
tiny_cmdline+=' cryptomgr.notests rodata=off mitigations=off nokaslr tsc=reliable no_timer_check swiotlb=noforce'

# Modules that init loads, dependencies aside; SCSI only on demand.
tiny_modules='virtio_pci virtio_blk virtio_net virtio_console virtio_rng virtio_balloon virtio_mem
  qemu_fw_cfg evdev button vfat nls_cp437 nls_ascii nls_iso8859_1 nls_utf8 isofs'
tiny_modules_on_demand='virtio_scsi sd_mod sr_mod'

build_tiny() {
  stage=$work/stage initramfs=$work/initramfs disk=$work/disk.raw
  tiny_fetch
  tiny_root
  tiny_kernel_modules
  (cd "$initramfs" && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc -R 0:0 --quiet) |
    zstd -q -19 -T0 >"$work/initrd"
  tiny_disk
  qemu-img convert -q -f raw -O qcow2 "$disk" "$work/image.qcow2"
}

# The package that linux-image-cloud-amd64 stands for now.
tiny_kernel_package() {
  local kernel
  kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
  if [ -z "$kernel" ]; then
    apt update
    kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }')
  fi
  echo "$kernel"
}

# Unpacks the packages, without running anything of theirs.
tiny_fetch() {
  local kernel package
  log "fetching packages"
  kernel=$(tiny_kernel_package)
  mkdir -p "$work/debs" "$stage"
  download_packages "$work/debs" "$kernel" busybox-static qemu-guest-agent dropbear-bin systemd-boot-efi \
    e2fsprogs libc6 libglib2.0-0 libpcre2-8-0 libnuma1 libudev1 liburing2 libcrypt1 libtomcrypt1 libtommath1 \
    zlib1g libgmp10 libext2fs2 libcom-err2 libblkid1 libuuid1
  for package in "$work"/debs/*.deb; do dpkg-deb -x "$package" "$stage"; done
}

tiny_root() {
  local files=$root/scripts/images/tiny applet
  mkdir -p "$initramfs"/{bin,sbin,usr/bin,usr/sbin,lib/tiny,lib64,etc/acpi/PWRF,etc/dropbear,dev,proc,sys,root,run,srv,tmp,home,var/log,mnt}
  ln -s ../run "$initramfs/var/run"
  cp "$stage/bin/busybox" "$initramfs/bin/"
  for applet in $("$stage/bin/busybox" --list); do
    case $applet in busybox | halt | poweroff | reboot) continue ;; esac
    ln -s busybox "$initramfs/bin/$applet"
  done
  ln -s ../bin/hwclock "$initramfs/sbin/hwclock"
  cp "$stage/usr/sbin/qemu-ga" "$stage/usr/sbin/dropbear" "$initramfs/usr/sbin/"
  cp "$stage/sbin/resize2fs" "$initramfs/sbin/"
  tiny_libraries "$stage/usr/sbin/qemu-ga" "$stage/usr/sbin/dropbear" "$stage/sbin/resize2fs"

  install "$files/init" "$initramfs/init"
  install "$files"/{dhcp-client,dhcp-event,data-disk} "$initramfs/lib/tiny/"
  install -m 644 "$files"/{nocloud.sh,yaml.awk,network.awk,runcmd.awk} "$initramfs/lib/tiny/"
  install "$files/hotplug" "$files/shutdown" "$initramfs/sbin/"
  install "$files/chpasswd" "$initramfs/usr/sbin/"
  for applet in halt poweroff reboot; do ln -s shutdown "$initramfs/sbin/$applet"; done
  # The name that busybox acpid looks for when the power button is pressed.
  printf '#!/bin/sh\nexec /sbin/shutdown -h now\n' >"$initramfs/etc/acpi/PWRF/00000080"
  chmod +x "$initramfs/etc/acpi/PWRF/00000080"

  printf 'root:x:0:0:root:/root:/bin/sh\n' >"$initramfs/etc/passwd"
  printf 'root::19000::::::\n' >"$initramfs/etc/shadow"
  printf 'root:x:0:\nusers:x:100:\n' >"$initramfs/etc/group"
  printf '/bin/sh\n' >"$initramfs/etc/shells"
  printf 'Hostler tiny guest\n' >"$initramfs/srv/index.html"
  printf 'ID=hostler-tiny\nNAME="Hostler tiny guest"\nVERSION_ID=1\nPRETTY_NAME="Hostler tiny guest"\n' \
    >"$initramfs/etc/os-release"
  printf '%s\n' 'export PATH=/usr/sbin:/usr/bin:/sbin:/bin' "PS1='\u@\h:\w# '" >"$initramfs/etc/profile"
  printf '%s\n' 'ttyS0::respawn:-/bin/sh' 'tty1::respawn:-/bin/sh' '::ctrlaltdel:/sbin/shutdown -r now' \
    >"$initramfs/etc/inittab"
}

# Copies the shared libraries that the programs load, asking the stage's loader.
tiny_libraries() {
  local program library
  mkdir -p "$initramfs/lib/x86_64-linux-gnu"
  cp -L "$stage/lib64/ld-linux-x86-64.so.2" "$initramfs/lib64/"
  for program in "$@"; do
    "$stage/lib64/ld-linux-x86-64.so.2" --library-path \
      "$stage/lib/x86_64-linux-gnu:$stage/usr/lib/x86_64-linux-gnu" --list "$program"
  done | awk '$2 == "=>" { print $3 }' | sort -u | while read -r library; do
    case $library in
    "$stage"/*) cp -L "$library" "$initramfs/lib/x86_64-linux-gnu/" ;;
    *) die "library $library is not among the packages of the tiny image" ;;
    esac
  done
}

tiny_kernel_modules() {
  local version from to module path
  version=$(basename "$stage"/lib/modules/*)
  from=$stage/lib/modules/$version to=$initramfs/lib/modules/$version
  "$stage/bin/busybox" depmod -b "$stage" "$version"
  mkdir -p "$to"
  # shellcheck disable=SC2086 # two lists of words
  for module in $tiny_modules $tiny_modules_on_demand; do
    awk -F: -v name="/${module//_/[-_]}.ko" '$1 ~ name "$" { print $1, $2 }' "$from/modules.dep"
  done | tr ' ' '\n' | sed '/^$/d' | sort -u | while read -r path; do
    mkdir -p "$to/$(dirname "$path")"
    cp "$from/$path" "$to/$path"
  done
  "$stage/bin/busybox" depmod -b "$initramfs" "$version"
  # shellcheck disable=SC2086
  echo $tiny_modules >"$initramfs/etc/modules"
}

tiny_disk() {
  local boot=$disk@@$((boot_start * 512)) version
  log "writing the disk"
  truncate -s 64M "$disk"
  sfdisk -q "$disk" <<PARTITIONS
label: dos
start=$boot_start, size=$boot_sectors, type=ef, bootable
start=$data_start, size=$data_sectors, type=83
PARTITIONS
  mformat -i "$boot" -T $boot_sectors -h 64 -s 32 -c 8 -H $boot_start -v TINYBOOT ::
  cp "$stage"/boot/vmlinuz-* "$work/vmlinuz"
  cat >"$work/syslinux.cfg" <<SYSLINUX
default tiny
prompt 0
timeout 0
label tiny
  linux /vmlinuz
  initrd /initrd
  append $tiny_cmdline
SYSLINUX
  printf 'timeout 0\ndefault tiny\n' >"$work/loader.conf"
  printf 'title tiny\nlinux /vmlinuz\ninitrd /initrd\noptions %s\n' "$tiny_cmdline" >"$work/tiny.conf"
  mmd -i "$boot" ::EFI ::EFI/BOOT ::loader ::loader/entries
  mcopy -i "$boot" "$work/vmlinuz" "$work/initrd" "$work/syslinux.cfg" ::
  mcopy -i "$boot" "$stage/usr/lib/systemd/boot/efi/systemd-bootx64.efi" ::EFI/BOOT/BOOTX64.EFI
  mcopy -i "$boot" "$work/loader.conf" ::loader/
  mcopy -i "$boot" "$work/tiny.conf" ::loader/entries/
  syslinux --install --offset $((boot_start * 512)) "$disk"
  dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
  mke2fs -q -t ext4 -L tiny-data -m 0 -E offset=$((data_start * 512)),lazy_itable_init=0,nodiscard \
    "$disk" $((data_sectors / 2))k
}
