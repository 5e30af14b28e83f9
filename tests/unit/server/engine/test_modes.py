"""The engine's modes: each close to the reference, chosen by measurement, and remembered."""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from regard_models import DEFAULT_MODEL, create, load_bundle, save_bundle
from regard_server.engine import Engine, EngineOptions, Mode, openvino_runner
from regard_server.engine import engine as engine_module
from regard_server.engine.invariance import InvarianceError
from regard_server.engine.mode import EAGER, candidates, is_available
from regard_server.engine.openvino_runner import OpenVinoRunner
from regard_server.engine.torch_runner import TorchRunner
from regard_server.work import BatchKey, Work

PIXELS = BatchKey("resnet_tiny", "pixels", 32, 32, "pooled")
TENSOR = BatchKey("resnet_tiny", "tensor", 32, 32, "pooled")
LOGGER = logging.getLogger("engine")
MODES = [mode for mode in candidates("cpu") if mode != EAGER]
COMPILED = [Mode("compiled", "float32"), Mode("compiled", "bfloat16")]


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("resnet_tiny")


def make(bundle, **options):
    engine = Engine(EngineOptions(**{"threads": 1, "max_batch": 8, **options}), LOGGER)
    return engine, engine.load(bundle)


def pictures(count):
    chance = np.random.default_rng(count)
    return [chance.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(count)]


def vectors(engine, batch, key=PIXELS, outputs=("embedding",)):
    (rows,) = engine.run(key, [Work(batch, outputs)])
    return rows.values[outputs[0]]


def test_openvino_is_among_the_candidates():
    """The development environment has it, so that the fastest engine is tested too."""
    assert Mode("openvino", "bfloat16") in MODES


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_mode_stays_close_to_the_reference(bundle, tmp_path, mode, size):
    """Float32 modes agree to rounding, the others in direction, at any batch size."""
    engine, served = make(bundle, engine=mode.engine, dtype=mode.dtype, cache=tmp_path)
    reference, _ = make(bundle)
    batch = pictures(size)
    found, expected = vectors(engine, batch), vectors(reference, batch)
    if mode.dtype == "float32":
        np.testing.assert_allclose(found, expected, atol=1e-4)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / lengths).min() > 0.995
    assert (served.engine, served.compute_dtype) == (mode.engine, mode.dtype)


@pytest.mark.parametrize("name", ["ea_mini", "mhsa_mini", "sk_mini", "da_mini", "epsa_mini", "botnet26t_256"])
def test_every_mechanism_has_a_free_batch_axis(tmp_path, name):
    """A graph that was traced at one batch size serves the others: no mechanism bakes it in."""
    network = create(name, input_size=(64, 64)).eval()
    save_bundle(tmp_path / "model.safetensors", network)
    bundle = load_bundle(tmp_path / "model.safetensors")
    engine, served = make(bundle, engine="openvino", dtype="float32")
    key = BatchKey(served.name, "pixels", 64, 64, "pooled")
    works = [
        Work([np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)], ("embedding",))
        for number in range(5)
    ]
    together = np.concatenate([rows.values["embedding"] for rows in engine.run(key, works)])
    alone = np.concatenate([engine.run(key, [work])[0].values["embedding"] for work in works])
    np.testing.assert_allclose(together, alone, atol=1e-3 * alone.std())


@pytest.mark.parametrize("size", [15, 16, 23, 32, 39, 40])
def test_a_batch_in_pieces_gives_what_it_gives_whole(bundle, monkeypatch, size):
    """Every picture's row comes back in its place, whatever is left over for the last piece."""
    mode, options = Mode("openvino", "float32"), {"max_batch": 40, "cache": None, "logger": LOGGER}
    whole = OpenVinoRunner(bundle, mode, threads=1, **options)
    monkeypatch.setattr(openvino_runner, "_LIGHT", 0)
    monkeypatch.setattr(openvino_runner, "_SLOW_S", 0.0)
    monkeypatch.setattr(openvino_runner, "_DIVIDED_PIXELS", 32 * 32)
    divided = OpenVinoRunner(bundle, mode, threads=2, **options)
    assert divided.pieces(size) == {15: 1, 16: 8, 23: 12, 32: 8, 39: 10, 40: 10}[size]
    batch = np.stack(pictures(size))
    expected = whole.run(PIXELS, batch, ("embedding",))["embedding"]
    for _ in range(2):
        found = divided.run(PIXELS, batch, ("embedding",))["embedding"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 11, 12])
def test_a_batch_in_blocks_gives_what_it_gives_whole(bundle, monkeypatch, size):
    """Every picture's row comes back in its place, whether the last block is full or not."""
    mode, options = Mode("openvino", "float32"), {"max_batch": 12, "cache": None, "logger": LOGGER}
    whole = OpenVinoRunner(bundle, mode, threads=1, **options)
    monkeypatch.setattr(openvino_runner, "_BLOCK_PIXELS", 4 * 32 * 32)
    blocks = OpenVinoRunner(bundle, mode, threads=1, **options)
    assert whole.blocks(size) == [size]
    assert sum(blocks.blocks(size)) == size
    assert blocks.blocks(size)[:-1] == [4] * ((size - 1) // 4)
    batch = np.stack(pictures(size))
    expected = whole.run(PIXELS, batch, ("embedding",))["embedding"]
    for _ in range(2):
        found = blocks.run(PIXELS, batch, ("embedding",))["embedding"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("smallest", "pieces"), [(32 * 32, 8), (32 * 32 + 1, 1)])
def test_batches_of_small_pictures_are_not_divided(bundle, monkeypatch, smallest, pieces):
    """However slow the processor, the network's weights are not read anew for a few small pictures each time."""
    monkeypatch.setattr(openvino_runner, "_LIGHT", 0)
    monkeypatch.setattr(openvino_runner, "_SLOW_S", 0.0)
    monkeypatch.setattr(openvino_runner, "_DIVIDED_PIXELS", smallest)
    mode, options = Mode("openvino", "float32"), {"max_batch": 32, "cache": None, "logger": LOGGER}
    assert OpenVinoRunner(bundle, mode, threads=2, **options).pieces(32) == pieces


def test_the_default_network_has_a_bounded_number_of_batch_sizes(monkeypatch):
    """OpenVINO keeps memory for every size that it has seen: of up to 32 eight remain, however slow the processor."""
    monkeypatch.setattr(openvino_runner, "_SLOW_S", 0.0)
    runner = OpenVinoRunner(
        load_bundle(DEFAULT_MODEL),
        Mode("openvino", "float32"),
        threads=2,
        max_batch=32,
        cache=None,
        logger=LOGGER,
    )
    assert {block for size in range(1, 33) for block in runner.blocks(size)} == set(range(1, 9))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_ready_tensors_are_exact_in_every_mode(bundle, mode):
    """A float tensor's vector is float32's within 1e-5, whatever runs the pictures."""
    engine, _ = make(bundle, engine=mode.engine, dtype=mode.dtype)
    batch = [np.random.default_rng(1).standard_normal((3, 32, 32), np.float32)]
    np.testing.assert_allclose(
        vectors(engine, batch, TENSOR), vectors(make(bundle)[0], batch, TENSOR), atol=1e-5
    )


def test_outputs_that_an_engine_lacks_come_from_the_exact_network(bundle):
    """OpenVINO gives the embedding; maps and logits come in float32 beside it."""
    engine, _ = make(bundle, engine="openvino", dtype="bfloat16")
    batch = pictures(2)
    found = vectors(engine, batch, outputs=("layer2", "embedding"))
    np.testing.assert_allclose(found, vectors(make(bundle)[0], batch, outputs=("layer2",)), atol=1e-4)


def test_the_exact_network_is_made_once_and_not_before_it_is_wanted(bundle, monkeypatch):
    """Two lanes that want it at the same time share one; a start without callers of logits pays nothing."""
    engine, served = make(bundle, engine="folded", dtype="bfloat16")
    engine.warm_up()
    loaded = engine._loaded[served.name]
    building, go = threading.Semaphore(0), threading.Event()

    class Slow(TorchRunner):
        def __init__(self, *arguments, **options):
            building.release()
            assert go.wait(30)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(engine_module, "TorchRunner", Slow)
    with ThreadPoolExecutor(2) as lanes:
        first = lanes.submit(loaded.exact)
        assert building.acquire(timeout=30)
        second = lanes.submit(loaded.exact)
        go.set()
        assert first.result() is second.result()
    assert not building.acquire(blocking=False)


def test_modes_have_fingerprints_of_their_own(bundle):
    """Vectors of two modes are not taken for each other."""
    fingerprints = {
        make(bundle, engine=mode.engine, dtype=mode.dtype)[1].fingerprint for mode in (EAGER, *MODES)
    }
    assert len(fingerprints) == len(MODES) + 1
    assert make(bundle, invariant=True)[1].fingerprint not in fingerprints


def test_a_choice_without_modes_is_an_error(bundle):
    """Settings that nothing fits are not served with something else."""
    with pytest.raises(ValueError, match="cannot run on cpu"):
        make(bundle, engine="eager", dtype="float16")


def test_a_cache_that_cannot_be_written_is_told_of(bundle, tmp_path, caplog):
    """A read-only folder costs the next start its time, nothing else."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    engine, _ = make(bundle, engine="openvino", dtype="auto", cache=blocked)
    assert np.isfinite(vectors(engine, pictures(1))).all()
    assert "cannot be kept" in caplog.text


def test_the_traced_graph_is_kept_and_used_again(bundle, tmp_path, monkeypatch):
    """The second load reads the first one's file, and gives the same bits."""
    first, _ = make(bundle, engine="openvino", dtype="float32", cache=tmp_path)
    (graph,) = tmp_path.iterdir()
    written = graph.read_bytes()
    monkeypatch.setattr(openvino_runner, "_trace", None)
    second, _ = make(bundle, engine="openvino", dtype="float32", cache=tmp_path)
    assert graph.read_bytes() == written
    assert np.array_equal(vectors(first, pictures(2)), vectors(second, pictures(2)))


def test_devices_that_load_at_once_trace_one_after_the_other(bundle, tmp_path):
    """A second tracing in the same process makes torch fail both."""
    with ThreadPoolExecutor(3) as devices:
        loading = [
            devices.submit(make, bundle, engine="openvino", dtype="float32", cache=tmp_path) for _ in range(3)
        ]
        first, *others = [vectors(device.result()[0], pictures(2)) for device in loading]
    assert all(np.array_equal(first, other) for other in others)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_graph_is_traced_anew_and_harms_no_server_that_runs(bundle, tmp_path, caplog):
    """Zeros that a power cut left in place of weights would be answered with otherwise."""
    first, _ = make(bundle, engine="openvino", dtype="float32", cache=tmp_path)
    before = vectors(first, pictures(2))
    (graph,) = tmp_path.iterdir()
    with graph.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))
    assert np.array_equal(vectors(first, pictures(2)), before)
    second, _ = make(bundle, engine="openvino", dtype="float32", cache=tmp_path)
    assert "traced anew" in caplog.text
    assert np.array_equal(vectors(second, pictures(2)), before)
    caplog.clear()
    make(bundle, engine="openvino", dtype="float32", cache=tmp_path)
    assert not caplog.text


@pytest.mark.parametrize("mode", [EAGER, *MODES], ids=str)
def test_invariant_vectors_do_not_depend_on_batchmates(bundle, mode):
    """With `invariant` an image has the same bits alone, in any batch and at any place in it."""
    engine, _ = make(bundle, engine=mode.engine, dtype=mode.dtype, invariant=True)
    batch = pictures(8)
    together, reversed_ = vectors(engine, batch), vectors(engine, batch[::-1])[::-1]
    alone = np.stack([vectors(engine, [each])[0] for each in batch])
    assert np.array_equal(together, alone)
    assert np.array_equal(reversed_, alone)


def test_invariance_that_does_not_hold_is_found_at_start(bundle, monkeypatch):
    """The self-test refuses to serve a promise that the network breaks."""
    engine, _ = make(bundle, invariant=True)
    plain = engine._run
    calls = iter(range(1000))

    def drifting(key, batch):
        return [
            rows._replace(values={"embedding": rows.values["embedding"] + np.float32(next(calls))})
            for rows in plain(key, batch)
        ]

    monkeypatch.setattr(engine, "_run", drifting)
    with pytest.raises(InvarianceError, match="does not give the same bits"):
        engine.warm_up()


def test_invariance_that_holds_lets_the_server_start(bundle):
    """The self-test passes where every image runs alone."""
    engine, _ = make(bundle, invariant=True)
    assert engine.warm_up()


def test_compiled_modes_are_only_taken_when_asked_for():
    """Compiling takes a minute; it is no candidate of "auto" by itself."""
    assert all(mode.engine != "compiled" for mode in candidates("cpu"))
    assert candidates("cpu", engine="compiled") == COMPILED
    assert candidates("cpu", compiled=True) == [*candidates("cpu"), *COMPILED]


@pytest.mark.parametrize(
    ("variable", "named", "path", "found"),
    [
        ("CXX", None, "", False),
        ("CXX", "no-such-compiler", None, False),
        ("CXX", "g++", None, True),
        ("CXX", None, None, True),
    ],
)
def test_compiled_modes_need_the_compiler_that_torch_looks_for(monkeypatch, variable, named, path, found):
    """It is named by CXX or called g++; without one they are not tried."""
    monkeypatch.delenv(variable, raising=False)
    if named is not None:
        monkeypatch.setenv(variable, named)
    if path is not None:
        monkeypatch.setenv("PATH", path)
    assert is_available(COMPILED[0], "cpu") is found


@pytest.mark.timeout(600)  # half a minute of a compiler, where nobody else computes
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler, of torch's own calls
def test_a_compiled_network_gives_what_an_eager_one_does(bundle, tmp_path, monkeypatch):
    """Really compiled, by the C++ compiler that `make test` installs where there is none, and kept in the cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")  # and as it was afterwards, whatever the engine sets
    compiled, served = make(bundle, engine="compiled", dtype="float32", cache=tmp_path, max_batch=1)
    batch = pictures(1)
    found = vectors(compiled, batch)
    np.testing.assert_allclose(found, vectors(make(bundle)[0], batch), atol=1e-4)
    assert (served.engine, served.compute_dtype) == ("compiled", "float32")
    assert list((tmp_path / "inductor").rglob("*.so"))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler, of torch's own calls
def test_what_one_network_has_compiled_does_not_use_up_the_limit_of_another(bundle, monkeypatch):
    """Torch runs the ninth batch size of a function without its compiler, and says so where nobody reads it."""
    compiled = []

    def backend(graph, _example):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for dtype in ("float32", "bfloat16"):
        engine, _ = make(bundle, engine="compiled", dtype=dtype, max_batch=16)
        engine.warm_up()
    assert len(compiled) == 2 * 5  # 1, 2, 4, 8, 16


def test_float16_is_for_gpus():
    """On a CPU it is slow and of little range."""
    assert candidates("cpu", dtype="float16") == []
    assert Mode("folded", "float16") in candidates("cuda")
    assert Mode("compiled", "float16") in candidates("cuda", compiled=True)
