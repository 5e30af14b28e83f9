"""Which front end is chosen, and what happens where grpcio is not the one that was checked."""

import logging

import grpc
import pytest

from regard_server.frontend import choose
from regard_server.frontend.choose import FrontEndError, make_front_end
from regard_server.frontend.direct import probe, rehearsal
from regard_server.frontend.direct.context import Context
from regard_server.frontend.routes import Routes

LOGGER = logging.getLogger("test.choose")


@pytest.fixture
def make():
    """Choose, and say what was chosen."""

    async def make(choice):
        return (await make_front_end(choice, Routes(lambda _, handler: handler), (), LOGGER)).name

    return make


@pytest.fixture
def rehearsed(monkeypatch):
    """Let rehearsals end in an error, or in none."""

    def rehearsed(error=None):
        async def rehearse(_logger):
            if error:
                raise error

        monkeypatch.setattr(rehearsal, "rehearse", rehearse)

    return rehearsed


@pytest.mark.parametrize(
    ("choice", "chosen"), [("auto", "direct"), ("public", "public"), ("direct", "direct")]
)
async def test_the_installed_grpcio_bears_all(make, choice, chosen):
    """The version that the project is tested with passes every check, rehearsal included."""
    assert await make(choice) == chosen


@pytest.mark.parametrize("version", ["1.80.0", "1.86.0", "2.0.0", "1.100.0rc1"])
async def test_a_version_that_nobody_tried_is_served_publicly(make, monkeypatch, caplog, version):
    """However alike it looks."""
    monkeypatch.setattr(grpc, "__version__", version)
    assert await make("auto") == "public"
    assert f"grpcio {version} was not checked" in caplog.text


async def test_who_insists_may_try_an_unchecked_version(make, monkeypatch, caplog, rehearsed):
    """The names and the rehearsal must be right all the same."""
    rehearsed()
    monkeypatch.setattr(grpc, "__version__", "1.99.0")
    assert await make("direct") == "direct"
    assert "as told, though grpcio 1.99.0 was not checked" in caplog.text


@pytest.mark.parametrize("trouble", [RuntimeError("a stream was lost"), TimeoutError()])
async def test_a_rehearsal_that_fails_is_heeded(make, caplog, rehearsed, trouble):
    """Left to itself the server serves publicly; told to serve directly it does not serve."""
    rehearsed(trouble)
    assert await make("auto") == "public"
    assert (str(trouble) or "TimeoutError()") in caplog.text
    with pytest.raises(FrontEndError, match="the direct front end cannot serve"):
        await make("direct")


async def test_another_interface_is_noticed(make, monkeypatch, caplog):
    """A name that is gone or a signature that has changed is a reason to keep off."""
    monkeypatch.setattr(choose, "misfit", lambda: "Server.start takes ('self',)")
    assert await make("auto") == "public"
    assert "Server.start takes" in caplog.text


def test_the_probe_says_what_it_misses(monkeypatch):
    """The names that are used are compared, with their parameters."""
    assert probe.misfit() is None
    monkeypatch.setattr(probe, "_METHODS", {"Call": {"start_server_batch": ("self", "operations")}})
    assert probe.misfit() == (
        "Call.start_server_batch takes ('self', 'operations', 'tag'); expected ('self', 'operations')"
    )
    monkeypatch.setattr(probe, "_METHODS", {})
    monkeypatch.setattr(probe, "_NAMES", {"Call": ("fly",)})
    assert probe.misfit() == "grpc._cython.cygrpc has no Call.fly"
    monkeypatch.setattr(probe, "_MODULE", "grpc._cython.nothing")
    assert "cannot be imported" in probe.misfit()


async def test_a_rehearsal_finds_what_goes_wrong(monkeypatch):
    """A server that answers otherwise than it should does not pass."""
    await rehearsal.rehearse(LOGGER)
    monkeypatch.setattr(Context, "set_trailing_metadata", lambda *_: None)
    with pytest.raises(rehearsal.RehearsalError, match="metadata was set"):
        await rehearsal.rehearse(LOGGER)
