"""What the benchmarks' other servers host, in both of their modes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from regard_models import Preprocessing, create, save_bundle

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"
SERVE = """
import sys
from work import Reader, Work
reader = Reader()
pictures = [reader.read(bytes([value]) * (32 * 32 * 3)) for value in (0, 200)]
sys.stdout.buffer.write(b"".join(Work().run(pictures)))
"""


@pytest.mark.parametrize("mode", ["default", "same"])
def test_every_picture_gets_an_embedding_of_its_own(tmp_path, mode):
    """Whatever framework is around it, the work gives each of a batch its vector, and other pictures others."""
    model = tmp_path / "tiny.safetensors"
    save_bundle(model, create("resnet_tiny"), preprocessing=Preprocessing(32, 32, 32), source="test")
    told = {"PEER_CASE": "tiny", "PEER_MODEL": str(model), "PEER_MODE": mode, "PEER_PORT": "0"}
    told["XDG_CACHE_HOME"] = str(tmp_path)
    served = subprocess.run(
        [sys.executable, "-c", SERVE],
        env={**os.environ, **told, "PYTHONPATH": str(PEERS)},
        stdout=subprocess.PIPE,
        check=True,
    )
    black, grey = np.frombuffer(served.stdout, np.float32).reshape(2, -1)
    assert np.isfinite([black, grey]).all()
    assert not np.allclose(black, grey)
