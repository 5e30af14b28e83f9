"""Whether the installed grpcio has the private interface that `core.py` was written for.

The names and signatures are compared here, and a version that nobody has tried is not trusted however alike it
looks; what cannot be seen from outside, `rehearsal.py` finds out.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Final

import grpc

FIRST_CHECKED: Final = (1, 81)
LAST_CHECKED: Final = (1, 85)
"""The minor versions on which the integration tests were run through this front end, as `make test-grpcio` does."""

_MODULE: Final = "grpc._cython.cygrpc"
_METHODS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "CompletionQueue": {"poll": ("self", "deadline"), "shutdown": ("self",)},
    "Server": {
        "add_http2_port": ("self", "address", "server_credentials"),
        "register_completion_queue": ("self", "queue"),
        "start": ("self", "backup_queue"),
        "request_call": ("self", "call_queue", "server_queue", "tag"),
        "shutdown": ("self", "queue", "tag"),
        "cancel_all_calls": ("self",),
        "destroy": ("self",),
    },
    "Call": {"start_server_batch": ("self", "operations", "tag"), "peer": ("self",)},
    "ReceiveMessageOperation": {"message": ("self",)},
    "ReceiveCloseOnServerOperation": {"cancelled": ("self",)},
}
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "CallDetails": ("method", "deadline"),
    "RequestCallEvent": ("tag", "success", "completion_type", "call", "call_details", "invocation_metadata"),
    "BatchOperationEvent": ("tag", "success", "completion_type", "batch_operations"),
    "CompletionType": ("operation_complete",),
    "WriteFlag": ("no_compress",),
    "GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY": (),
    "SendInitialMetadataOperation": (),
    "SendMessageOperation": (),
    "SendStatusFromServerOperation": (),
    "auth_context": (),
    "peer_identities": (),
    "peer_identity_key": (),
}


def misfit() -> str | None:
    """Return what is missing or other than expected; None if nothing is."""
    try:
        module = importlib.import_module(_MODULE)
    except ImportError as error:
        return f"{_MODULE} cannot be imported: {error}"
    for owner, names in {**_NAMES, **{each: tuple(methods) for each, methods in _METHODS.items()}}.items():
        found = getattr(module, owner, None)
        missing = (
            owner if found is None else next((f"{owner}.{n}" for n in names if not hasattr(found, n)), None)
        )
        if missing:
            return f"{_MODULE} has no {missing}"
    for owner, methods in _METHODS.items():
        for name, expected in methods.items():
            parameters = tuple(inspect.signature(getattr(getattr(module, owner), name)).parameters)
            if parameters != expected:
                return f"{owner}.{name} takes {parameters}; expected {expected}"
    return None


def unchecked() -> str | None:
    """Return why this version of grpcio is not trusted; None if it is."""
    version: str = grpc.__version__
    major, minor = (int(part) for part in version.split(".")[:2])
    if FIRST_CHECKED <= (major, minor) <= LAST_CHECKED:
        return None
    first, last = (".".join(map(str, each)) for each in (FIRST_CHECKED, LAST_CHECKED))
    return f"grpcio {version} was not checked; {first} to {last} were"
