"""The `regard` command: the client's own subcommands, and those that other packages bring.

    regard extract, regard models    here, in regard_client.commands
    regard serve, …                  entry points of the group "regard.commands", "module:function"

A subcommand is a function that takes its arguments and returns an exit status. It is imported only when it is
called for, so that `regard models` does not wait for torch.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from types import MappingProxyType
from typing import Final, TypeAlias

from regard_client.errors import RegardError, UnavailableError

Command: TypeAlias = Callable[[Sequence[str]], int]

GROUP: Final = "regard.commands"
USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class _Known:
    """What is said of a subcommand without importing it; `extra` is what it needs besides the client."""

    summary: str
    extra: str = ""


_OWN: Final = MappingProxyType(
    {
        "extract": EntryPoint("extract", "regard_client.commands.extract:main", GROUP),
        "models": EntryPoint("models", "regard_client.commands.models:main", GROUP),
    }
)
_KNOWN: Final = MappingProxyType(
    {
        "extract": _Known("get the features of image files"),
        "models": _Known("list what a server serves"),
        "serve": _Known("run a server", "server"),
        "profile": _Known("measure how a model runs best on this machine", "server"),
        "published": _Known("list published checkpoints", "models"),
        "convert": _Known("turn a published checkpoint into one of regard's", "models"),
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit status.

    2 means that the command line makes no sense, 130 that it was interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    commands = _commands()
    name = arguments[0] if arguments else "--help"
    if name in {"-h", "--help"}:
        sys.stdout.write(_help(commands))
        return 0 if arguments else USAGE_ERROR
    if name == "--version":
        sys.stdout.write(f"regard {version('regard')}\n")
        return 0
    if name not in commands:
        return _complain(f"no command {name!r}; there is {', '.join(sorted(commands))}", USAGE_ERROR)
    rest = arguments[1:]
    if name == "models" and "--published" in rest:  # the catalogue is the models', not a server's
        name, rest = "published", [argument for argument in rest if argument != "--published"]
    return _run(commands[name], rest)


def _run(entry: EntryPoint, arguments: Sequence[str]) -> int:
    try:
        with _complete(entry.name):
            command: Command = entry.load()
            return command(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except UnavailableError as error:
        hint = "" if error.reason else ". Is the server running? `regard serve` starts one"
        return _complain(f"{error}{hint}")
    except RegardError as error:
        return _complain(str(error))
    except _MissingExtraError as error:
        return _complain(str(error), USAGE_ERROR)


class _MissingExtraError(Exception):
    """A subcommand that needs what is not installed."""


def _commands() -> Mapping[str, EntryPoint]:
    return {**{entry.name: entry for entry in entry_points(group=GROUP)}, **_OWN}


@contextmanager
def _complete(name: str) -> Iterator[None]:
    """Say what to install where a subcommand lacks a module, be it at once or when it comes to need it."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = _KNOWN[name].extra if name in _KNOWN else ""
        # A module of regard's own that is missing is a bug, not an extra.
        if not extra or (error.name or "regard").startswith("regard"):
            raise
        raise _MissingExtraError(
            f"`regard {name}` needs the extra {extra!r}: pip install 'regard[{extra}]' ({error})"
        ) from error


def _help(commands: Mapping[str, EntryPoint]) -> str:
    lines = ["usage: regard COMMAND …", "", "Image features as a service.", "", "commands:"]
    for name in sorted(commands):
        known = _KNOWN.get(name, _Known(""))
        lines.append(f"  {name:<10} {known.summary}".rstrip())
    lines += ["", "`regard COMMAND --help` tells more; `regard --version` the version.", ""]
    return "\n".join(lines)


def _complain(message: str, status: int = 1) -> int:
    sys.stderr.write(f"regard: {message}\n")
    return status
