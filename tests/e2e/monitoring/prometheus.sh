#!/usr/bin/env bash
# Prometheus and promtool for the tests, under FOLDER/usr/bin: this machine's where it has them, or those of Debian,
# unpacked and not installed, in the version that docker-compose.yml runs.
#
#   tests/e2e/monitoring/prometheus.sh FOLDER
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source-path=SCRIPTDIR source=../compose/packages.sh
source "$here/../compose/packages.sh"

say() { echo "==> $*" >&2; }

folder=${1:?usage: prometheus.sh FOLDER}
mkdir -p "$folder/usr/bin"
mapfile -t own < <(command -v prometheus promtool)
if ((${#own[@]} == 2)); then
  ln -sf "${own[@]}" "$folder/usr/bin/"
elif command -v apt-get >/dev/null; then
  say "unpacking prometheus and promtool"
  unpack_newer "$folder" prometheus promtool
else
  say "install Prometheus: the tests need prometheus and promtool, and this machine has no apt-get to fetch them with"
  exit 1
fi
