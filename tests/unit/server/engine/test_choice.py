"""The choice of a mode: by what was measured, for what is asked now, alike on devices and replicas of a kind."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from regard_models import load_bundle
from regard_server.engine import Bounds, Engine, EngineOptions, Mode, Profiles
from regard_server.engine.choice import choose, find_choice
from regard_server.engine.mode import EAGER, FOLDED, candidates
from regard_server.engine.profile import Measurement, Profile, profile_key

LOGGER = logging.getLogger("engine")
CPU = torch.device("cpu")
FOLDED_HALF, OPENVINO, OPENVINO_HALF = (
    Mode("folded", "bfloat16"),
    Mode("openvino", "float32"),
    Mode("openvino", "bfloat16"),
)
COMPILED, COMPILED_HALF = Mode("compiled", "float32"), Mode("compiled", "bfloat16")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("resnet_tiny")


def options(**changes):
    return EngineOptions(**{"threads": 1, "max_batch": 8, "engine": "auto", "dtype": "auto", **changes})


def measured(mode, images_per_s=100.0, cosine=1.0, alone_s=0.01):
    return Measurement(mode, images_per_s, alone_s, cosine, cosine)


def key_of(bundle, device="cpu", threads=1, max_batch=8):
    return profile_key(bundle, device=device, threads=threads, max_batch=max_batch)


class Builders:
    """Builds real runners, and remembers which."""

    def __init__(self, bundle, folder):
        self._bundle = bundle
        self.profiles = Profiles(folder, LOGGER)
        self.built = []

    def find(self, *, again=False, **changes):
        self.built = []
        engine = Engine(options(**changes), LOGGER)

        def build(mode):
            self.built.append(mode)
            return engine._build(self._bundle, mode)

        return find_choice(
            self._bundle,
            CPU,
            options(**changes),
            build,
            profiles=self.profiles,
            logger=LOGGER,
            again=again,
        )


@pytest.fixture
def builders(bundle, tmp_path):
    return Builders(bundle, tmp_path)


@pytest.mark.parametrize(
    ("modes", "chosen"),
    [
        ([measured(EAGER), measured(FOLDED_HALF, 200), measured(OPENVINO_HALF, 500)], OPENVINO_HALF),
        ([measured(EAGER), measured(FOLDED_HALF, 200), measured(OPENVINO_HALF, 500, 0.98)], FOLDED_HALF),
        ([measured(EAGER), measured(FOLDED_HALF, 200, 0.95), measured(OPENVINO_HALF, 500, 0.95)], EAGER),
        ([measured(FOLDED_HALF, 200, 0.95)], EAGER),
        ([measured(EAGER), measured(FOLDED, 109), measured(OPENVINO, 91)], EAGER),
        ([measured(EAGER), measured(FOLDED, 109), measured(OPENVINO, 118)], FOLDED),  # a tie with the fastest
        ([measured(EAGER), measured(FOLDED, 116)], FOLDED),
    ],
)
def test_the_fastest_mode_that_is_close_enough_is_chosen(modes, chosen):
    """Speed decides among those within the bounds; of equals within 15 % the first one is taken."""
    profile = Profile(tuple(modes))
    assert choose([each.mode for each in modes], profile, options(bounds=Bounds(0.999, 0.995))) == chosen


def test_where_images_run_alone_the_fastest_is_who_runs_one_the_fastest():
    """Invariant mode runs no batches."""
    modes = (measured(EAGER, 100, alone_s=0.01), measured(FOLDED, 300, alone_s=0.02))
    profile = Profile(modes)
    assert choose([EAGER, FOLDED], profile, options()) == FOLDED
    assert choose([EAGER, FOLDED], profile, options(invariant=True)) == EAGER


@pytest.mark.parametrize("narrower", [{"engine": "folded"}, {"dtype": "float32"}])
def test_a_start_with_a_narrower_question_does_not_decide_for_later_ones(builders, narrower):
    """What it left out is measured by the first start that does not."""
    builders.find(**narrower)
    builders.find()
    assert set(builders.built) >= {OPENVINO_HALF}
    before = builders.find().profile
    assert {each.mode for each in before.measured} == set(candidates("cpu"))


def test_what_is_known_is_not_measured_again(builders):
    """A later start measures what is missing, beside eager float32, and nothing if nothing is."""
    builders.find(engine="folded")
    builders.find()
    assert FOLDED not in builders.built
    for question in ({}, {"engine": "folded"}, {"dtype": "bfloat16"}, {"bounds": Bounds(1.0, 1.0)}):
        builders.find(**question)
        assert not builders.built


def test_bounds_are_todays(bundle, builders):
    """Raised after a start, they overrule what it chose, without measuring."""
    builders.profiles.keep(
        key_of(bundle),
        Profile(tuple(measured(mode) for mode in (EAGER, FOLDED, OPENVINO)), (FOLDED_HALF,)).joined(
            Profile((measured(OPENVINO_HALF, 300, 0.99995),))
        ),
    )
    assert builders.find().mode == OPENVINO_HALF
    assert builders.find(bounds=Bounds(0.999999, 0.999999)).mode == EAGER
    assert not builders.built


def test_a_mode_that_failed_is_not_tried_at_every_start(bundle, builders):
    """It is known to fail, until `regard profile` looks again."""
    known = tuple(measured(mode) for mode in candidates("cpu") if mode != FOLDED)
    builders.profiles.keep(key_of(bundle), Profile(known, (FOLDED,)))
    assert builders.find().mode == EAGER
    assert not builders.built


def test_compiled_modes_take_part_once_they_were_measured(bundle, builders):
    """They are never measured for "auto" at a start; but the fastest in a profile is served."""
    everything = [*candidates("cpu"), COMPILED]
    known = tuple(measured(mode, 500 if mode == COMPILED else 100) for mode in everything)
    builders.profiles.keep(key_of(bundle), Profile(known[:-1]))
    assert builders.find().mode == EAGER
    builders.profiles.keep(key_of(bundle), Profile(known))
    assert builders.find().mode == COMPILED
    assert builders.find(dtype="bfloat16").mode != COMPILED
    assert not builders.built


def test_profiling_measures_compiled_modes_too(builders, monkeypatch):
    """`regard profile` has all the time, and measures what was measured before anew."""
    asked = []

    def measure(_bundle, modes, _build, *, timed_s, **_options):
        asked.append((list(modes), timed_s))
        return Profile(tuple(measured(mode) for mode in modes))

    monkeypatch.setattr("regard_server.engine.choice.measure", measure)  # compiling takes minutes
    quick = [*candidates("cpu")]
    builders.find()
    builders.find(again=True)
    builders.find()
    assert asked == [(quick, 0.4), ([*quick, COMPILED, COMPILED_HALF], 4.0)]


def test_measurements_of_another_day_are_told_in_todays_pace():
    """Eager float32 takes twice as long now; so does, supposedly, what was measured then."""
    before = Profile((measured(EAGER, 100, alone_s=0.01), measured(FOLDED, 150, alone_s=0.008)), (OPENVINO,))
    after = before.joined(
        Profile((measured(EAGER, 50, alone_s=0.03), measured(OPENVINO, 90)), (OPENVINO_HALF,))
    )
    assert after.of(EAGER) == measured(EAGER, 50, alone_s=0.03)
    folded = after.of(FOLDED)
    assert (folded.images_per_s, folded.alone_s) == pytest.approx((75, 0.024))
    assert after.of(OPENVINO) == measured(OPENVINO, 90)
    assert after.failed == (OPENVINO_HALF,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"measured": []}',
        '{"chosen": {"engine": "eager", "dtype": "float32"}, "measured": []}',
    ],
)
def test_a_damaged_profile_is_measured_again(tmp_path, text):
    """A file that cannot be read is no profile."""
    path = tmp_path / "profile.json"
    path.write_text(text)
    assert Profile.load(path) is None


def test_a_profile_survives_its_file(tmp_path):
    """What is kept is what another process finds."""
    profile = Profile((measured(OPENVINO_HALF, 10.0, 0.9999),), (FOLDED,))
    Profiles(tmp_path / "folder", LOGGER).keep("key", profile)
    assert Profiles(tmp_path / "folder", LOGGER).find("key") == profile


def test_a_profile_belongs_to_a_kind_of_device_and_a_largest_batch(bundle):
    """Other threads or another largest batch are measured anew."""
    keys = {
        key_of(bundle),
        key_of(bundle, device="NVIDIA H200"),
        key_of(bundle, threads=2),
        key_of(bundle, max_batch=16),
    }
    assert len(keys) == 4


def test_gpus_of_one_kind_share_a_profile(bundle, monkeypatch):
    """Whatever their numbers: two of them come to one choice."""
    names = {0: "NVIDIA H200", 1: "NVIDIA H200", 2: "Tesla T4"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    asked = []

    class Asked(Profiles):
        def find(self, key):
            asked.append(key)
            return Profile(tuple(measured(mode) for mode in candidates("cuda")))

    for number in names:
        find_choice(
            bundle,
            torch.device("cuda", number),
            options(),
            None,  # nothing is to be built
            profiles=Asked(None, LOGGER),
            logger=LOGGER,
        )
    first, second, other = asked
    assert first == second != other


@pytest.mark.parametrize("shares", ["folder", "memory"])
def test_those_who_start_together_choose_together(bundle, tmp_path, shares):
    """Replicas by their folder, devices of a process by its memory: one measures, the others wait for what it finds."""
    engine = Engine(options(), LOGGER)
    memory = Profiles(None, LOGGER)
    began, others, builders = threading.Event(), threading.Event(), []

    def find(name):
        def build(mode):
            builders.append(name)
            began.set()
            assert others.wait(30)
            return engine._build(bundle, mode)

        profiles = Profiles(tmp_path, LOGGER) if shares == "folder" else memory
        return find_choice(bundle, CPU, options(), build, profiles=profiles, logger=LOGGER)

    with ThreadPoolExecutor(2) as replicas:
        first = replicas.submit(find, "first")
        assert began.wait(30)
        second = replicas.submit(find, "second")
        others.set()
        assert second.result() == first.result()
    assert set(builders) == {"first"}


def test_a_start_that_knows_everything_does_not_wait_for_one_who_measures(bundle, builders, tmp_path):
    """`regard profile` may take minutes beside a server that restarts."""
    builders.profiles.keep(key_of(bundle), Profile(tuple(measured(mode) for mode in candidates("cpu"))))
    with Profiles(tmp_path, LOGGER).turn(key_of(bundle)):
        assert builders.find().mode == EAGER


def test_measuring_uses_the_threads_that_are_asked_for(bundle):
    """`regard profile --threads 1` measures one thread, as the server will run."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Engine(options(engine="eager", dtype="float32"), LOGGER).choose(bundle)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
