# Run in the guest of an instant clone, as root, when its new network cards are plugged in.
# $@: a card's address, its IP address with prefix (or dhcp), its gateway (or -), and so on.
set -u
failed() {
  echo "$*" >&2
  exit 1
}

interface_of() {
  for card in /sys/class/net/*; do
    [ -e "$card/device" ] && [ "$(cat "$card/address")" = "$1" ] && basename "$card" && return
  done
  return 1
}

addressed() {
  ip -o addr show dev "$1" scope global 2>/dev/null | grep -q inet
}

ask_dhcp() {
  # Most guests do this by themselves when they see a card.
  for _ in 1 2 3 4 5 6 7 8; do
    addressed "$1" && return
    sleep 0.25
  done
  if command -v nmcli >/dev/null && nmcli device connect "$1" >/dev/null 2>&1; then
    return
  elif command -v networkctl >/dev/null && systemctl -q is-active systemd-networkd 2>/dev/null; then
    printf '[Match]\nName=%s\n[Network]\nDHCP=yes\n' "$1" >"/run/systemd/network/05-$1.network"
    networkctl reload && networkctl reconfigure "$1"
  elif command -v dhclient >/dev/null; then
    dhclient -1 "$1" >/dev/null 2>&1
  elif command -v dhcpcd >/dev/null; then
    dhcpcd -n "$1" >/dev/null 2>&1
  elif command -v udhcpc >/dev/null && ! pgrep -f "udhcpc.*$1" >/dev/null; then
    udhcpc -n -q -i "$1" >/dev/null 2>&1
  fi
}

while [ $# -ge 3 ]; do
  interface=
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    interface=$(interface_of "$1") && break
    sleep 0.25
  done
  [ -n "$interface" ] || failed "$1: the guest does not see this card"
  ip link set "$interface" up || failed "$interface: cannot be brought up"
  if [ "$2" = dhcp ]; then
    ask_dhcp "$interface"
  else
    ip addr replace "$2" dev "$interface" || failed "$interface: cannot have $2"
    [ "$3" = - ] || ip route replace default via "$3" dev "$interface"
  fi
  shift 3
done
exit 0
