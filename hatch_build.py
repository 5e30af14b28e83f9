"""Compile most of what a call runs through, while a wheel is built.

    HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip install '.[server,openvino]'

mypyc turns typed Python into C. The modules that pyproject.toml names are compiled as they stand, and their sources go
along, to be read: tracebacks give lines of theirs by number. Without the variable a wheel is pure Python, and an
editable install always is.
"""

import os
import shutil
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface[Any]):
    """Hatch's hook: adds extension modules to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into a folder of this build's own, and have the wheel include what came out."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="regard-mypyc-")
        packages = [Path(self.root, each) for each in self.build_config.packages]
        built = compiled(packages, self.config["modules"], Path(self._folder.name))
        build_data["force_include"].update(built)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatch's
        """Remove that folder."""
        if version != "editable":
            self._folder.cleanup()


def compiled(packages: list[Path], modules: list[str], folder: Path) -> dict[str, str]:
    """Compile modules of packages in a folder; return where each extension module lies and where it goes in a wheel.

    The packages are brought together there, and mypyc is given paths from there on: it writes them into what it makes,
    where the path of a build has no place.

    Raises:
        SystemExit: a module has an error of types, or something that mypyc does not compile.
        setuptools.errors.CompileError: the C compiler failed; is one installed, and Python's headers?
    """
    # Only here: they are installed where the hook is enabled.
    from mypyc.build import mypycify  # noqa: PLC0415
    from setuptools import Distribution  # noqa: PLC0415

    together = folder / "packages"
    for package in packages:
        shutil.copytree(
            package, together / package.name, ignore=shutil.ignore_patterns("__pycache__", "weights")
        )
    with chdir(together):
        extensions = mypycify(
            [
                "--config-file=",
                "--no-site-packages",  # so that the same comes out whatever is installed beside
                f"--cache-dir={folder / 'mypy'}",
                "--explicit-package-bases",
                "--namespace-packages",
                "--follow-imports=silent",
                "--ignore-missing-imports",
                *modules,
            ],
            opt_level="2",
            debug_level="0",
            multi_file=True,
            target_dir=str(folder / "c"),
            group_name="regard",
        )
    command: Any = Distribution({"name": "regard", "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
    command.parallel = os.cpu_count()
    command.ensure_finalized()
    command.run()
    suffix = ".pyd" if sys.platform == "win32" else ".so"
    lib = folder / "lib"
    return {str(path): path.relative_to(lib).as_posix() for path in lib.rglob(f"*{suffix}")}
