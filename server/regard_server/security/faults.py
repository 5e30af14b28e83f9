"""What is wrong with the files that settings name, each with its field."""

from collections.abc import Callable
from pathlib import Path

from regard_server.security.files import UnusableFileError, WatchedFiles
from regard_server.security.tls import check_authority, check_pair
from regard_server.security.tokens import parse_tokens
from regard_server.settings import Settings


def security_faults(settings: Settings) -> list[str]:
    """Read every file of certificates and tokens; return a line for each fault, none if all is well."""
    certificate, key, authority = settings.tls_certificate, settings.tls_key, settings.tls_client_authority
    unreadable = [
        fault
        for field, path in (("tls_certificate", certificate), ("tls_key", key))
        if path and (fault := _fault(field, WatchedFiles([path]).read))
    ]
    checks: list[tuple[str, Callable[[], object]]] = []
    if certificate and key and not unreadable:
        checks.append(("tls_certificate, tls_key", lambda: check_pair(certificate, key)))
    if authority:
        checks.append(("tls_client_authority", lambda: check_authority(authority)))
    if tokens := settings.tokens_file:
        checks.append(("tokens_file", lambda: _read_tokens(tokens)))
    return unreadable + [fault for field, check in checks if (fault := _fault(field, check))]


def _read_tokens(path: Path) -> None:
    parse_tokens(WatchedFiles([path]).read()[0], path)


def _fault(field: str, check: Callable[[], object]) -> str:
    try:
        check()
    except UnusableFileError as error:
        return f"{field}: {error}"
    return ""
