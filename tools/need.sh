#!/usr/bin/env bash
# Makes sure that what a target needs is there: installs it where it may, else names the command that does.
#
#   tools/need.sh build|test|kafka
set -euo pipefail

# program:package of Debian; a library is called lib/ and its name in pkg-config
compile=(cc:build-essential c++:build-essential make:build-essential pkg-config:pkg-config lib/openssl:libssl-dev)
case ${1:-} in
  build) needed=("${compile[@]}") useful=() ;;
  test) needed=("${compile[@]}") useful=(kcat:kcat ip:iproute2 openssl:openssl) ;;
  kafka) needed=(java:openjdk-17-jre-headless mvn:maven) useful=() ;;
  *) echo "need.sh: build, test or kafka?" >&2; exit 2 ;;
esac

command -v cargo >/dev/null || { echo "Rust is missing: https://rustup.rs says how to install it" >&2; exit 1; }

missing() {
  local one
  for one in "$@"; do there "${one%%:*}" || echo "${one#*:}"; done | sort -u
}

there() {
  case $1 in
    lib/*) pkg-config --exists "${1#lib/}" 2>/dev/null ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
  esac
}

mapfile -t packages < <(missing "${needed[@]}" "${useful[@]}")
[ ${#packages[@]} -gt 0 ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${packages[*]}" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null || true
  mapfile -t packages < <(missing "${needed[@]}" "${useful[@]}")
  [ ${#packages[@]} -gt 0 ] || exit 0
fi
echo "missing: ${packages[*]}. On Debian: sudo apt-get install -y ${packages[*]}" >&2
[ -z "$(missing "${needed[@]}")" ]
