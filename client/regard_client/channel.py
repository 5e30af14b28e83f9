"""How the connection behaves: balancing, retries, keepalive, limits, TLS. Opens nothing itself."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc

ChannelOptions: TypeAlias = tuple[tuple[str, Any], ...]
Metadata: TypeAlias = tuple[tuple[str, str], ...]

MiB: Final = 1 << 20
_MIN_BACKOFF_S: Final = 0.01
# https://www.rfc-editor.org/rfc/rfc6750#section-2.1
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_LOCAL_PREFIXES: Final = ("localhost:", "127.", "[::1]", "unix:")


@dataclass(frozen=True, slots=True)
class Transport:
    """How the channel behaves; the defaults suit servers near by and far.

    Attributes:
        max_send_bytes: the largest message that is sent.
        max_receive_bytes: the largest that is taken; feature maps of many images are large.
        keepalive_s: after how long a silence, with a call in flight, the peer is asked whether it lives.
        keepalive_timeout_s: how long it has for that before the connection counts as dead.
        max_attempts: how often a call that was UNAVAILABLE is tried in all, within its deadline.
        initial_backoff_s: the pause before the second attempt, at random up to this; it doubles from there.
        max_backoff_s: the longest such pause. A server's `grpc-retry-pushback-ms` replaces it.
        sent_per_accepted: single images that are sent for every one that the server accepts; where it refuses more than
            that leaves, the others are refused here, as `OverloadedError`. Infinity to send all.

    Raises:
        ValueError: the pauses are shorter than 10 ms, or fewer are to be sent than accepted.
    """

    max_send_bytes: int = 64 * MiB
    max_receive_bytes: int = 256 * MiB
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    max_attempts: int = 4
    initial_backoff_s: float = 0.05
    max_backoff_s: float = 1.0
    sent_per_accepted: float = 2.0

    def __post_init__(self) -> None:
        # gRPC (1.72 and later) loses a call, deadline and all, whose pause comes out as 0 ms:
        # https://github.com/grpc/grpc/issues/41036
        if min(self.initial_backoff_s, self.max_backoff_s) < _MIN_BACKOFF_S:
            raise ValueError(
                f"backoff of {self.initial_backoff_s} to {self.max_backoff_s} s is too short; "
                f"expected {_MIN_BACKOFF_S} s at least"
            )
        if not self.sent_per_accepted >= 1:
            raise ValueError(
                f"{self.sent_per_accepted} calls sent for each that is accepted would come to none; expected 1 at least"
            )

    def options(self, target: str) -> ChannelOptions:
        """Return gRPC's channel arguments."""
        options: ChannelOptions = (
            ("grpc.service_config", json.dumps(self._service_config())),
            ("grpc.max_send_message_length", self.max_send_bytes),
            ("grpc.max_receive_message_length", self.max_receive_bytes),
            # What is not buffered cannot be sent again: with the default of 256 KiB no photograph would be.
            ("grpc.per_rpc_retry_buffer_size", self.max_send_bytes),
            ("grpc.keepalive_time_ms", round(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            # A replica that has just come is found when the names are resolved again; 30 s by default.
            ("grpc.dns_min_time_between_resolutions_ms", 5000),
        )
        if target.startswith(_LOCAL_PREFIXES):
            options += (("grpc.enable_http_proxy", 0),)  # no proxy leads to one's own machine
        return options

    def _service_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if self.max_attempts > 1:
            config["methodConfig"] = [
                {
                    "name": [{}],
                    "retryPolicy": {
                        "maxAttempts": self.max_attempts,
                        "initialBackoff": f"{self.initial_backoff_s:.3f}s",
                        "maxBackoff": f"{self.max_backoff_s:.3f}s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ]
            # The budget: no retries while more than about one call in ten fails, so that a server in
            # trouble is not pushed deeper.
            config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
        return config


DEFAULT_TRANSPORT: Final = Transport()


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS, and mTLS with a certificate of one's own. Files are in PEM.

    Attributes:
        ca: certificates of the authorities that are trusted; None for those that gRPC ships with.
        certificate: the client's own certificate chain, for mTLS; needs `key`.
        key: its private key.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ValueError: a certificate without a key, or the reverse.
            OSError: a file cannot be read.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("mTLS needs both certificate and key; one of them is missing")
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )


Credentials: TypeAlias = grpc.ChannelCredentials | Tls | None


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials | None:
    """Return gRPC's credentials; None means plain text."""
    return credentials.credentials() if isinstance(credentials, Tls) else credentials


def call_metadata(
    token: str | None, target: str, credentials: Credentials, *, plaintext_token: bool = False
) -> Metadata:
    """Return what goes with every call.

    Raises:
        ValueError: a token that no header can carry, or one that would travel readable to another machine.
    """
    if not token:
        return ()
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            "the token has characters that no bearer token has; expected A-Z a-z 0-9 . _ ~ + / - and = at the end"
        )
    if not (credentials or plaintext_token or target.startswith(_LOCAL_PREFIXES)):
        raise ValueError(
            f"without TLS the token could be read on its way to {target}; give credentials (on the command line --tls "
            "or --ca), or plaintext_token (--plaintext-token) where something else keeps the way secret"
        )
    return (("authorization", f"Bearer {token}"),)


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
