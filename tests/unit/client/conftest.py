"""A fake server for every test that asks for one."""

import pytest

from regard_client import Client
from regard_client.testing import FakeServer


@pytest.fixture
def server():
    with FakeServer() as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.target) as connected:
        yield connected
