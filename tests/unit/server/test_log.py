"""What a log line looks like."""

import json
import logging
import sys

import pytest
from PIL import Image

from regard_server.log import configure_logging
from regard_server.request_id import begin_request


@pytest.fixture(autouse=True)
def root():
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def lines(capsys):
    def read():
        return capsys.readouterr().err.splitlines()

    return read


def test_text_says_when_how_grave_who_and_what(lines):
    """A line of text carries time, level, logger and message, and nothing goes to standard output."""
    configure_logging("info", "text").info("loaded %s", "resnet_tiny")
    (line,) = lines()
    assert line.endswith("INFO regard: loaded resnet_tiny")


def test_json_is_one_object_a_line_even_for_a_traceback(lines):
    """JSON logs stay one line an event, the traceback inside."""
    logger = configure_logging("info", "json")
    try:
        int([])
    except TypeError:
        logger.exception("it failed\nbadly")
    (line,) = lines()
    event = json.loads(line)
    assert (event["level"], event["logger"], event["message"]) == ("error", "regard", "it failed\nbadly")
    assert "TypeError: int() argument" in event["traceback"]
    assert "request_id" not in event


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_line_of_a_request_carries_its_id(lines, form):
    """Whatever is logged in a request's task names the request."""
    logger = configure_logging("info", form)
    begin_request([("x-request-id", "abc-1")])
    logger.info("decoded")
    (line,) = lines()
    assert json.loads(line)["request_id"] == "abc-1" if form == "json" else line.endswith(" request=abc-1")


def test_the_level_is_the_servers_own(lines):
    """Other libraries speak up from warnings on, the server from its configured level on."""
    logger = configure_logging("error", "text")
    logger.warning("not said")
    logging.getLogger("other").info("not said either")
    logging.getLogger("other").warning("said")
    assert [line.rpartition(" ")[2] for line in lines()] == ["said"]
    assert logger.handlers == []
    assert logging.getLogger().handlers[0].stream is sys.stderr


def test_a_picture_cannot_write_the_log(lines):
    """What the decoder finds odd in a caller's file is not news, and not remembered for each odd file."""
    configure_logging("info", "text")
    odd = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0"
    Image.Exif().load(odd)
    assert lines() == []
