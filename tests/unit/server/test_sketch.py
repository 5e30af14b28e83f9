"""What is said of recent embeddings, against samples whose answer is known."""

import numpy as np
import pytest
from safetensors.numpy import save

from regard_server.sketch import Reference, Window


def directions(count, dimensions=32, *, centre=0.0, seed=0):
    """Unit vectors around a centre in the first dimension."""
    rows = np.random.default_rng(seed).normal(size=(count, dimensions))
    rows[:, 0] += centre
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def window(rows, size=None):
    made = Window(size or len(rows))
    for row in rows:
        made.add(row)
    return made


def test_similarity_is_the_mean_cosine_of_all_pairs():
    """The shortcut through the sum says the same as every pair by itself."""
    rows = directions(20, centre=3.0)
    pairs = (rows @ rows.T)[np.triu_indices(20, 1)]
    assert window(rows).summary().similarity == pytest.approx(pairs.mean(), abs=1e-6)


@pytest.mark.parametrize("dimensions", [1, 3, 8])
def test_rank_counts_the_directions_that_vary(dimensions):
    """Embeddings that vary alike in so many orthogonal directions have that rank, whatever the space they live in."""
    rows = np.zeros((128, 64))
    for index, row in enumerate(rows):
        row[20 + index % dimensions] = 0.1 * (-1) ** (index // dimensions)
    assert window(rows[: 128 - 128 % (2 * dimensions)]).rank() == pytest.approx(dimensions, rel=1e-3)


def test_identical_embeddings_have_collapsed():
    """The same vector over and over has similarity 1 and no rank."""
    same = window(np.repeat(directions(1, 512), 64, axis=0))
    assert same.summary().similarity == pytest.approx(1.0)
    assert same.rank() == 0.0


def test_a_window_forgets():
    """Only the last ones count."""
    made = window(np.vstack([directions(50, centre=-9.0), directions(30, centre=9.0, seed=1)]), size=20)
    assert len(made) == 20
    expected = Reference(directions(30, centre=9.0, seed=1)[-20:].mean(axis=0), 20)
    assert np.allclose(made.summary().mean, expected.mean, atol=1e-6)


def test_two_samples_of_one_kind_have_not_drifted():
    """What two samples differ by chance is not taken for drift, be they large or small."""
    reference = Reference(directions(512, centre=4.0).mean(axis=0), 512)
    found = [
        reference.drift(Reference(directions(128, centre=4.0, seed=seed).mean(axis=0), 128))
        for seed in range(1, 20)
    ]
    assert np.mean(found) < 0.05


def test_drift_grows_with_the_distance():
    """The further the mean moves, the more; to the opposite side is more than one spread."""
    reference = Reference(directions(512, centre=4.0).mean(axis=0), 512)
    found = [
        reference.drift(Reference(directions(128, centre=centre, seed=1).mean(axis=0), 128))
        for centre in (4.0, 3.0, 2.0, 0.0, -4.0)
    ]
    assert found == sorted(found)
    assert found[0] < 0.1
    assert found[1] > 0.1
    assert found[-1] > 1.0


def test_a_reference_without_spread_gives_a_finite_drift():
    """Where everything was one image at first, the next ones are far away, not infinitely."""
    row = directions(1)[0]
    drift = Reference(row, 100).drift(Reference(directions(100, seed=1).mean(axis=0), 100))
    assert 10 < drift < 1000


def test_a_reference_survives_its_file(tmp_path):
    """What was written is read, to the bit, and whoever writes second leaves the first one's file alone."""
    path = tmp_path / "new" / "reference"
    made = Reference(directions(64).mean(axis=0), 64)
    assert made.save(path)
    assert not Reference(directions(64, seed=1).mean(axis=0), 64).save(path)
    read = Reference.load(path, 32)
    assert (read.mean == made.mean).all()
    assert read.count == 64
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a reference",
        save({"mean": np.zeros(32), "other": np.array(3)}),
        save({"mean": np.zeros(31), "count": np.array(3)}),
        save({"mean": np.full(32, np.nan), "count": np.array(3)}),
        save({"mean": np.zeros(32, np.float32), "count": np.array(3)}),
        save({"mean": np.zeros(32), "count": np.array(1)}),
        save({"mean": np.zeros(32), "count": np.array([3, 4])}),
    ],
)
def test_a_file_that_is_no_reference_is_said_so(tmp_path, content):
    """Whatever lies there, it is one clear error."""
    path = tmp_path / "reference"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        Reference.load(path, 32)
