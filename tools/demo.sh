#!/usr/bin/env bash
# Counts the words of this repository across two processes, from topic to topic, and compares with coreutils.
#
#   tools/demo.sh            on Highwater's development broker
#   tools/demo.sh --kafka    on a real Apache Kafka (needs Java 17 and Maven)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

highwater=${HIGHWATER:-${CARGO_TARGET_DIR:-target}/debug/highwater}
kafka=${1:-}
export HIGHWATER_LOG=${HIGHWATER_LOG:-info,highwater::connector::kafka=warn}   # not a line for each partition
work=$(mktemp -d)
broker_pid=
clean_up() {
  [ -z "$broker_pid" ] || { kill "$broker_pid" && wait "$broker_pid"; } 2>/dev/null || true
  [ "$kafka" != --kafka ] || tools/kafka/kafka.sh stop --dir "$work/kafka" --purge || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' green='' plain=''; fi
say() { printf '\n%s# %s%s\n' "$dim" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; }
run() { show "highwater run $*" && "$highwater" run "$@"; }
fail() { echo "demo: $*" >&2; exit 1; }

used() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
if used 9092 || used 9093 || used 9094; then port=; else port=9092; fi   # Kafka takes three; without one a free port is taken

if [ "$kafka" = --kafka ]; then
  say "A real Apache Kafka, from its Maven artifacts (the first time fetches about 45 MB)."
  options=(--dir "$work/kafka" --props num.partitions=4 --watch-pid $$)
  [ -z "$port" ] || options+=(--port "$port")
  show "tools/kafka/kafka.sh start --props num.partitions=4"
  broker=$(tools/kafka/kafka.sh start "${options[@]}")
else
  say "A broker for development: Kafka's protocol, no JVM. Topics have 4 partitions."
  show "highwater broker --listen 127.0.0.1:${port:-0} --partitions 4 &"
  "$highwater" broker --listen "127.0.0.1:${port:-0}" --partitions 4 >"$work/address" 2>"$work/broker.log" &
  broker_pid=$!
  while [ ! -s "$work/address" ]; do
    kill -0 "$broker_pid" 2>/dev/null || { cat "$work/broker.log" >&2; fail "the broker did not start"; }
    sleep 0.02
  done
  broker=$(<"$work/address")
fi

pipelines=pipelines/demo
if [ "$broker" != 127.0.0.1:9092 ]; then
  say "Port 9092 (or 9093, 9094) is taken: copies of the pipelines get the broker's address, $broker."
  pipelines=$work
  for file in pipelines/demo/*.sql; do sed "s/127\.0\.0\.1:9092/$broker/" "$file" >"$work/${file##*/}"; done
fi

say "1. This repository's text goes into the topic 'lines'."
run "$pipelines/load.sql"

say "2. Two processes count its words into the topic 'counts'. The pipeline:"
sed '/^--/d; /^SET/d; /^$/d; s/^/    /' "$pipelines/count.sql"
run "$pipelines/count.sql" --processes 2

say "3. Every count that changed is in the topic; the newest one of each word stands. The most frequent words:"
show "highwater run $pipelines/show.sql | sort -t'|' -k2,2nr | head -12"
"$highwater" run "$pipelines/show.sql" >"$work/counts"
sort -t"|" -k2,2nr "$work/counts" | sed -n 1,12p

say "The same with coreutils, to compare every word:"
show "cat … | tr A-Z a-z | grep -oE '[a-z]+' | sort | uniq -c"
(shopt -s globstar && cat src/**/*.rs docs/**/*.md ./*.md) | LC_ALL=C tr A-Z a-z | LC_ALL=C grep -oE '[a-z]+' | LC_ALL=C sort | uniq -c |
  awk '{ print $2, $1 }' >"$work/expected"
grep '|' "$work/counts" | tail -n +2 | tr -d ' ' | tr '|' ' ' | LC_ALL=C sort >"$work/found"
diff "$work/expected" "$work/found" >"$work/difference" || { head "$work/difference" >&2; fail "the counts differ (< coreutils, > Highwater)"; }
printf '%sall %s words have the same count%s\n' "$green" "$(wc -l <"$work/found")" "$plain"
say "Next: pipelines/ has more of them, docs/ says what can be written. 'make bench' measures this machine."
