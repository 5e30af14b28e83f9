"""A browser, and a page before a loaded server that keeps an account of what went wrong on it."""

import pytest
import stage


class Visit:
    """A page that was opened, and everything that a console or a network would complain of."""

    def __init__(self, chromium, address, **context):
        self.context = chromium.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(stage.PATIENCE_S * 1000)
        self.address = address
        self.complaints = []
        self.requested = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("requestfailed", self._note_failure)
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("#form:not([hidden])")

    def _note_failure(self, request):
        if request.failure != "net::ERR_ABORTED":  # the page gives up a photograph when another is chosen
            self.complaints.append(f"{request.failure}: {request.url}")


@pytest.fixture(scope="session")
def chromium():
    with stage.browser() as found:
        yield found


@pytest.fixture(scope="session")
def served():
    with stage.server() as found:
        yield found


@pytest.fixture(scope="session")
def load(served):
    """Callers that go on until a test stops them, or the last has ended."""
    with stage.Load(served.target, ("mhsa_mini", "resnet_mini"), 4) as load:
        load.spoil()
        yield load


@pytest.fixture
def visit(chromium, served, load):  # noqa: ARG001 - the page is looked at under load
    """Open the page; what it complained of fails the test that opened it."""
    opened = []

    def visit(**context):
        opened.append(Visit(chromium, served.page, **context))
        return opened[-1]

    yield visit
    for each in opened:
        each.context.close()
        assert not each.complaints
        assert all(url.startswith(served.page) for url in each.requested)
