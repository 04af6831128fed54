# Turns the flattened runcmd list into a shell script: an item is either a
# command line or a list of arguments.

BEGIN { FS = "\t" }

function quote(text) {
  gsub(/'/, "'\\''", text)
  return "\"$(printf %b '" text "')\""
}

$1 ~ /^runcmd\.[0-9]+$/ { print "eval " quote($2) }
$1 ~ /^runcmd\.[0-9]+\.[0-9]+$/ { arguments = arguments " " quote($2) }
$1 ~ /^runcmd\.[0-9]+\.end$/ { if (arguments != "") print arguments; arguments = "" }
