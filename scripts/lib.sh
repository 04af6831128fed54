# shellcheck shell=bash disable=SC2034 # the variables are for those who source it
# What the scripts share: messages, the cache, apt. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${HOSTLER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hostler}

# Rust from rustup may not be in root's PATH; what it installs goes there too.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# Progress goes to stderr: stdout is for results, such as an image's path.
log() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

# die MESSAGE [HINT]
die() {
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || die "$(basename "$0") must run as root" "sudo $0"
}

# Runs apt-get without questions, its output shown only if it fails.
apt() {
  local out
  out=$(mktemp)
  if ! DEBIAN_FRONTEND=noninteractive apt-get -q -y -o APT::Sandbox::User=root \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >"$out" 2>&1; then
    cat "$out" >&2
    rm -f "$out"
    return 1
  fi
  rm -f "$out"
}

# download_packages DIRECTORY PACKAGE...: fetches .deb files with the machine's
# own apt sources (so signatures and mirrors are what the machine trusts).
download_packages() {
  local directory=$1
  shift
  # The package lists may be absent or older than what the mirror still has.
  (cd "$directory" && apt download "$@") 2>/dev/null ||
    { apt update && (cd "$directory" && apt download "$@"); }
}

# debian_mirror RELEASE: the address from which apt on this machine takes the
# release (such as bookworm-security), whichever way its sources are written.
debian_mirror() {
  # shellcheck disable=SC2016 # the dollars are apt's
  apt-get indextargets --format '$(RELEASE)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' |
    awk -F'|' -v release="$1" '$1 == release && $2 == "main" { print $3; exit }'
}
