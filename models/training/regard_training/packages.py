"""From a package's name to its files: fetched through the ordinary clients, unpacked, never installed or run.

Debian's come by `apt-get download`. For another release than the installed one apt gets lists and a cache of its own,
which any user may have; what it downloads it checks against that release's signed list as always.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard_training.source import Source

CACHE = Path(".cache/training")
"""Where everything fetched and learnt lies, unless a command is told otherwise."""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCHIVES = {"deb": "*.deb", "wheel": "*.whl", "npm": "*.tgz"}


def unpacked(source: Source, cache: Path) -> Path:
    """Fetch a package and unpack it, unless that was done before; return the folder."""
    folder = cache / "unpacked" / source.folder
    done = folder / ".complete"
    if not done.exists():
        archive = str(fetched(source, cache))
        folder.mkdir(parents=True, exist_ok=True)
        unpack = {
            "deb": ["dpkg", "-x", archive, str(folder)],
            "wheel": [sys.executable, "-m", "zipfile", "-e", archive, str(folder)],
            "npm": ["tar", "--extract", "--gzip", "--file", archive, "--directory", str(folder)],
        }
        subprocess.run(unpack[source.kind], check=True)
        done.touch()
    return folder


def fetched(source: Source, cache: Path) -> Path:
    """Fetch a package's file, unless it is there; return its path."""
    folder = cache / "packages" / source.folder
    folder.mkdir(parents=True, exist_ok=True)
    pattern = ARCHIVES[source.kind]
    if not list(folder.glob(pattern)):
        subprocess.run(_fetch(source, cache), check=True, cwd=folder)
    return next(folder.glob(pattern))


def _fetch(source: Source, cache: Path) -> list[str]:
    if source.kind == "wheel":
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        return [*pip, f"{source.package}=={source.version}"]
    if source.kind == "npm":
        return ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
    options = _lists_of(source.suite, cache) if source.suite else []
    return ["apt-get", "-qq", *options, "download", source.package]


def _lists_of(suite: str, cache: Path) -> list[str]:
    """Return the options that make apt see one release and nothing else, with its lists as they are today."""
    apt = (cache / "apt" / suite).resolve()
    options = {
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "Acquire::Languages": "none",
        # Else root's apt downloads as a user who may not write below a folder of root's.
        "APT::Sandbox::User": "root",
    }
    (apt / "lists/partial").mkdir(parents=True, exist_ok=True)
    (apt / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING} target=Packages] {_mirror()} {suite} main\n")
    given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    update = ["apt-get", "-qq", *given, "update"]
    subprocess.run(update, check=True)
    return given


def _mirror() -> str:
    """Return the mirror that this machine's apt takes Debian from.

    Raises:
        RuntimeError: its apt knows none, for it is no Debian or `apt-get update` never ran.
    """
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    known = subprocess.run(ask, check=True, capture_output=True, text=True)
    if not known.stdout.strip():
        raise RuntimeError("apt knows no mirror of Debian; run apt-get update as root first")
    return min(known.stdout.split())
