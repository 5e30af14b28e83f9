#!/usr/bin/env bash
# Envoy in its container.
#
#   envoy.sh serve [OPTION…]   run Envoy; on SIGTERM, say goodbye to callers, let calls in flight end, and stop
#   envoy.sh ready             status 0 while Envoy has a healthy worker
#
# REGARD_TLS=on serves TLS and asks the workers for it. CONFIG, SETTLED and the two ports are for tests.
set -euo pipefail

CONFIG=${CONFIG:-/etc/envoy/envoy.yaml}
SETTLED=${SETTLED:-/tmp/envoy.yaml}
ADMIN_PORT=${ADMIN_PORT:-9901}
OBSERVE_PORT=${OBSERVE_PORT:-9902}
# How long callers are told to go, and how long the last calls then have.
DRAIN_S=${DRAIN_S:-5}
LAST_CALLS_S=${LAST_CALLS_S:-30}

ask() { # METHOD PORT PATH: the answer, head and all; the image has no curl
  local answer
  exec 3<>"/dev/tcp/127.0.0.1/$2"
  printf '%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$3" >&3
  answer=$(cat <&3)
  exec 3>&-
  printf '%s\n' "$answer"
}

calls() { # how many are in flight
  local line sum=0
  while read -r line; do
    [[ $line =~ downstream_rq_active:\ ([0-9]+) ]] && sum=$((sum + BASH_REMATCH[1]))
  done < <(ask GET "$ADMIN_PORT" '/stats?filter=^http\.(grpc|http)\.downstream_rq_active')
  echo "$sum"
}

drain() {
  trap '' TERM INT
  ask POST "$ADMIN_PORT" '/drain_listeners?graceful&skip_exit' >/dev/null
  sleep "$DRAIN_S"
  local end=$((SECONDS + LAST_CALLS_S))
  while ((SECONDS < end)) && (($(calls) > 0)); do
    sleep 0.2
  done
  ask POST "$ADMIN_PORT" /quitquitquit >/dev/null
}

serve() {
  local marked=nothing
  [[ ${REGARD_TLS:-off} == on ]] && marked='#tls'
  sed "s/^$marked//" "$CONFIG" >"$SETTLED"
  # Its own group, so that Ctrl-C does not end it before it has drained.
  set -m
  envoy --config-path "$SETTLED" --disable-hot-restart --drain-time-s "$DRAIN_S" --drain-strategy immediate \
    --file-flush-interval-msec 1000 "$@" &
  local envoy=$!
  trap drain TERM INT
  # Ended by a signal, `wait` returns before Envoy has ended.
  local status=0
  while kill -0 "$envoy" 2>/dev/null; do
    status=0
    wait "$envoy" || status=$?
  done
  exit "$status"
}

case ${1:-} in
  serve) shift; serve "$@" ;;
  ready) [[ $(ask GET "$OBSERVE_PORT" /readyz) == *" 200 OK"* ]] ;;
  *) sed -n '2,7s/^# *//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
