#!/usr/bin/env bash
# Tries the checkpoint store on a server that speaks S3: moto, from PyPI, on loopback. Needs Python 3 with venv.
#
#   tools/s3.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=${CARGO_TARGET_DIR:-target}/s3
[ -x "$home/bin/moto_server" ] || { python3 -m venv "$home" && "$home/bin/pip" install -q 'moto[server]==5.2.5'; }

log=$(mktemp)
server=
clean_up() {
  [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
  rm -f "$log"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# one request at a time: moto looks whether an object is there, then writes it, and S3 does both at once
"$home/bin/python" - >"$log" 2>&1 <<'PYTHON' &
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print("port", server.server_port, flush=True)
server.serve_forever()
PYTHON
server=$!
for _ in $(seq 100); do
  port=$(sed -n 's/^port //p' "$log")
  [ -z "$port" ] || break
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.2
done

export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret
"$home/bin/python" -c "import boto3, os; boto3.client('s3', endpoint_url=os.environ['AWS_ENDPOINT_URL']).create_bucket(Bucket='highwater')"
HIGHWATER_S3=s3://highwater/checkpoints cargo test --test checkpoint a_bucket -- --ignored
