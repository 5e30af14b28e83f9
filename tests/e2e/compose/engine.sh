#!/usr/bin/env bash
# A Docker engine to test docker-compose.yml with, on a Debian machine that has none.
#
#   export $(tests/e2e/compose/engine.sh start [FOLDER])   # then docker and docker compose work in this shell
#   tests/e2e/compose/engine.sh stop [FOLDER]              # ends what start began; the folder stays, as a cache
#
# Where an engine answers already, start uses that one and stop does nothing. Otherwise, as root: installs dockerd from
# Debian, runs it with everything that it writes under FOLDER (default: $XDG_CACHE_HOME/regard/engine), and fetches the
# base images, or makes stand-ins for those that no registry offers (stand_ins.sh). Both may be called twice. As ever
# with dockerd, the bridge docker0 and its firewall rules stay when it has ended.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source-path=SCRIPTDIR source=packages.sh
source "$here/packages.sh"
# shellcheck source-path=SCRIPTDIR source=stand_ins.sh
source "$here/stand_ins.sh"

readonly START_TIMEOUT_S=60 STOP_TIMEOUT_S=60
# This machine's address as containers see it; from here they take the wheels that pip has in a folder.
readonly BRIDGE=${REGARD_E2E_BRIDGE:-172.31.254.1}

say() { echo "==> $*" >&2; }

usage() {
  sed -n '4,5s/^# *//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

answers() { docker version >/dev/null 2>&1; }

runs() { # PIDFILE PROGRAM: whether that process is there, and is still ours and not another with its number
  [[ -s $1 ]] && tr '\0' ' ' 2>/dev/null <"/proc/$(<"$1")/cmdline" | grep -q -- "$2"
}

use_engine_in() { # FOLDER: let docker in this shell talk to the engine there
  export DOCKER_HOST="unix://$1/docker.sock" DOCKER_CONFIG="$1/config"
}

apart() { # COMMAND…: run it for longer than this script, without what its caller has open: else a lock among that
  # would be held as long as the command runs
  local fd
  for fd in "/proc/$BASHPID/fd"/*; do
    fd=${fd##*/}
    ((fd <= 2)) || eval "exec $fd>&-"
  done
  exec setsid nohup "$@"
}

start_dockerd() { # FOLDER
  local folder=$1
  if runs "$folder/dockerd.pid" dockerd && answers; then
    return
  fi
  say "starting dockerd in $folder"
  # No log rotation and no limits: it lives as long as a test.
  apart dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" \
    --bip "$BRIDGE/24" --host "$DOCKER_HOST" >"$folder/dockerd.log" 2>&1 </dev/null &
  wait_until "$START_TIMEOUT_S" answers || {
    tail -n 20 "$folder/dockerd.log" >&2
    say "dockerd did not answer within $START_TIMEOUT_S s"
    exit 1
  }
}

wait_until() { # SECONDS COMMAND…: whether the command succeeds within the time
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

start() { # FOLDER
  local folder=$1
  if [[ ${DOCKER_HOST:-} != "unix://$folder/docker.sock" ]] && answers; then
    say "using the engine that answers"
    fetch_base_images "$folder" ""
    return
  fi
  ((EUID == 0)) || {
    say "no Docker engine answers, and only root can start one"
    exit 1
  }
  mkdir -p "$folder"
  install_missing dockerd=docker.io iptables=iptables
  install_missing docker=docker-cli # a package of its own since Debian 13
  use_engine_in "$folder"
  add_plugins "$folder"
  start_dockerd "$folder"
  fetch_base_images "$folder" "$(serve_wheels "$folder" "$BRIDGE")"
  printf '%s\n' "DOCKER_HOST=$DOCKER_HOST" "DOCKER_CONFIG=$DOCKER_CONFIG"
}

end() { # PIDFILE PROGRAM
  runs "$1" "$2" || return 0
  local pid
  pid=$(<"$1")
  kill "$pid"
  wait_until "$STOP_TIMEOUT_S" gone "$pid" || say "$2 (process $pid) is still there"
  rm -f "$1"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

stop() { # FOLDER
  end "$1/wheels.pid" http.server
  end "$1/dockerd.pid" dockerd
}

folder=$(realpath --canonicalize-missing "${2:-${XDG_CACHE_HOME:-$HOME/.cache}/regard/engine}")
case ${1:-} in
  start) start "$folder" ;;
  stop) stop "$folder" ;;
  *) usage ;;
esac
