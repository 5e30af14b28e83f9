# shellcheck shell=bash
# Debian packages: installed on this machine, or unpacked in a folder. Sourced by engine.sh.

# The release that has compose v2, buildx and a Prometheus as new as the one in docker-compose.yml.
readonly NEWER_SUITE=trixie

mirror() { # the mirror that this machine's apt takes Debian from
  # shellcheck disable=SC2016 # apt's variable, not ours
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sort | head -n 1
}

install_missing() { # COMMAND=PACKAGE…
  local missing=() each
  for each in "$@"; do
    command -v "${each%%=*}" >/dev/null || missing+=("${each#*=}")
  done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]}"
  apt-get update -qq >&2
  # In runlevel 1 no package starts its service.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

unpack_newer() { # FOLDER PACKAGE…: the files of packages of the newer release under FOLDER, nothing installed
  local into=$1 apt package
  shift
  apt=$(mktemp --directory)
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$into"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg target=Packages] $(mirror) $NEWER_SUITE main" >"$apt/sources.list"
  local options=(
    -qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
  )
  apt-get "${options[@]}" update >&2
  (cd "$apt" && apt-get "${options[@]}" download "$@" >&2)
  for package in "$apt"/*.deb; do
    dpkg -x "$package" "$into"
  done
  rm -r "$apt"
}

add_plugins() { # FOLDER: docker compose and docker buildx, seen through DOCKER_CONFIG=FOLDER/config
  local plugins=$1/config/cli-plugins
  if docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1; then
    return
  fi
  say "unpacking docker compose and docker buildx"
  mkdir -p "$plugins"
  unpack_newer "$1/plugins" docker-compose docker-buildx
  ln -sf "$1"/plugins/usr/libexec/docker/cli-plugins/* "$plugins/"
}
