# Runs in the appliance: finds the guest's root among the disks, mounts what
# belongs to it, and runs /tmp/guest.sh in it. Every name on the disks is the
# guest's, so none is believed: no device but the disks is there, nothing of
# the guest is executed, and what a link means is decided within its own root.
# Beside the lines of guest.sh it tells
#   changed SERIAL       a disk that was mounted
#   done                 all is on the disks
root=/mnt

clean() {
  printf '%s' "$1" | tr -d '\000-\037\177' | cut -c 1-300
}

refuse() {
  printf 'refused\t%s\n' "$(clean "$1")"
  exit 0
}

# magic DEVICE OFFSET LENGTH
magic() {
  dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null | hexdump -v -e '/1 "%02x"'
}

# busybox has no blkid.
type_of() {
  if [ "$(magic "$1" 1080 2)" = 53ef ]; then
    echo ext4
  elif [ "$(magic "$1" 0 4)" = 58465342 ]; then
    echo xfs
  elif [ "$(magic "$1" 65600 8)" = 5f42485266535f4d ]; then
    echo btrfs
  elif [ "$(magic "$1" 3 4)" = 4e544653 ]; then
    echo ntfs
  elif [ "$(magic "$1" 0 6)" = 4c554b53babe ]; then
    echo LUKS
  elif [ "$(magic "$1" 536 8)" = 4c564d3220303031 ]; then
    echo LVM
  elif [ "$(magic "$1" 4086 10)" = 53574150535041434532 ]; then
    echo swap
  elif [ "$(magic "$1" 510 2)" = 55aa ] && [ "$(magic "$1" 0 1)" = eb ]; then
    echo FAT
  fi
}

disk_of() {
  disk=${1#/dev/}
  echo "${disk%%[0-9]*}"
}

attach() {
  mount -t "$2" -o "nodev,nosuid,noexec$3" "$1" "$4" 2>/dev/null || return 1
  cat "/sys/block/$(disk_of "$1")/serial" >>/tmp/mounted
  echo >>/tmp/mounted
}

is_root() {
  [ -e "$1/etc/os-release" ] || [ -L "$1/etc/os-release" ] || [ -e "$1/usr/lib/os-release" ]
}

mkdir -p $root /tmp
: >/tmp/mounted
found='' roots=''
for node in /sys/class/block/vd*; do
  device=/dev/${node##*/}
  type=$(type_of "$device")
  case $type in
  '') continue ;;
  ext4 | xfs | btrfs)
    for option in '' ,subvol=@ ,subvol=root; do
      [ -z "$option" ] || [ "$type" = btrfs ] || break
      mount -t "$type" -o "nodev,nosuid,noexec$option" "$device" $root 2>/dev/null || continue
      if is_root $root; then
        roots="$roots $device=$type=$option"
        umount $root
        break
      fi
      umount $root
    done
    ;;
  esac
  found="$found${found:+, }${device#/dev/} $type"
done
# shellcheck disable=SC2086 # a list of words
set -- $roots
case $# in
0) refuse "no operating system that can be sealed on the disks; there is ${found:-no file system that is known}" ;;
1) ;;
*) refuse "several operating systems on the disks: $(echo "$roots" | sed 's/=[^ ]*//g')" ;;
esac
device=${1%%=*} rest=${1#*=}
attach "$device" "${rest%%=*}" "${rest#*=}" $root || refuse "${device#/dev/} cannot be mounted"

# Parts of the guest that lie elsewhere must be here too, or it would be sealed by half.
if [ -f $root/etc/fstab ] && [ ! -L $root/etc/fstab ]; then
  grep -v '^[[:space:]]*#' $root/etc/fstab | head -n 100 >/tmp/fstab
  while read -r source place type options _; do
    case $place in
    /etc | /etc/* | /var | /var/* | /usr | /home | /root | /tmp) ;;
    *) continue ;;
    esac
    case $type in tmpfs | overlay | none | bind) continue ;; esac
    source=$(printf '%s' "$source" | tr -d '"')
    case $source in
    LABEL=* | UUID=*) part=$(findfs "$source" 2>/dev/null) ;;
    /dev/vd*) part=$source ;;
    *) part='' ;;
    esac
    [ -n "$part" ] || refuse "its $place lies on $source, which is not found among its disks"
    subvolume=$(printf '%s' "$options" | tr , '\n' | sed -n 's/^\(subvol=[A-Za-z0-9@/_.-]*\)$/,\1/p' | head -n 1)
    # The way there must be the guest's own directories.
    case $(readlink -f "$root$place") in "$root$place") ;; *) refuse "its $place is a link" ;; esac
    attach "$part" "$(type_of "$part")" "$subvolume" "$root$place" ||
      refuse "its $place lies on $source, which cannot be mounted"
  done </tmp/fstab
fi

{ [ -d $root/dev ] && [ ! -L $root/dev ]; } || refuse "its root has no directory /dev"
mount -t tmpfs tmpfs $root/dev || refuse "no room in the appliance"
mkdir $root/dev/bin
cp /bin/busybox /tmp/guest.sh $root/dev/bin/
for applet in $(/bin/busybox --list); do ln -s busybox "$root/dev/bin/$applet" 2>/dev/null; done
mknod $root/dev/null c 1 3
mknod $root/dev/zero c 1 5
PATH=/dev/bin chroot $root /dev/bin/busybox sh /dev/bin/guest.sh
umount $root/dev
mount | awk '{ print $3 }' | grep "^$root/" | sort -r | while read -r place; do umount "$place"; done
umount $root || refuse "the disks cannot be let go of"
sync
sort -u /tmp/mounted | while read -r serial; do
  [ -z "$serial" ] || printf 'changed\t%s\n' "$(clean "$serial")"
done
echo done
