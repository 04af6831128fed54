# shellcheck shell=bash disable=SC2154,SC2016 # work and root come from build-image, some dollars belong to others
# The Debian 12 guest: a plain cloud image with systemd, cloud-init, OpenSSH and
# the guest agent. Sourced by build-image, which gives $work and $root.
#
# Disk: GPT; 14 BIOS boot, 15 ESP, 1 root (ext4, last on the disk, so that it
# can grow). Made without loop devices and mounts; see debian_bios for GRUB.

# In sectors of 512 bytes.
debian_bios_start=2048
debian_bios_sectors=2048
debian_esp_start=4096
debian_esp_sectors=16384
debian_root_start=20480
debian_disk_bytes=$((2 << 30))

debian_packages=(linux-image-cloud-amd64 systemd-sysv dbus udev zstd
  cloud-init cloud-guest-utils fdisk e2fsprogs qemu-guest-agent openssh-server
  ifupdown isc-dhcp-client iproute2 iputils-ping netbase ca-certificates
  sudo less nano procps systemd-timesyncd)

build_debian() {
  need_root
  rootfs=$work/rootfs disk=$work/disk.raw
  debian_bootstrap
  debian_configure
  debian_disk
  # Compressed: a third of the size, at no cost that a guest would notice.
  log "writing the image"
  qemu-img convert -q -c -m 2 -f raw -O qcow2 -o compression_type=zstd "$disk" "$work/image.qcow2"
}

debian_bootstrap() {
  local mirror security keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  mirror=$(debian_mirror bookworm)
  [ -n "$mirror" ] || die "apt has no source for Debian 12 (bookworm) main" "build the image on a Debian 12 machine"
  security=$(debian_mirror bookworm-security)
  {
    echo "deb [signed-by=$keyring] $mirror bookworm main"
    [ -z "$(debian_mirror bookworm-updates)" ] || echo "deb [signed-by=$keyring] $mirror bookworm-updates main"
    [ -z "$security" ] || echo "deb [signed-by=$keyring] $security bookworm-security main"
  } >"$work/sources.list"
  log "installing Debian 12 into a directory (about a minute)"
  # The initramfs settings must be there before the kernel makes its initramfs:
  # the few modules that a virtual machine boots with load in half the time.
  mmdebstrap --mode=root --variant=minbase --quiet \
    --include="$(IFS=,; echo "${debian_packages[*]}")" \
    --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
    --essential-hook='echo MODULES=list >"$1/etc/initramfs-tools/conf.d/hostler"' \
    --essential-hook='printf "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\n" >"$1/etc/initramfs-tools/modules"' \
    --essential-hook='chmod -R go+rX "$1/etc/initramfs-tools"' \
    bookworm "$rootfs" - <"$work/sources.list" >"$work/mmdebstrap.log" 2>&1 || {
    tail -n 40 "$work/mmdebstrap.log" >&2
    die "mmdebstrap failed" "see its output above"
  }
}

debian_configure() {
  local unit
  cat >"$rootfs/etc/cloud/cloud.cfg.d/90_hostler.cfg" <<'CLOUD'
# Only the seed disk is looked for: probing clouds would delay the boot.
datasource_list: [NoCloud, None]
apt: {preserve_sources_list: true}
locale: false
manage_etc_hosts: true
ssh_genkeytypes: [ed25519, ecdsa]
CLOUD
  echo 'LABEL=root / ext4 defaults,discard,errors=remount-ro 0 1' >"$rootfs/etc/fstab"
  # Hot-added CPUs stay offline otherwise; memory follows memhp_default_state.
  echo 'SUBSYSTEM=="cpu", ACTION=="add", TEST=="online", ATTR{online}=="0", ATTR{online}="1"' \
    >"$rootfs/etc/udev/rules.d/80-hotplug-cpu.rules"
  for unit in apt-daily.timer apt-daily-upgrade.timer; do
    ln -sf /dev/null "$rootfs/etc/systemd/system/$unit"
  done
  # What must differ between the machines made from the image is made at first
  # boot; what belongs to the building machine goes.
  : >"$rootfs/etc/machine-id"
  rm -f "$rootfs"/etc/ssh/ssh_host_* "$rootfs"/var/lib/dbus/machine-id "$rootfs"/etc/hostname \
    "$rootfs"/etc/resolv.conf "$rootfs"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$rootfs"/var/lib/systemd/random-seed
  mkdir -p "$rootfs/boot/grub"
  # /vmlinuz and /initrd.img are links that Debian's kernel packages maintain.
  cat >"$rootfs/boot/grub/grub.cfg" <<'GRUB'
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
linux /vmlinuz root=LABEL=root ro console=tty0 console=ttyS0,115200 memhp_default_state=online
initrd /initrd.img
boot
GRUB
}

debian_disk() {
  local sectors=$((debian_disk_bytes / 512)) root_sectors
  log "making the disk"
  truncate -s $debian_disk_bytes "$disk"
  # The backup table takes the last 33 sectors; the root ends on a MiB before.
  root_sectors=$(((sectors - 2048) / 2048 * 2048 - debian_root_start))
  sgdisk "$disk" \
    -n 14:$debian_bios_start:+$debian_bios_sectors -t 14:ef02 \
    -n 15:$debian_esp_start:$((debian_esp_start + debian_esp_sectors - 1)) -t 15:ef00 \
    -n 1:$debian_root_start:$((debian_root_start + root_sectors - 1)) -t 1:8304 >/dev/null
  # GRUB 2.06 cannot read two features that newer e2fsprogs would switch on.
  mke2fs -q -t ext4 -L root -d "$rootfs" -O '^metadata_csum_seed,^orphan_file' \
    -E offset=$((debian_root_start * 512)),lazy_itable_init=0,nodiscard "$disk" $((root_sectors / 2))k
  printf 'search --no-floppy --label root --set root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' \
    >"$work/early.cfg"
  debian_uefi
  debian_bios
}

# Modules that both of GRUB's core images carry, so that none is read from disk.
debian_grub_modules='part_gpt ext2 search search_label normal configfile linux serial terminal echo test boot'

debian_uefi() {
  local esp=$disk@@$((debian_esp_start * 512))
  # shellcheck disable=SC2086 # a list of words
  grub-mkimage -O x86_64-efi -p /boot/grub -c "$work/early.cfg" -o "$work/bootx64.efi" \
    $debian_grub_modules efi_gop
  mformat -i "$esp" -T $debian_esp_sectors -h 64 -s 32 -H $debian_esp_start -v EFI ::
  mmd -i "$esp" ::EFI ::EFI/BOOT
  mcopy -i "$esp" "$work/bootx64.efi" ::EFI/BOOT/BOOTX64.EFI
}

# Does what grub-install does on a BIOS machine, on a file: boot.img goes into
# the first sector's code area with the number of the sector where core.img
# begins; core.img's own first sector says where its second one is.
debian_bios() {
  local modules=/usr/lib/grub/i386-pc core=$work/core.img
  # shellcheck disable=SC2086
  grub-mkimage -O i386-pc -p /boot/grub -c "$work/early.cfg" -o "$core" biosdisk $debian_grub_modules
  [ "$(stat -c %s "$core")" -le $((debian_bios_sectors * 512)) ] || die "GRUB's core image is larger than its partition"
  debian_put_u64 "$core" 500 $((debian_bios_start + 1))
  cp "$modules/boot.img" "$work/boot.img"
  debian_put_u64 "$work/boot.img" 92 $debian_bios_start
  # Two NOPs over a jump: boot from the drive that the BIOS names.
  printf '\220\220' | dd of="$work/boot.img" bs=1 seek=102 conv=notrunc status=none
  dd if="$work/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
  dd if="$core" of="$disk" bs=512 seek=$debian_bios_start conv=notrunc status=none
}

# debian_put_u64 FILE OFFSET NUMBER: a little-endian 64-bit number in a file.
debian_put_u64() {
  local number=$3 byte bytes=''
  for _ in 1 2 3 4 5 6 7 8; do
    printf -v byte '\\x%02x' $((number & 255))
    bytes+=$byte
    number=$((number >> 8))
  done
  # shellcheck disable=SC2059 # the format is the bytes
  printf "$bytes" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
