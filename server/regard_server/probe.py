"""`python -m regard_server.probe`: status 0 while the server of this machine or container serves.

For health checks of containers, every few seconds: it imports nothing but gRPC. It asks `grpc.health.v1` where
REGARD_ADDRESS says. A server with TLS would want a certificate that was made out to its loopback address, and with
mTLS one of the probe's own; there /readyz of REGARD_METRICS_ADDRESS is asked, which follows the same state.
"""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health_pb2

_CHECK = "/grpc.health.v1.Health/Check"
_TIMEOUT_S = 2.0


def trouble(environment: Mapping[str, str]) -> str:
    """Return why the server of these settings does not serve; empty: it does."""
    if environment.get("REGARD_TLS_CERTIFICATE"):
        return _unready(_nearby(environment.get("REGARD_METRICS_ADDRESS", "127.0.0.1:9095")))
    return _unhealthy(_nearby(environment.get("REGARD_ADDRESS", "127.0.0.1:50051")))


def _nearby(address: str) -> str:
    """Return where a server that listens on all addresses is found from here."""
    for everywhere, here in (("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")):
        if address.startswith(everywhere):
            return here + address.removeprefix(everywhere)
    return address


def _unhealthy(address: str) -> str:
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(
            _CHECK, health_pb2.HealthCheckRequest.SerializeToString, health_pb2.HealthCheckResponse.FromString
        )
        try:
            status = check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S).status
        except grpc.RpcError as error:
            return f"{address}: {error.code().name}: {error.details()}"
    if status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"{address} is {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"


def _unready(address: str) -> str:
    url = f"http://{address}/readyz"
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to one's own machine
    try:
        with ask.open(url, timeout=_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{url} answers {error.code}"
    except OSError as error:
        return f"{url}: {error}"


if __name__ == "__main__":
    sys.exit(trouble(os.environ) or None)
