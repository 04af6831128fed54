# Run in a guest: finds a disk by its serial number ($1), grows its last partition, if it has any, and
# the file system in it. POSIX; the guest may have little more than busybox, and no udev.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
serial=$1
fail() {
  echo "$1" >&2
  exit 1
}
need() {
  command -v "$1" >/dev/null || fail "the guest has no $1, which $2"
}
for block in /sys/block/*; do
  # virtio-blk has a file of its own for it; SCSI disks have page 0x80, whose first 4 bytes are a header.
  found=$(cat "$block/serial" 2>/dev/null || tail -c +5 "$block/device/vpd_pg80" 2>/dev/null)
  [ "$found" = "$serial" ] && device=${block##*/}
done
if [ -z "$device" ]; then
  for link in /dev/disk/by-id/*_"$serial"; do
    [ -e "$link" ] && device=$(basename "$(readlink -f "$link")")
  done
fi
[ -n "$device" ] || fail "no disk with the serial number $serial"
node=/dev/$device last=0
for part in /sys/block/"$device"/"$device"*; do
  [ -e "$part/partition" ] || continue
  start=$(cat "$part/start")
  [ "$start" -ge "$last" ] && { last=$start node=/dev/${part##*/} number=$(cat "$part/partition"); }
done
if [ -n "$number" ]; then
  need growpart "grows partitions (cloud-guest-utils)"
  said=$(growpart "/dev/$device" "$number" 2>&1) || case $said in
    NOCHANGE*) ;;
    *) fail "$said" ;;
  esac
fi
while read -r what target type _; do
  [ "$what" = "$node" ] && mounted=$target kind=$type
done </proc/mounts
[ -n "$kind" ] || kind=$(blkid -o value -s TYPE "$node" 2>/dev/null)
case $kind in
ext2 | ext3 | ext4)
  need resize2fs "grows ext4 (e2fsprogs)"
  resize2fs "$node"
  ;;
xfs)
  [ -n "$mounted" ] || fail "the xfs on $node grows only while it is mounted"
  need xfs_growfs "grows XFS (xfsprogs)"
  xfs_growfs "$mounted"
  ;;
btrfs)
  [ -n "$mounted" ] || fail "the btrfs on $node grows only while it is mounted"
  need btrfs "grows btrfs (btrfs-progs)"
  btrfs filesystem resize max "$mounted"
  ;;
*) fail "no file system on $node that could be grown (${kind:-none found; it is not mounted})" ;;
esac
