# Takes out of a Linux guest what must not be the same in two machines. Runs as
# root with the guest's root as its own: in the running guest, or in the
# appliance on the guest's disks, where the only program is busybox.
# Tells what it did, one line each, fields parted by tabs:
#   os NAME              what it is
#   removed WHAT PATH FILES BYTES
#   refused REASON       and has changed nothing
tab=$(printf '\t')
cd / || exit 1
umask 077

clean() {
  printf '%s' "$1" | tr -d '\000-\037\177' | cut -c 1-300
}

refuse() {
  printf 'refused\t%s\n' "$(clean "$1")"
  exit 0
}

# told WHAT PATH FILES BYTES
told() {
  printf 'removed\t%s\t%s\t%s\t%s\n' "$1" "$(clean "$2")" "$3" "$4"
}

bytes() {
  wc -c <"$1" 2>/dev/null || echo 0
}

# So many bytes are zeroed at most for one line of the report. What is larger lies in whole clusters, which
# trimming does away with.
room=$((64 << 20))
# GNU dd can be told not to follow a link that a user puts in a file's place. In the appliance there is no user.
if dd if=/dev/null of=/dev/null oflag=nofollow 2>/dev/null; then nofollow=oflag=nofollow; else nofollow=''; fi

# wipe FILE...: puts zeros where the content is. A small file lies in a part of a cluster of the disk, and a
# cluster is only given back as a whole. What has a second name stays with that. All is on the disk after
# `sync`; before it nothing may be removed, or the zeros go with it.
wipe() {
  for path in "$@"; do
    { [ -f "$path" ] && [ ! -L "$path" ] && [ -s "$path" ]; } || continue
    facts=$(stat -c '%h %s %b' "$path" 2>/dev/null) || continue
    links=${facts%% *} facts=${facts#* }
    size=${facts% *} there=$((${facts#* } * 512))
    [ "$links" = 1 ] || continue
    # One with holes has less than its size.
    [ "$size" -le "$there" ] || size=$there
    [ "$size" -le "$room" ] || size=$room
    [ "$size" -gt 0 ] || continue
    room=$((room - size))
    # shellcheck disable=SC2086 # nothing, or one word
    head -c "$size" /dev/zero | dd of="$path" bs=65536 conv=notrunc $nofollow 2>/dev/null
  done
}

# remove WHAT FILE...
remove() {
  what=$1
  shift
  whole=$room
  wipe "$@"
  [ "$room" = "$whole" ] || sync
  room=$whole
  for path in "$@"; do
    { [ -f "$path" ] || [ -L "$path" ]; } || continue
    size=$(bytes "$path")
    rm -f -- "$path" && told "$what" "$path" 1 "$size"
  done
}

# empty WHAT FILE...: the file stays.
empty() {
  what=$1
  shift
  for path in "$@"; do
    { [ -f "$path" ] && [ -s "$path" ]; } || continue
    size=$(bytes "$path")
    : >"$path" && told "$what" "$path" 1 "$size"
  done
}

# wipe_below DIRECTORY FIND...: the files that `find` finds in it.
wipe_below() {
  find "$@" -xdev -type f -size +0 2>/dev/null | head -n 2000 | while IFS= read -r file; do wipe "$file"; done
  sync
}

# clear_directory WHAT DIRECTORY...: only the directory itself stays. Nothing that is mounted in it is
# touched.
clear_directory() {
  what=$1
  shift
  for path in "$@"; do
    { [ -d "$path" ] && [ ! -L "$path" ]; } || continue
    files=$(find "$path" -xdev -mindepth 1 ! -type d 2>/dev/null | wc -l)
    [ "$(find "$path" -xdev -mindepth 1 2>/dev/null | wc -l)" -gt 0 ] || continue
    size=$(du -skx "$path" 2>/dev/null | cut -f 1)
    wipe_below "$path"
    find "$path" -xdev -mindepth 1 -depth -delete 2>/dev/null
    told "$what" "$path" "$files" "$((${size:-0} * 1024))"
  done
}

# clear_logs DIRECTORY FIND...: of the files that `find` finds in it. A service may have a log open, and not
# make it anew: only those set aside are removed, the others are emptied. One line tells of all.
clear_logs() {
  path=$1
  wipe_below "$@"
  find "$@" -xdev -type f 2>/dev/null | {
    files=0 size=0
    while IFS= read -r log; do
      had=$(bytes "$log")
      case $log in
      *.gz | *.xz | *.zst | *.bz2 | *.[0-9] | *.old) rm -f -- "$log" || continue ;;
      *) { [ -s "$log" ] && : >"$log"; } || continue ;;
      esac
      files=$((files + 1)) size=$((size + had))
    done
    [ "$files" -eq 0 ] || told 'log' "${path%/}" "$files" "$size"
  }
}

# clear_files WHAT DIRECTORY...: all directories stay; who owns them expects them.
clear_files() {
  what=$1
  shift
  for path in "$@"; do
    { [ -d "$path" ] && [ ! -L "$path" ]; } || continue
    files=$(find "$path" -xdev -type f 2>/dev/null | wc -l)
    [ "$files" -gt 0 ] || continue
    size=$(du -skx "$path" 2>/dev/null | cut -f 1)
    find "$path" -xdev -type f -delete 2>/dev/null
    told "$what" "$path" "$files" "$((${size:-0} * 1024))"
  done
}

release=/etc/os-release
[ -f $release ] || release=/usr/lib/os-release
{ [ -f $release ] && [ -r $release ]; } || refuse "it has no /etc/os-release, so nobody knows what it is"
field() {
  sed -n "s/^$1=//p" $release | tr -d '"'"'" | head -n 1
}
id=$(field ID) name=$(field PRETTY_NAME)
known=''
for one in $id $(field ID_LIKE); do
  case $one in
  debian | ubuntu | fedora | rhel | centos | suse | opensuse | sles | alpine | arch | hostler-tiny) known=yes ;;
  esac
done
[ -n "$known" ] || refuse "it is ${name:-of the kind \`$id\`} (ID=$id), which nobody has taught Hostler to seal"
printf 'os\t%s\n' "$(clean "${name:-$id}")"

remove 'SSH host key' /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /etc/dropbear/dropbear_*_host_key
empty 'machine id' /etc/machine-id
remove 'machine id' /var/lib/dbus/machine-id
remove 'network rule' /etc/udev/rules.d/70-persistent-*.rules /etc/netplan/50-cloud-init.yaml \
  /etc/network/interfaces.d/50-cloud-init /etc/NetworkManager/system-connections/cloud-init-*.nmconnection \
  /etc/systemd/network/10-cloud-init-*.network
remove 'DHCP lease' /var/lib/dhcp/*.leases /var/lib/dhclient/*.lease* /var/lib/dhcpcd/*.lease* \
  /var/lib/dhcpcd/duid /etc/dhcpcd.duid /var/lib/NetworkManager/*.lease /var/lib/NetworkManager/secret_key \
  /var/lib/wicked/lease-*.xml /var/lib/wicked/duid.xml
clear_directory 'cloud-init state' /var/lib/cloud
remove 'random seed' /var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/random-seed \
  /var/lib/seedrng/seed.credit /var/lib/seedrng/seed.no-credit
remove 'secret of the machine' /var/lib/systemd/credential.secret
for home in /root /home/*; do
  [ -d "$home" ] || continue
  remove 'shell history' "$home"/.bash_history "$home"/.ash_history "$home"/.zsh_history "$home"/.sh_history \
    "$home"/.history "$home"/.python_history "$home"/.mysql_history "$home"/.psql_history "$home"/.lesshst \
    "$home"/.viminfo
done
clear_files 'package cache' /var/cache/apt/archives /var/lib/apt/lists /var/cache/dnf /var/cache/yum \
  /var/cache/libdnf5 /var/cache/zypp /var/cache/apk /var/cache/pacman/pkg
remove 'package cache' /var/cache/apt/pkgcache.bin /var/cache/apt/srcpkgcache.bin
# The directories in it are named after machine ids.
clear_directory 'log' /var/log/journal
clear_logs /var/log/ -maxdepth 1
for place in /var/log/*/; do
  [ ! -d "$place" ] || [ -L "${place%/}" ] || clear_logs "${place%/}"
done
clear_directory 'crash dump' /var/crash /var/lib/systemd/coredump
clear_directory 'temporary file' /tmp /var/tmp

# What was removed, and not zeroed, is still in the blocks that nobody uses now.
for place in / /var /home; do fstrim "$place" >/dev/null 2>&1; done
sync
