"""TLS and mutual TLS: a certificate, its key, and the authority that callers' certificates must come from.

gRPC's core asks for the files' contents at every handshake, and gets them anew when they have changed: connections
that stand keep the certificate that they began with, new ones get the new one. A pair that does not fit, as between
the two writes of a renewal, is not served with; the last one that did fit stays.
"""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc

from regard_server.security.files import UnusableFileError, WatchedFiles


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM.

    Attributes:
        certificate: the server's certificate, and those between it and its authority.
        key: its private key, not encrypted.
        client_authority: certificates of those who issue callers' certificates; None: callers need none.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The files that are set, in the order of the attributes."""
        return [path for path in (self.certificate, self.key, self.client_authority) if path]


class Tls:
    """Server credentials that follow their files.

    Args:
        files: where the certificates are.
        logger: where a new certificate, or one that cannot be used, is told of.
        on_reload: told whether reading them again went well.

    Raises:
        UnusableFileError: a file cannot be read, or they do not fit together.
    """

    def __init__(self, files: TlsFiles, logger: logging.Logger, on_reload: Callable[[bool], None]) -> None:
        self._files = files
        self._logger = logger
        self._on_reload = on_reload
        self._watched = WatchedFiles(files.paths)
        self._contents = self._read()
        self._trouble = ""

    def credentials(self) -> grpc.ServerCredentials:
        """Return them; gRPC calls back from a thread of its own."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._contents),
            cast("Any", self._configuration_if_changed),  # None, whatever the stub says, for "as before"
            require_client_authentication=self._files.client_authority is not None,
        )

    def _configuration_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        if not self._watched.changed():
            return None
        try:
            contents = self._read()
        except UnusableFileError as error:
            if str(error) != self._trouble:  # once, not at every handshake
                self._trouble = str(error)
                self._logger.error("the certificate stays as it was: %s", error)  # noqa: TRY400 - an operator's mistake
                self._on_reload(False)  # noqa: FBT003 - a metric's label
            return None
        if contents == self._contents:
            return None
        self._contents, self._trouble = contents, ""
        self._logger.info("new connections get the new certificate of %s", self._files.certificate)
        self._on_reload(True)  # noqa: FBT003
        return _configuration(contents)

    def _read(self) -> list[bytes]:
        contents = self._watched.read()
        check_pair(self._files.certificate, self._files.key)
        if self._files.client_authority:
            check_authority(self._files.client_authority)
        if contents != [path.read_bytes() for path in self._files.paths]:
            raise UnusableFileError("the files were written while they were read")
        return contents


def check_pair(certificate: Path, key: Path) -> None:
    """Check that one file is a certificate and the other its key.

    Raises:
        UnusableFileError: they are not.
    """
    try:
        # An encrypted key is an error here instead of a question on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise UnusableFileError(
            f"{certificate} and {key} are no certificate and its key ({_reason(error)}); "
            "expected PEM, the key unencrypted and of that certificate"
        ) from error


def check_authority(path: Path) -> None:
    """Check that a file holds certificates.

    Raises:
        UnusableFileError: it does not.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise UnusableFileError(
            f"{path} holds no certificate of an authority ({_reason(error)}); expected PEM"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)


def _configuration(contents: list[bytes]) -> grpc.ServerCertificateConfiguration:
    """Return what gRPC takes over: each one serves once."""
    certificate, key, *authority = contents
    return grpc.ssl_server_certificate_configuration(
        [(key, certificate)], authority[0] if authority else None
    )
