# shellcheck shell=dash disable=SC1091,SC2154,SC2231 # made at run time
# NoCloud seed reader of the tiny guest, sourced by init: a file system
# labelled cidata with meta-data, user-data and network-config, of which the
# subset below is honoured (docs: cloud-init's NoCloud and network-config v2).
#   meta-data       instance-id, local-hostname, hostname, public-keys
#   user-data       #cloud-config: hostname, fqdn, ssh_authorized_keys, users,
#                   write_files, runcmd; or a #! script; or both as a MIME
#                   message of base64 parts, as Hostler makes it
#   network-config  version 2, ethernets (see network.awk)
# What came of it is told where cloud-init tells it: /run/cloud-init/result.json
# (there when all is done), status.json and instance-data.json, and
# /var/lib/cloud/data/instance-id.
SEED=/run/seed
TAB=$(printf '\t')

# Scanning the 256 targets of a SCSI controller (virtio id 8) takes a second or
# more, so it is waited for only if no other disk has a seed.
scsi_load() {
  grep -qs 0x0008 /sys/bus/virtio/devices/*/device || return 1
  modprobe scsi_mod scan=sync
  modprobe -a sd_mod sr_mod virtio_scsi
}

seed_device() {
  device=$(findfs LABEL=cidata 2>/dev/null) || device=$(findfs LABEL=CIDATA 2>/dev/null)
}

# Copies the seed to $SEED and turns its files into "path<TAB>value" lists.
seed_find() {
  seed_device || { scsi_load && seed_device; } || return 1
  mkdir -p $SEED/mnt
  mount -o ro -t iso9660 "$device" $SEED/mnt 2>/dev/null ||
    mount -o ro,utf8 -t vfat "$device" $SEED/mnt 2>/dev/null || return 1
  for file in meta-data user-data network-config; do
    [ ! -e $SEED/mnt/$file ] || tr -d '\r' <$SEED/mnt/$file >$SEED/$file
  done
  umount $SEED/mnt
  [ ! -e $SEED/user-data ] || seed_split
  for file in $SEED/meta-data $SEED/network-config $SEED/part.*; do
    # A script may be any text, so only what is no script is taken apart.
    case $(head -n 1 "$file" 2>/dev/null) in
    '#!'*) mv "$file" "$file.script" ;;
    *) [ ! -e "$file" ] || awk -f /lib/tiny/yaml.awk "$file" >"$file.flat" ;;
    esac
  done
}

# Makes part.1, part.2, … of user-data.
seed_split() {
  case $(head -n 1 $SEED/user-data) in
  Content-Type:* | MIME-Version:*)
    awk -v to=$SEED/encoded. '
      !boundary && match($0, /boundary="[^"]*"/) { boundary = "--" substr($0, RSTART + 10, RLENGTH - 11) }
      boundary && index($0, boundary) == 1 { part++; header = 1; next }
      part && !header { print >(to part) }
      $0 == "" { header = 0 }' $SEED/user-data
    for file in $SEED/encoded.*; do base64 -d "$file" >"$SEED/part.${file##*.}"; done
    ;;
  *) cp $SEED/user-data $SEED/part.1 ;;
  esac
}

seed_apply() {
  name=tiny datasource=None
  mkdir -p $SEED /run/cloud-init /var/lib/cloud/data
  echo '{"v1": {"stage": "modules-final"}}' >/run/cloud-init/status.json
  if seed_find; then
    datasource="NoCloud [seed=$device]"
    echo "seed on $device: $(cd $SEED && echo *-data *-config)"
    seed_meta_data
    for part in $SEED/part.*.flat; do
      [ ! -e "$part" ] || seed_user_data "$part"
    done
  fi
  hostname "$name"
  echo "$name" >/etc/hostname
  printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n' "$name" >/etc/hosts
  seed_network
}

seed_meta_data() {
  [ -e $SEED/meta-data.flat ] || return 0
  while IFS=$TAB read -r key value; do
    case $key in
    *.end) ;;
    instance-id)
      echo "$value" >/run/instance-id
      echo "$value" >/var/lib/cloud/data/instance-id
      ;;
    hostler-hash)
      printf '{"ds": {"meta_data": {"hostler-hash": "%s"}}}\n' "$value" >/run/cloud-init/instance-data.json
      ;;
    local-hostname | hostname) name=${value%%.*} ;;
    public-keys | public-keys.*) [ -z "$value" ] || seed_key root "$value" ;;
    esac
  done <$SEED/meta-data.flat
}

seed_user_data() {
  while IFS=$TAB read -r key value; do
    case $key in
    hostname | fqdn) name=${value%%.*} ;;
    users.*.name)
      index=${key#users.}
      eval "user_${index%%.*}=\$value"
      seed_user "$value"
      ;;
    esac
  done <"$1"
  while IFS=$TAB read -r key value; do
    case $key in
    write_files.*.end)
      mkdir -p "$(dirname "$path")"
      printf %b "$content" >"$path"
      chmod "${mode:-0644}" "$path"
      path='' content='' mode=''
      ;;
    *.end) ;;
    ssh_authorized_keys.*) seed_key root "$(printf %b "$value")" ;;
    users.*.plain_text_passwd)
      index=${key#users.}
      eval "user=\$user_${index%%.*}"
      printf '%s:%b\n' "$user" "$value" | chpasswd
      ;;
    users.*.ssh_authorized_keys.* | users.*.ssh-authorized-keys.*)
      index=${key#users.}
      eval "user=\$user_${index%%.*}"
      seed_key "$user" "$(printf %b "$value")"
      ;;
    write_files.*.path) path=$value ;;
    write_files.*.content) content=$value ;;
    write_files.*.permissions) mode=$value ;;
    esac
  done <"$1"
}

seed_user() {
  grep -q "^$1:" /etc/passwd && return
  echo "$1:x:$((1000 + $(wc -l </etc/passwd))):100::/home/$1:/bin/sh" >>/etc/passwd
  echo "$1:*:19000::::::" >>/etc/shadow
  mkdir -p "/home/$1"
  chown "$1:100" "/home/$1"
}

seed_key() {
  home=/home/$1
  [ "$1" = root ] && home=/root
  mkdir -p "$home/.ssh"
  echo "$2" >>"$home/.ssh/authorized_keys"
  chmod 700 "$home/.ssh"
  chmod 600 "$home/.ssh/authorized_keys"
  chown -R "$1" "$home/.ssh"
}

# Interfaces without a static address in network-config get DHCP.
seed_network() {
  for interface in /sys/class/net/*; do
    [ -e "$interface/device" ] || continue
    read -r mac <"$interface/address"
    echo "${interface##*/} $mac"
  done >/run/interfaces
  [ -e $SEED/network-config.flat ] || : >$SEED/network-config.flat
  awk -f /lib/tiny/network.awk /run/interfaces $SEED/network-config.flat >/run/network.sh
  . /run/network.sh
}

seed_run_commands() {
  for part in $SEED/part.*.flat; do
    [ ! -e "$part" ] || awk -f /lib/tiny/runcmd.awk "$part"
  done >/run/runcmd.sh
  errors=''
  [ ! -s /run/runcmd.sh ] || sh /run/runcmd.sh || seed_failure runcmd $?
  for script in $SEED/part.*.script; do
    [ -e "$script" ] || continue
    chmod 700 "$script"
    "$script" || seed_failure "${script##*/}" $?
  done
  echo '{"v1": {"stage": null}}' >/run/cloud-init/status.json
  printf '{"v1": {"datasource": "DataSource%s", "errors": [%s]}}\n' "$datasource" "$errors" >/run/cloud-init/result.new
  mv /run/cloud-init/result.new /run/cloud-init/result.json
}

seed_failure() {
  errors="${errors:+$errors, }\"$1 ended with exit code $2\""
}
