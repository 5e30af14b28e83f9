"""Bearer tokens: one a line of a file, each with the name of who holds it, if it has one.

    # who may call
    search 6kTq2mX0c1vZr8Yw3sLh
    0hVn5uQe7bKj4xDd9aPf

What is kept is their hashes, and all of them are compared, each in constant time.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from regard_server.errors import InvalidTokenError, MissingTokenError
from regard_server.security.files import UnusableFileError, WatchedFiles

METADATA_KEY = "authorization"
# https://www.rfc-editor.org/rfc/rfc6750#section-2.1
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LEAST_CHARACTERS = 16
_SCHEME = "bearer"


class Tokens:
    """Who may call. Read again when the file changes, at the next call; safe from any thread.

    Args:
        path: the file.
        logger: where it is told that the file was read again, or cannot be: then the tokens stay as they were.
        on_reload: told whether reading it again went well.

    Raises:
        UnusableFileError: the file cannot be read, has no token, or a line that is none.
    """

    def __init__(self, path: Path, logger: logging.Logger, on_reload: Callable[[bool], None]) -> None:
        self._path = path
        self._logger = logger
        self._on_reload = on_reload
        self._file = WatchedFiles([path])
        self._content = self._file.read()[0]
        self._known = parse_tokens(self._content, path)
        self._trouble = ""

    def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Return the name of whoever holds the token of a call.

        Raises:
            MissingTokenError: the call carries none, or something else than one.
            InvalidTokenError: the token is not known, or not any more.
        """
        if self._file.changed():
            self._read_again()
        sent = [value for key, value in metadata if key == METADATA_KEY]
        scheme, _, token = str(sent[0]).partition(" ") if len(sent) == 1 else ("", "", "")
        if scheme.lower() != _SCHEME or not token:
            raise MissingTokenError(
                f"the call carries {'more than one token' if len(sent) > 1 else 'no token'}; "
                f"expected one, in the metadata {METADATA_KEY!r}, as 'Bearer TOKEN'"
            )
        presented = _digest(token.strip().encode("utf-8", "surrogateescape"))
        name = None
        for digest, holder in self._known:  # to the end, whichever it is
            name = holder if hmac.compare_digest(digest, presented) else name
        if name is None:
            raise InvalidTokenError("the token is unknown to this server; it may have been replaced")
        return name

    def _read_again(self) -> None:
        try:
            content = self._file.read()[0]
            if content == self._content:
                return
            self._known = parse_tokens(content, self._path)
        except UnusableFileError as error:
            if str(error) != self._trouble:  # once, not at every call
                self._trouble = str(error)
                self._logger.error("the tokens stay as they were: %s", error)  # noqa: TRY400 - an operator's mistake
                self._on_reload(False)  # noqa: FBT003 - a metric's label
        else:
            self._content, self._trouble = content, ""
            self._logger.info("read %d tokens from %s", len(self._known), self._path)
            self._on_reload(True)  # noqa: FBT003


def parse_tokens(content: bytes, path: Path) -> list[tuple[bytes, str]]:
    """Return the hash of every token, and the name of its holder or "line N".

    Raises:
        UnusableFileError: there is none, or a line is none; the message names the lines, not what is in them.
    """
    known: list[tuple[bytes, str]] = []
    wrong: list[str] = []
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        *name, token = words
        well_named = not name or (len(name) == 1 and _NAME.fullmatch(name[0]))
        if not well_named or not _TOKEN.fullmatch(token) or len(token) < _LEAST_CHARACTERS:
            wrong.append(str(number))
            continue
        known.append((_digest(token.encode()), name[0] if name else f"line {number}"))
    if wrong:
        raise UnusableFileError(
            f"{path} has something else than a token in line {', '.join(wrong)}; expected [NAME] TOKEN, the token "
            f"of {_LEAST_CHARACTERS} characters or more out of A-Z a-z 0-9 . _ ~ + / - ="
        )
    if not known:
        raise UnusableFileError(f"{path} holds no token; expected one a line")
    return known


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
