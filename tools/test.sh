#!/usr/bin/env bash
# Everything that CI runs, in the order in which mistakes are found soonest. Ends with one line for each step.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools/need.sh test
if command -v java >/dev/null && command -v mvn >/dev/null; then
  kafka=yes
  export HIGHWATER_REQUIRE_KAFKA=1   # tests on a real broker may not be skipped
else
  kafka=no
fi
export RUSTDOCFLAGS="-D warnings" HIGHWATER=${CARGO_TARGET_DIR:-target}/debug/highwater

log=$(mktemp)
trap 'rm -f "$log"' EXIT
closing=()
step() {
  local start=$SECONDS
  printf '\n== %s\n' "$*"
  "$@" 2>&1 | tee "$log" || { printf '\nfailed: %s\n' "$*" >&2; exit 1; }
  closing+=("ok  $* ($((SECONDS - start)) s)")
}

step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo doc --locked --no-deps
step cargo test --locked --no-fail-fast
# what the runners of `cargo test` said last
mapfile -t results < <(grep -E '^ +(Running|Doc-tests)|^test result:' "$log" | sed 's/ (.*//')
step tools/demo.sh
if [ $kafka = yes ]; then
  step tools/demo.sh --kafka
else
  closing+=("--  no tests on a real Kafka: they need Java 17 and Maven (apt-get install -y openjdk-17-jre-headless maven)")
fi

printf '\n== closing lines\n'
printf '%s\n' "${results[@]}" "${closing[@]}"
