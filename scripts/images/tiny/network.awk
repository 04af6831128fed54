# Turns a flattened network-config v2 into shell commands. First file: lines
# "interface mac"; second: the flat list. An interface is matched by its MAC
# address, else by its name; one that nothing describes gets DHCP.

FNR == NR {
  address[$1] = tolower($2)
  next
}

{
  split($0, pair, "\t")
  path = pair[1]
  sub(/^network\./, "", path)
  if (split(path, part, ".") < 3 || part[1] != "ethernets") next
  id = part[2]
  known[id] = 1
  key = substr(path, length("ethernets." id ".") + 1)
  if (key == "match.macaddress") mac[id] = tolower(pair[2])
  else if (key == "set-name") new_name[id] = pair[2]
  else if (key == "dhcp4") dhcp[id] = pair[2] ~ /^(true|yes|on)$/
  else if (key ~ /^addresses\.[0-9]+$/) addresses[id] = addresses[id] " " pair[2]
  else if (key == "gateway4" || key == "gateway6") routes[id] = routes[id] " default=" pair[2]
  else if (key == "mtu") mtu[id] = pair[2]
  else if (key ~ /^routes\.[0-9]+\.to$/) to[id, part[4]] = pair[2]
  else if (key ~ /^routes\.[0-9]+\.via$/) { via[id, part[4]] = pair[2]; hops[id] = part[4] + 1 }
  else if (key ~ /^nameservers\.addresses\.[0-9]+$/) print "echo nameserver " pair[2] " >>/etc/resolv.conf"
}

END {
  for (name in address) {
    id = ""
    for (candidate in known) if (mac[candidate] == address[name]) id = candidate
    if (id == "" && name in known && mac[name] == "") id = name
    configure(name, id)
  }
}

function configure(name, id,    list, total, i, route) {
  if (id != "" && new_name[id] != "" && new_name[id] != name) {
    print "ip link set " name " name " new_name[id]
    name = new_name[id]
  }
  if (id != "" && mtu[id] != "") print "ip link set " name " mtu " mtu[id]
  print "ip link set " name " up"
  if (id == "" || dhcp[id]) {
    print "/lib/tiny/dhcp-client " name " &"
  }
  if (id == "") return
  total = split(addresses[id], list, " ")
  for (i = 1; i <= total; i++) print "ip addr add " list[i] " dev " name
  for (i = 0; i < hops[id]; i++)
    if (via[id, i] != "") routes[id] = routes[id] " " to[id, i] "=" via[id, i]
  total = split(routes[id], list, " ")
  for (i = 1; i <= total; i++) {
    split(list[i], route, "=")
    if (route[1] == "0.0.0.0/0") route[1] = "default"
    print (route[2] ~ /:/ ? "ip -6" : "ip") " route add " route[1] " via " route[2] " dev " name " onlink"
  }
}
