"""The engine: a real small network, and stand-ins only where a fault is wanted."""

import logging

import numpy as np
import pytest
import torch

from regard_models import load_bundle
from regard_server.engine import Engine, EngineOptions
from regard_server.errors import NonFiniteOutputError, OutOfMemoryError
from regard_server.work import BatchKey, Work

PIXELS = BatchKey("resnet_tiny", "pixels", 32, 32, "pooled")
TENSOR = BatchKey("resnet_tiny", "tensor", 32, 32, "pooled")
CHANCE = np.random.default_rng(0)


class Watched:
    """A network that remembers what it was asked, and may be given a fault."""

    def __init__(self, network, fault=lambda _x: None):
        self.network = network
        self.fault = fault
        self.asked = []

    def extract(self, x, outputs):
        self.asked.append((len(x), tuple(outputs)))
        self.fault(x)
        return self.network.extract(x, outputs)


def make_engine(**options):
    return Engine(EngineOptions(**{"threads": 1, "max_batch": 4, **options}), logging.getLogger("engine"))


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("resnet_tiny")


@pytest.fixture
def engine(bundle):
    threads = torch.get_num_threads()
    engine = make_engine()
    engine.load(bundle)
    yield engine
    torch.set_num_threads(threads)


@pytest.fixture
def watch(engine):
    """Put a watched network in the place of the loaded one."""

    def watch(fault=lambda _x: None):
        module = engine._loaded["resnet_tiny"].runner._module
        watched = Watched(module.network, fault)
        del module.network  # a submodule's place takes no stand-in
        module.network = watched
        return watched

    return watch


def run(engine, key, works):
    """Run works of one picture each; return the outputs of each without the images' axis, or its error."""
    return [
        rows.broken[0] if rows.broken else {name: values[0] for name, values in rows.values.items()}
        for rows in engine.run(key, works)
    ]


def picture():
    return CHANCE.integers(0, 256, (32, 32, 3), np.uint8)


def tensor():
    return CHANCE.standard_normal((3, 32, 32), np.float32)


@torch.inference_mode()
def expected(bundle, picture, output="embedding"):
    """Return what the network itself gives, by the textbook: scale to 0…1, subtract, divide."""
    x = torch.from_numpy(picture)
    if picture.dtype == np.uint8:
        mean, std = (
            torch.tensor(getattr(bundle.preprocessing, name)).view(3, 1, 1) for name in ("mean", "std")
        )
        x = (x.permute(2, 0, 1) / 255 - mean) / std
    return bundle.model.extract(x[None], [output])[output][0].numpy()


def test_loading_describes_the_model(engine, bundle):
    """The description has everything that the catalogue and the fingerprint need."""
    served = engine.load(bundle)
    assert (served.name, served.trained, served.device) == ("resnet_tiny", False, "cpu")
    assert (served.compute_dtype, served.engine) == ("float32", "eager")
    assert served.weights_sha256 == bundle.weights_sha256
    assert set(served.outputs) == set(bundle.model.outputs)
    assert load_bundle("resnet_tiny").model.spec.to_json() == served.architecture


def test_the_seed_shows_in_the_fingerprint(engine, bundle):
    """Other weights are another model."""
    first = engine.load(bundle).fingerprint
    assert engine.load(load_bundle("resnet_tiny")).fingerprint == first
    assert engine.load(load_bundle("resnet_tiny", seed=1)).fingerprint != first


def test_pixels_are_normalised_as_the_model_says(engine, bundle):
    """A byte picture gives what the network gives for the normalised one."""
    pixels = picture()
    (row,) = run(engine, PIXELS, [Work([pixels], ("embedding",))])
    np.testing.assert_allclose(row["embedding"], expected(bundle, pixels), atol=1e-5)


def test_tensors_go_in_as_they_are(engine, bundle):
    """A ready tensor is not normalised again."""
    values = tensor()
    (row,) = run(engine, TENSOR, [Work([values], ("embedding",))])
    np.testing.assert_allclose(row["embedding"], expected(bundle, values), atol=1e-5)


def test_batchmates_do_not_change_a_row(engine):
    """Each picture's row is that of the picture alone."""
    works = [Work([picture()], ("embedding",)) for _ in range(4)]
    together = run(engine, PIXELS, works)
    for work, row in zip(works, together, strict=True):
        (alone,) = run(engine, PIXELS, [work])
        np.testing.assert_allclose(row["embedding"], alone["embedding"], atol=1e-5)


def test_batchmates_may_ask_for_different_things(engine, bundle, watch):
    """Everybody gets what he asked for, in one pass, and what nobody asked for is not computed."""
    watched = watch()
    pixels = picture()
    first, second = run(
        engine, PIXELS, [Work([pixels], ("logits",)), Work([pixels], ("layer1", "embedding"))]
    )
    assert watched.asked == [(2, ("logits", "layer1", "embedding"))]
    assert [list(first), list(second)] == [["logits"], ["layer1", "embedding"]]
    np.testing.assert_allclose(first["logits"], expected(bundle, pixels, "logits"), atol=1e-5)
    np.testing.assert_allclose(second["layer1"], expected(bundle, pixels, "layer1"), atol=1e-5)
    assert second["layer1"].shape == bundle.model.outputs["layer1"].shape


def test_warming_up_runs_the_smallest_and_the_largest_batch(engine, watch):
    """No caller pays for what a first run costs."""
    watched = watch()
    engine.warm_up()
    assert sorted({size for size, _ in watched.asked}) == [1, 2, 4]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_an_error_for_its_image_alone(engine, watch, broken):
    """NaN and infinity never become a vector, and the batchmates' vectors are what they would be."""
    good = Work([np.full((3, 32, 32), 0.5, np.float32)], ("embedding",))
    bad = Work([np.full((3, 32, 32), 9.0, np.float32)], ("embedding",))

    def spoil(x):
        x[x == 9.0] = broken

    (alone,) = run(engine, TENSOR, [good])
    watch(spoil)
    rows = run(engine, TENSOR, [good, bad, good])
    assert isinstance(rows[1], NonFiniteOutputError)
    assert "embedding" in rows[1].message
    for row in (rows[0], rows[2]):
        np.testing.assert_allclose(row["embedding"], alone["embedding"], atol=1e-5)


def test_only_the_outputs_asked_for_are_guarded(engine, watch):
    """An infinite logit is no reason to withhold a sound embedding from somebody who did not ask for it."""
    watched = watch()
    network = watched.network

    class Half:
        def extract(self, x, outputs):
            found = dict(network.extract(x, outputs))
            found["logits"] = torch.full_like(found["logits"], float("inf"))
            return found

    watched.network = Half()
    works = [Work([picture()], ("embedding",)), Work([picture()], ("logits",))]
    first, second = run(engine, PIXELS, works)
    assert list(first) == ["embedding"]
    assert isinstance(second, NonFiniteOutputError)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no room"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: …"
        ),
        RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223: std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["CUDA", "numpy", "torch", "OpenVINO", "oneDNN", "cuDNN"],
)
def test_a_batch_that_memory_does_not_hold_is_split_until_it_does(engine, watch, caplog, error):
    """Everybody is answered, in order, in batches that fit, and the split is logged, whoever wanted memory."""

    def exhaust(x):
        if len(x) > 3:
            raise error

    works = [Work([picture()], ("embedding",)) for _ in range(10)]
    alone = [run(engine, PIXELS, [work])[0]["embedding"] for work in works]
    watched = watch(exhaust)
    rows = run(engine, PIXELS, works)
    for row, vector in zip(rows, alone, strict=True):
        np.testing.assert_allclose(row["embedding"], vector, atol=1e-5)
    assert max(size for size, _ in watched.asked if size <= 3) == 3
    assert "out of memory at a batch of 10" in caplog.text


def test_an_image_that_does_not_fit_even_alone_fails_alone(engine, watch):
    """Splitting ends at one image, which gets an error; the others are answered."""

    def exhaust(x):
        if (x == 9.0).any():
            raise torch.OutOfMemoryError("no room")

    watch(exhaust)
    good, bad = (Work([np.full((3, 32, 32), value, np.float32)], ("embedding",)) for value in (0.5, 9.0))
    rows = run(engine, TENSOR, [good, bad, good, good])
    assert [isinstance(row, OutOfMemoryError) for row in rows] == [False, True, False, False]


def test_a_bug_of_the_network_is_not_hidden(engine, watch):
    """Any other exception leaves as it is, for the batcher to log."""

    def fail(_x):
        raise RuntimeError("a bug")

    watch(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run(engine, PIXELS, [Work([picture()], ("embedding",))])


def test_networks_of_several_names_stand_side_by_side(engine):
    """Each key's own model answers."""
    engine.load(load_bundle("resnet_tiny", name="other", seed=1))
    pixels = picture()
    (first,) = run(engine, PIXELS, [Work([pixels], ("embedding",))])
    (second,) = run(engine, BatchKey("other", "pixels", 32, 32, "pooled"), [Work([pixels], ("embedding",))])
    assert np.abs(first["embedding"] - second["embedding"]).max() > 1e-3


@pytest.mark.parametrize(
    ("policy", "threads", "told"),
    [(None, 2, True), ("ACTIVE", 2, True), ("passive", 2, False), ("PASSIVE", 2, False), (None, 1, False)],
)
def test_whoever_hosts_the_engine_is_told_of_threads_that_spin(monkeypatch, caplog, policy, threads, told):
    """Several threads that would spin while they wait are worth a warning that names what to set."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    make_engine(threads=threads).warm_up()
    assert ["OMP_WAIT_POLICY to PASSIVE" in line for line in caplog.messages] == [True] * told
