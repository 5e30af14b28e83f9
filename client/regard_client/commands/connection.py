"""The options that say which server a subcommand talks to."""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from regard_client.channel import Tls
from regard_client.client import Client

_USAGE_ERROR: Final = 2
_TARGET: Final = "localhost:50051"


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a subcommand's parser."""
    group = parser.add_argument_group("the server")
    group.add_argument(
        "--target",
        default=os.environ.get("REGARD_TARGET", _TARGET),
        help=f"its address (default: REGARD_TARGET, otherwise {_TARGET})",
    )
    group.add_argument("--tls", action="store_true", help="use TLS with the usual authorities")
    group.add_argument("--ca", metavar="PEM", help="use TLS and trust these authorities")
    group.add_argument(
        "--certificate", metavar="PEM", help="the client's own certificate, for mTLS; needs --key"
    )
    group.add_argument("--key", metavar="PEM", help="its private key")
    group.add_argument(
        "--token-file", metavar="FILE", help="file of a bearer token (default: the token in REGARD_TOKEN)"
    )
    group.add_argument(
        "--plaintext-token", action="store_true", help="let the token go to other machines without TLS"
    )
    group.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="seconds a call may take (30)"
    )


def connect(options: argparse.Namespace) -> Client:
    """Return a client for the server that the options name.

    All answers come from one version of the model, or the call fails.

    Raises:
        SystemExit: a file cannot be read, or the options make no sense together.
    """
    wants_tls = options.tls or options.ca or options.certificate or options.key
    try:
        token = os.environ.get("REGARD_TOKEN")
        if options.token_file:
            token = Path(options.token_file).read_text().strip()
        return Client(
            options.target,
            timeout_s=options.timeout,
            credentials=Tls(ca=options.ca, certificate=options.certificate, key=options.key)
            if wants_tls
            else None,
            expected_fingerprint="pin",
            token=token,
            plaintext_token=options.plaintext_token,
        )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"regard: {error}\n")
        raise SystemExit(_USAGE_ERROR) from error
