"""The page's HTTP side on a real server: what it says, and whom it turns away."""

import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from regard_models.samples import sample_photographs

PHOTOGRAPH = sample_photographs()[7]
LOOPBACK = {"metrics_address": "127.0.0.1:0"}


class Visitor:
    """A client of the page that may say of itself what it likes."""

    def __init__(self, served):
        self.address = served.server.metrics_address

    def ask(self, path, data=None, **headers):
        """Return (status, headers, body)."""
        named = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        request = urllib.request.Request(f"http://{self.address}{path}", data=data, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def look(self, data=None, query="", **headers):
        """Send a photograph as the page itself would; return (status, headers, what is said)."""
        own = {"Origin": f"http://{self.address}", "Content_Type": "image/jpeg"}
        body = PHOTOGRAPH.read_bytes() if data is None else data
        status, found, answer = self.ask(f"/page/look{query}", body, **{**own, **headers})
        return status, found, json.loads(answer)

    def live(self, since=0):
        return json.loads(self.ask(f"/page/live.json?since={since}")[2])

    def raw(self, text):
        """Send bytes as they are; return the status line."""
        host, _, port = self.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(text.encode())
            return connection.makefile().readline()


@pytest.fixture(scope="session")
def frontend():
    """The page knows nothing of front ends: one is enough."""
    return "auto"


@pytest.fixture(scope="session")
def visitor(shared):
    """A visitor to the server that nobody disturbs."""
    return Visitor(shared)


@pytest.fixture
def visit(serve):
    """Start a server of the test's own and visit it."""

    def visit(**settings):
        served = serve(**{**LOOPBACK, **settings})
        return served, Visitor(served)

    return visit


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/uplot/LICENSE", "/page/samples/china.jpg"])
def test_everything_carries_the_policy(visitor, path):
    """Files are typed, never framed, never guessed at, and asked for again only if they changed."""
    status, headers, body = visitor.ask(path)
    assert (status, len(body)) == (200, int(headers["Content-Length"]))
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert visitor.ask(path, If_None_Match=headers["ETag"])[0] == 304
    assert b"http:" not in body.replace(b"http://www.w3.org/2000/svg", b"") or path.startswith("/page/")


@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/page/",
        "/page/none.js",
        "/page/../site.py",
        "/page/samples/__init__.py",
        "/page//etc/passwd",
    ],
)
def test_there_is_nothing_else(visitor, path):
    """Unknown paths are 404, and none leads out of the page's own files."""
    assert visitor.ask(path)[0] == 404


def test_a_name_that_nobody_vouched_for_is_refused(visitor):
    """A website that points its name here sees nothing; Prometheus may use any name."""
    for path in ("/", "/page/live.json", "/page/app.js"):
        status, _, body = visitor.ask(path, Host="evil.example:9095")
        assert (status, b"page_hosts" in body) == (421, True)
    assert visitor.look(Host="evil.example", Origin="http://evil.example")[0] == 421
    assert visitor.ask("/metrics", Host="worker:9095")[0] == 200


def test_a_host_may_be_named(visit):
    """page_hosts lets a name in."""
    _, visitor = visit(page_hosts=("Box.lan",))
    assert visitor.ask("/", Host="box.lan:9095")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_photographs_are_taken_from_the_page_alone(visitor, headers):
    """Another website's request is refused, whatever it holds."""
    assert visitor.look(**headers)[0] == 403


def test_what_is_no_photograph_is_refused(visitor):
    """Wrong types, methods and lengths are refused before anything is computed; wrong bytes say why."""
    assert visitor.look(Content_Type="text/plain")[0] == 415
    assert visitor.ask("/page/look")[0] == 405
    assert visitor.ask("/page/live.json", b"x")[0] == 405
    status, _, answer = visitor.look(b"no picture")
    assert (status, "no known format" in answer["error"]) == (400, True)
    assert visitor.look(query="?model=none")[0] == 404
    assert visitor.look(query="?map=none")[0] == 400
    assert visitor.ask("/page/live.json?since=x")[0] == 400


def test_length_is_checked_before_the_body_is_read(visit):
    """A photograph beyond the limit is refused by what it says of itself; one without a length too."""
    _, visitor = visit(max_image_bytes=2000)
    head = f"POST /page/look HTTP/1.1\r\nHost: {visitor.address}\r\nOrigin: http://{visitor.address}\r\n"
    head += "Content-Type: image/jpeg\r\n"
    assert " 413 " in visitor.raw(head + "Content-Length: 9999999\r\n\r\n")
    assert " 411 " in visitor.raw(head + "\r\n")
    assert " 400 " in visitor.raw(head + "Content-Length: -1\r\n\r\n")


def test_a_photograph_finds_itself_among_the_samples(visitor):
    """The nearest sample of a sample is itself; the answer says who looked, and what the network saw."""
    status, _, answer = visitor.look()
    assert (status, answer["model"], answer["trained"]) == (200, "resnet_tiny", False)
    first, second = answer["neighbours"][:2]
    assert (first["name"], first["similarity"]) == (PHOTOGRAPH.name, pytest.approx(1, abs=1e-3))
    assert second["similarity"] <= first["similarity"]
    assert answer["attention"] is None
    assert answer["timings_ms"]["total"] >= answer["timings_ms"]["compute"] > 0
    assert len(answer["fingerprint"]) == 64


def test_attention_lies_over_the_picture_where_it_has_places(visit):
    """A model with maps over places hands one out; one that attends over channels says so, and its maps are refused."""
    _, visitor = visit(models=("mhsa_mini", "sk_mini"), max_batch=1)
    mhsa, sk = visitor.live()["models"]
    assert [each["name"] for each in mhsa["maps"]][-1] == "layer4.0.attention_received"
    assert (sk["maps"], "not over places" in sk["no_map"]) == ([], True)
    heat = visitor.look(query=f"?map={mhsa['maps'][0]['name']}")[2]["attention"]
    assert len(heat["heat"]) == heat["height"] * heat["width"]
    assert (min(heat["heat"]), max(heat["heat"])) == (0, 1)
    status, _, answer = visitor.look(query="?model=sk_mini&map=layer4.0.attention")
    assert (status, "not over places" in answer["error"]) == (400, True)


def test_figures_agree_with_metrics(visit, pictures):
    """Counts since the start are those of /metrics."""
    served, visitor = visit()
    for _ in range(5):
        served.extract(*pictures(2))
    served.journal.until("Extract OK", 5)
    seen = set()
    for _ in range(200):  # a reading is taken once a second
        live = visitor.live()
        seen = {(each["outcome"], each["ever"]) for each in live["items"]}
        if seen == {("ok", 10)}:
            break
        threading.Event().wait(0.05)
    assert seen == {("ok", 10)}
    assert live["requests"] == [{"method": "Extract", "code": "OK", "lately": 5, "ever": 5}]
    counts = {each["stage"]: each["count"] for each in live["stages"]}
    assert (counts["decode"], counts["queue"], counts["total"]) == (10, 10, 5)
    assert counts["compute"] == served.metric("regard_compute_duration_seconds_count", model="resnet_tiny")
    assert sum(each["batches"] for each in live["batches"]) == counts["compute"]


def test_overload_is_told_in_words(visit, pictures):
    """The form is refused by the same admission as everybody else, with the time to come back."""
    served, visitor = visit(max_in_flight_images=1)
    served.gate.hold()
    waiting = served.begin(*pictures(1))
    served.gate.until(1)
    status, headers, answer = visitor.look()
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "the limit is 1 at once" in answer["error"]
    served.gate.open()
    assert waiting.result().results


def test_a_storm_of_photographs_is_slowed_down(visit):
    """Beyond a burst the form answers 429, and gRPC goes on."""
    _, visitor = visit()
    statuses = [visitor.look(b"no picture")[0] for _ in range(12)]
    assert statuses[:6] == [400] * 6
    assert 429 in statuses


def test_probes_are_answered_while_photographs_wait(visit):
    """Two photographs that wait for the device take nothing from /metrics, the probes and the figures."""
    served, visitor = visit()
    served.gate.hold()
    looking = [threading.Thread(target=visitor.look) for _ in range(2)]
    for thread in looking:
        thread.start()
    served.gate.until(1)
    assert [visitor.ask(path)[0] for path in ("/metrics", "/livez", "/readyz", "/page/live.json")] == [
        200
    ] * 4
    served.gate.open()
    for thread in looking:
        thread.join()


def test_a_draining_server_takes_no_photographs(visit):
    """They go where requests go: nowhere, any more."""
    served, visitor = visit()

    async def drain():
        served.server.health.drain()

    served.await_(drain())
    assert visitor.look()[0] == 503


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({"metrics_address": "0.0.0.0:0"}, False),
        ({"metrics_address": "0.0.0.0:0", "page_form": "on"}, True),
        ({"page_form": "off"}, False),
    ],
)
def test_the_form_is_off_where_others_can_reach_it(visit, settings, form):
    """By itself it is on only on loopback; the setting overrules that, and the page says which it is."""
    _, visitor = visit(**settings)
    assert visitor.live()["form"] is form
    assert visitor.look(b"no picture")[0] == (400 if form else 403)
    assert visitor.ask("/page/look", b"x" * 5000)[0] == (403 if form else 413)


def test_the_page_may_be_off(visit):
    """Then only metrics and probes are there."""
    _, visitor = visit(page=False)
    assert [visitor.ask(path)[0] for path in ("/", "/page/live.json", "/metrics")] == [404, 404, 200]
