# Run in the guest of an instant clone, as root: it becomes a machine of its own.
# $1: its name; $2: its machine id. A second run does no harm.
set -u
name=$1 machine=$2
failed() {
  echo "$*" >&2
  exit 1
}

old=$(hostname)
hostname "$name" || failed "hostname: cannot become $name"
# A file system that cannot be written to loses the name at the next boot; that is no reason to
# fail now.
if [ -w /etc ]; then
  echo "$name" >/etc/hostname
  if [ -f /etc/hosts ] && [ -n "$old" ]; then
    sed "s/\\([[:space:]]\\)$old\\([[:space:].]\\|\$\\)/\\1$name\\2/g" /etc/hosts >/etc/hosts.hostler &&
      cat /etc/hosts.hostler >/etc/hosts
    rm -f /etc/hosts.hostler
  fi
  [ ! -e /etc/machine-id ] || echo "$machine" >/etc/machine-id ||
    failed "/etc/machine-id: cannot be written"
  if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
    echo "$machine" >/var/lib/dbus/machine-id
  fi
fi

# What tells leases and hosts apart must not be the same in two guests.
rm -f /var/lib/dhcp/*.lease* /var/lib/dhcp/duid* /var/lib/systemd/random-seed

if [ -n "$(ls /etc/ssh/ssh_host_*_key 2>/dev/null)" ]; then
  command -v ssh-keygen >/dev/null || failed "ssh-keygen: not found, so the host keys stay the other machine's"
  rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
  ssh-keygen -A >/dev/null || failed "ssh-keygen: no new host keys"
  if command -v systemctl >/dev/null; then
    systemctl try-restart ssh.service sshd.service 2>/dev/null
  fi
fi
rm -f /etc/dropbear/dropbear_*_host_key
exit 0
