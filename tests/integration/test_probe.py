"""`python -m regard_server.probe`, by which a container knows whether its server serves."""

import os
import subprocess
import sys

from regard_server.probe import trouble

# A server with TLS is asked by HTTP, whatever its certificate.
TLS = {"REGARD_TLS_CERTIFICATE": "certificate.pem"}


def test_a_server_that_serves_is_well(shared):
    """No trouble by gRPC, nor by HTTP where the server speaks TLS."""
    _, _, port = shared.server.address.rpartition(":")
    assert trouble({"REGARD_ADDRESS": f"0.0.0.0:{port}"}) == ""
    assert trouble({"REGARD_METRICS_ADDRESS": shared.server.metrics_address, **TLS}) == ""


def test_a_server_that_leaves_is_not(serve):
    """As soon as new callers are to go elsewhere, both say so."""
    served = serve(metrics_address="127.0.0.1:0")
    served.server.health.leave()
    assert "NOT_SERVING" in trouble({"REGARD_ADDRESS": served.server.address})
    assert "503" in trouble({"REGARD_METRICS_ADDRESS": served.server.metrics_address, **TLS})


def test_no_server_is_trouble():
    """A port where nobody listens gives the reason and status 1."""
    environment = {**os.environ, "REGARD_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "regard_server.probe"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "127.0.0.1:1: UNAVAILABLE" in done.stderr
    assert "127.0.0.1:1" in trouble({"REGARD_METRICS_ADDRESS": "127.0.0.1:1", **TLS})
