#!/usr/bin/env bash
# First steps over HTTP with curl: examples/http/curl.sh [http://127.0.0.1:11000]
# It writes slots 42 to 45 of a running diskstore. Any node of a cluster will do.
set -euo pipefail
node="${1:-http://127.0.0.1:11000}"
ask() { curl --fail --silent --show-error "$@"; }
status() { curl --silent --output /dev/null --write-out '%{http_code}\n' "$@"; }

echo "a value is the body, and its version is the ETag"
ask --request PUT --data-binary 'hello' "$node/v1/slots/42"
ask "$node/v1/slots/42" && echo
etag="$(ask --head "$node/v1/slots/42" | tr --delete '\r' | sed --quiet 's/^etag: //Ip')"

echo "a write with a condition takes effect once: 204, then 412"
status --request PUT --header "If-Match: $etag" --data-binary 'hello again' "$node/v1/slots/42"
status --request PUT --header "If-Match: $etag" --data-binary 'too late' "$node/v1/slots/42"
ask "$node/v1/slots/42?level=local" && echo

echo "a batch is one entry of the log"
ask --header 'Content-Type: application/json' "$node/v1/batch" --output /dev/null --data '[
  {"op": "set", "key": "43", "value": "one"},
  {"op": "set", "key": "44", "value": {"base64": "/wA="}},
  {"op": "delete", "key": "45"}]'
ask "$node/v1/slots/43" && echo

echo "konsen's API and the web store's"
ask --data '42=a form' "$node/konsen"
ask "$node/api/kv?key=42" && echo
ask "$node/api/keys?prefix=4" && echo
ask --data '{"45": "a web store"}' "$node/key"
ask "$node/key/45" && echo

echo "a deleted slot is not found: 404"
ask --request DELETE "$node/v1/slots/42"
status "$node/v1/slots/42"
