#!/usr/bin/env bash
# Makes sure that what a target needs is there: installs it where it may, else names the command that does.
#
#   tools/need.sh build|test|kafka
set -euo pipefail

# program:package of Debian
case ${1:-} in
  build) needed=(cc:build-essential c++:build-essential make:build-essential) useful=() ;;
  test) needed=(cc:build-essential c++:build-essential make:build-essential) useful=(kcat:kcat ip:iproute2) ;;
  kafka) needed=(java:openjdk-17-jre-headless mvn:maven) useful=() ;;
  *) echo "need.sh: build, test or kafka?" >&2; exit 2 ;;
esac

command -v cargo >/dev/null || { echo "Rust is missing: https://rustup.rs says how to install it" >&2; exit 1; }

missing() {
  local one
  for one in "$@"; do PATH=$PATH:/usr/sbin:/sbin command -v "${one%%:*}" >/dev/null || echo "${one#*:}"; done | sort -u
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
