"""What one call asks, as what others are told apart by."""

import os
import pickle
import subprocess
import sys

import pytest

from regard_client.query import Query


@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_query_of_another_process_is_found(seed):
    """Equal queries are one key, also where the other was made by a process that hashes strings otherwise."""
    code = (
        "import pickle, sys; from regard_client.query import Query;"
        "sys.stdout.buffer.write(pickle.dumps(Query('m')))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    made = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
    query = pickle.loads(made.stdout)  # noqa: S301 - our own
    assert {Query("m"): "found"}.get(query) == "found"
    assert query != Query("n")
