"""The operator's port."""

import errno
import socket
import urllib.error
import urllib.request
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry, Counter

from regard_server.observe import ObservationPort


class Truth:
    live = True
    ready = False


@pytest.fixture
def truth():
    return Truth()


@pytest.fixture
def port(truth):
    registry = CollectorRegistry()
    Counter("seen", "Things seen.", registry=registry).inc(3)
    port = ObservationPort("127.0.0.1:0", registry, live=lambda: truth.live, ready=lambda: truth.ready)
    yield port
    port.close()


def get(address, path):
    """Return (status, body)."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_scraped_as_text(port):
    """/metrics is Prometheus' text format."""
    status, body = get(port.start(), "/metrics")
    assert status == 200
    assert "seen_total 3.0" in body


def test_the_probes_follow_the_truth(port, truth):
    """Live and ready are different questions, asked at the moment of the probe."""
    address = port.start()
    assert [get(address, path)[0] for path in ("/livez", "/readyz")] == [200, 503]
    truth.live, truth.ready = False, True
    assert [get(address, path)[0] for path in ("/livez", "/readyz")] == [503, 200]


def test_an_unknown_path_says_what_there_is(port):
    """A wrong path is answered 404 with the right ones."""
    status, body = get(port.start(), "/")
    assert status == 404
    assert "/metrics, /livez and /readyz" in body


def test_a_port_in_use_is_an_oserror(port):
    """Two processes cannot share the port, and the second hears of it."""
    taken = port.start()
    second = ObservationPort(taken, CollectorRegistry(), live=bool, ready=bool)
    with pytest.raises(OSError, match="in use"):
        second.start()
    second.close()


def test_closing_frees_the_port(port):
    """After `close` the address can be bound again."""
    address = port.start()
    port.close()
    again = ObservationPort(address, CollectorRegistry(), live=bool, ready=bool)
    assert again.start() == address
    again.close()


def test_who_connects_and_says_nothing_is_let_go(capfd):
    """A silent connection ends after a while, and is no error."""
    port = ObservationPort("127.0.0.1:0", CollectorRegistry(), live=bool, ready=bool, silence_s=0.05)
    host, _, number = port.start().rpartition(":")
    with socket.create_connection((host, int(number)), timeout=10) as silent:
        silent.sendall(b"GET /metr")
        with suppress(ConnectionResetError):  # where it had not come to reading
            assert silent.recv(1) == b""
    port.close()
    assert capfd.readouterr().err == ""


def test_it_listens_on_ipv6_too(truth):
    """An address in brackets is one of IPv6, where the machine has any."""
    port = ObservationPort("[::1]:0", CollectorRegistry(), live=lambda: truth.live, ready=lambda: truth.ready)
    try:
        address = port.start()
    except OSError as error:  # a machine without
        assert error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}  # noqa: PT017 - and nothing else
        return
    assert address.startswith("[::1]:")
    assert get(address, "/livez")[0] == 200
    port.close()


def test_a_page_answers_all_other_paths():
    """Metrics and probes stay what they are; the rest is the page's."""

    def page(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"page {environ['PATH_INFO']}".encode()]

    port = ObservationPort("127.0.0.1:0", CollectorRegistry(), live=bool, ready=bool, page=page)
    address = port.start()
    assert [get(address, path)[1] for path in ("/", "/a")] == ["page /", "page /a"]
    assert [get(address, path)[0] for path in ("/metrics", "/livez")] == [200, 503]
    port.close()


def test_a_body_that_nobody_asked_for_is_refused(port):
    """A long body is turned away by its length."""
    host, _, number = port.start().rpartition(":")
    with socket.create_connection((host, int(number)), timeout=10) as connection:
        connection.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")
        assert " 413 " in connection.makefile().readline()
