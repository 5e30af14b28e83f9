"""Packages from npm, fetched by name and version and checked against their pinned hash: `python server/npm.py NAME TO`.

uplot draws the page's charts and is shipped with it, licence included (`make vendor` puts it there); axe-core checks
the page in a test and is not. `--check` compares what lies in the repository with what is pinned, without a network.
"""

import argparse
import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A version, what npm calls the integrity of its archive, and the files that are wanted: path to SHA-256."""

    version: str
    integrity: str
    files: dict[str, str]


PACKAGES = {
    "uplot": Package(
        "1.6.32",
        "sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {
            "dist/uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            "dist/uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
            "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
        },
    ),
    "axe-core": Package(
        "4.14.1",
        "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        {"axe.min.js": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"},
    ),
}
VENDORED = Path(__file__).parent / "regard_server/page/static/uplot"


def fetch(name: str, to: Path) -> None:
    """Download a package and unpack what is wanted of it into a folder."""
    package = PACKAGES[name]
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{name}@{package.version}", "--pack-destination", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - it stands above
        archive = next(Path(folder).iterdir())
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != package.integrity:
            sys.exit(f"{archive.name} is not what was pinned: sha512-{digest}, expected {package.integrity}")
        to.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as files:
            for path in package.files:
                member = files.extractfile(f"package/{path}")
                if member is None:
                    sys.exit(f"{archive.name} has no file {path}")
                (to / Path(path).name).write_bytes(member.read())
    check(name, to)


def check(name: str, folder: Path) -> None:
    """Compare files with the pinned hashes; end the program where one differs."""
    for path, wanted in PACKAGES[name].files.items():
        file = folder / Path(path).name
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
        if found != wanted:
            sys.exit(f"{file}: {found}, expected {wanted}; `make vendor` fetches it anew")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(PACKAGES))
    parser.add_argument("to", type=Path, nargs="?", default=VENDORED)
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    (check if arguments.check else fetch)(arguments.name, arguments.to)


if __name__ == "__main__":
    main()
