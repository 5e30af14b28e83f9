"""Training on a few steps: it learns, goes on where it stopped, keeps students level, and ships what was learnt."""

import json

import numpy as np
import pytest
import torch

from regard_models import load_bundle
from regard_models.bundle import read_tensors
from regard_models.samples import sample_photographs
from regard_training.evaluate import Figures
from regard_training.loop import (
    Progress,
    Training,
    begin_with_shipped,
    learn,
    learn_slice,
    load_students,
    read_progress,
    train,
    trunk_of,
)
from regard_training.losses import distillation
from regard_training.pool import Pictures, Pool, PoolPlan, complete_chunks, make_pool
from regard_training.shipping import rounded, ship
from regard_training.student import STUDENTS, Recipe, Student

RECIPE = Recipe(side=32, small_side=32, scenes=4, warm_up=2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    plan = PoolPlan(tmp_path_factory.mktemp("pool"), scenes=6, views=2, side=32, teacher_side=64)
    make_pool(plan, 1, Pictures(tuple(sample_photographs())), workers=0)
    return plan.folder


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def training(pool, tmp_path, **changes):
    wanted = {
        "minutes": 1e-4,
        "recipe": RECIPE,
        "students": ("resnet_mini", "ea_mini"),
        "steps": 2,
        "workers": 1,
    }
    return Training(tmp_path / "checkpoints", pool, 2, **(wanted | changes))


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_learns(pool, tmp_path, name):
    """A dozen steps on a handful of scenes lower the sum of the losses."""
    plan = training(pool, tmp_path, steps=1)
    plan.checkpoints.mkdir()
    learn_slice(plan, name, 0.0, 1)
    student = Student.load(plan.checkpoint(name), name, RECIPE, "cpu")
    assert student.step == 1
    drawn = Pool.open(complete_chunks(pool), 2).draw(4, np.random.default_rng(0))
    mean = torch.from_numpy(drawn[1].astype(np.float32).reshape(-1, 1280).mean(0))
    told = [student.learn(drawn, mean, 0.0).total.item() for _ in range(12)]
    assert told[-1] < 0.9 * told[0]


def test_a_run_keeps_students_level_and_goes_on(pool, tmp_path):
    """All end after the same number of steps; more minutes go on from there, the same minutes do nothing."""
    plan = training(pool, tmp_path)
    first = learn(plan)
    assert len(set(first.steps.values())) == 1
    assert read_progress(plan).steps == first.steps
    assert learn(plan).steps == first.steps
    longer = learn(training(pool, tmp_path, minutes=first.spent_s / 60 + 1e-4, workers=2))
    assert min(longer.steps.values()) > max(first.steps.values())
    assert longer.spent_s > first.spent_s


def test_the_trunk_learns_first_and_is_then_left_alone(pool, tmp_path):
    """Students begin from its file, which more minutes do not change."""
    plan = training(pool, tmp_path)
    first = train(plan)
    trunk = plan.checkpoints / "trunk" / "resnet_mini.pt"
    before = trunk.read_bytes()
    spent_s = first.spent_s + read_progress(trunk_of(plan)).spent_s
    longer = train(training(pool, tmp_path, minutes=spent_s / 60 + 1e-3))
    assert min(longer.steps.values()) > max(first.steps.values())
    assert trunk.read_bytes() == before


@pytest.mark.parametrize("name", STUDENTS)
def test_nothing_of_the_trunk_is_lost_where_attention_stands_behind_a_stage(tmp_path, name):
    """Such a student begins with the trunk's own embedding; the others keep every tensor that has a place."""
    trunk = Student("resnet_mini", RECIPE, "cpu")
    with torch.no_grad():
        for parameter in trunk.averaged.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    trunk.save(tmp_path / "trunk.pt")
    student = Student.load(tmp_path / "none.pt", name, RECIPE, "cpu", trunk=tmp_path / "trunk.pt")
    ours, theirs = student.averaged.state_dict(), trunk.averaged.state_dict()
    shared = {key for key, value in theirs.items() if key in ours and ours[key].shape == value.shape}
    assert {"conv1.weight", "layer1.0.bn2.running_mean", "fc.weight"} <= shared
    assert all(torch.equal(ours[key], theirs[key]) for key in shared)
    assert all(torch.equal(value, student.network.state_dict()[key]) for key, value in ours.items())
    if name in {"resnet_mini", "ea_mini", "da_mini"}:
        assert shared == theirs.keys()
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(
            student.averaged.extract(x, ("embedding",)), trunk.averaged.extract(x, ("embedding",))
        )


def test_a_trunk_that_is_missing_is_an_error(tmp_path):
    """No student begins from nothing where it was to begin from a trunk."""
    with pytest.raises(FileNotFoundError, match=r"trunk\.pt"):
        Student.load(tmp_path / "none.pt", "ea_mini", RECIPE, "cpu", trunk=tmp_path / "trunk.pt")


def test_the_student_most_behind_is_next():
    """Who learnt least goes first; who is busy waits; once the time is over only those behind go on."""
    progress = Progress(0.0, {"a": 4, "b": 2, "c": 2})
    names = tuple(progress.steps)
    assert progress.next(names, set(), over=False) == "b"
    assert progress.next(names, {"b"}, over=False) == "c"
    assert progress.next(names, {"b", "c"}, over=True) is None
    assert progress.next(names, set(names), over=False) is None
    assert [progress.due(name, 50, over=True) for name in names] == [0, 2, 2]
    assert progress.due("b", 50, over=False) == 50


def test_the_rate_rises_and_falls_and_images_grow():
    """The rate warms up by steps and falls with time to nothing; the images become larger near the end."""
    recipe = Recipe()
    assert recipe.rate_at(0, 0.0) < recipe.rate_at(recipe.warm_up, 0.0) == recipe.rate
    assert recipe.rate_at(1000, 0.5) == pytest.approx(recipe.rate / 2)
    assert recipe.rate_at(1000, 1.5) == pytest.approx(0)
    assert (recipe.side_at(0.0), recipe.side_at(1.0)) == (recipe.small_side, recipe.side)


def test_a_perfect_student_has_nothing_left_to_copy():
    """With the teacher's classes and features the first two losses are nothing, and telling scenes apart pays."""
    features = torch.randn(8, 1280).repeat(2, 1)
    logits = torch.randn(16, 1000)
    mapping = torch.nn.Linear(1280, 1280)
    torch.nn.init.eye_(mapping.weight)
    torch.nn.init.zeros_(mapping.bias)
    terms = distillation(features, logits, features, logits, mapping)
    assert terms.classes.item() == pytest.approx(0, abs=1e-5)
    assert terms.features.item() == pytest.approx(0, abs=1e-5)
    confused = distillation(features[:1].repeat(16, 1), logits, features, logits, mapping)
    assert terms.scenes < confused.scenes


def test_what_is_shipped_comes_back(tmp_path):
    """A file is half the size, loads as trained, gives what was measured, and says where it comes from."""
    student = Student("ea_mini", RECIPE, "cpu")
    figures = Figures(0.9, 0.01, 0.93, 0.95, 0.6, 0.3, 0.5, 0.7)
    path = ship(student, figures, tmp_path)
    assert path.stat().st_size < 6e6
    bundle = load_bundle(path)
    assert bundle.trained
    assert bundle.weights == "ea_mini.safetensors: distilled, recall@1 0.900, categories 0.600"
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(bundle.model(x), rounded(student)(x))
    tensors, metadata = read_tensors(path)
    assert {each.dtype for each in tensors.values() if each.is_floating_point()} == {torch.float16}
    assert json.loads(metadata["figures"])["recall_at_1"] == 0.9
    assert {"teacher", "recipe", "data", "licence"} <= metadata.keys()
    assert metadata["history"] == "[]"


def test_training_can_begin_with_what_is_shipped(pool, tmp_path):
    """Students without a checkpoint begin with the shipped weights and learn on; one that has learnt is left alone."""
    plan = training(pool, tmp_path, students=("ea_mini",))
    begin_with_shipped(plan)
    (student,) = load_students(plan)
    shipped = load_bundle("ea_mini").model.state_dict()
    assert all(torch.equal(value, shipped[key]) for key, value in student.averaged.state_dict().items())
    assert student.history[-1]["weights_sha256"] == load_bundle("ea_mini").weights_sha256
    train(plan)
    begin_with_shipped(plan)
    (learnt,) = load_students(plan)
    assert learnt.step > 0
    assert not torch.equal(learnt.network.state_dict()["fc.weight"], shipped["fc.weight"])


def test_what_was_learnt_before_stays_on_record(pool, tmp_path):
    """Training that began with shipped weights, and is stopped and shipped twice, tells of every one before it."""
    figures = Figures(0.9, 0.01, 0.93, 0.95, 0.6, 0.3, 0.5, 0.7)
    digests, steps = [], []
    folder = tmp_path / "0"
    student = Student("ea_mini", RECIPE, "cpu")
    for number in range(1, 4):
        path = ship(student, figures, folder, before={"chunks": number})
        digests.append(load_bundle(path).weights_sha256)
        steps.append(student.step)
        plan = training(pool, tmp_path / str(number), students=("ea_mini",), steps=number)
        plan.checkpoints.mkdir(parents=True)
        Student.shipped("ea_mini", RECIPE, "cpu", folder).save(plan.checkpoint("ea_mini"))
        learn_slice(plan, "ea_mini", 0.0, number)
        (student,) = load_students(plan)
        folder = tmp_path / str(number)
    _, metadata = read_tensors(ship(student, figures, folder))
    history = json.loads(metadata["history"])
    assert [each["weights_sha256"] for each in history] == digests
    assert [each["recipe"]["steps"] for each in history] == steps == [0, 1, 2]
    assert [each["recipe"]["chunks"] for each in history] == [1, 2, 3]
    assert all(each["figures"]["recall_at_1"] == 0.9 for each in history)
    assert json.loads(metadata["recipe"])["steps"] == 3


def test_students_that_have_learnt_nothing_are_not_loaded_to_be_shipped(pool, tmp_path):
    """Where training was stopped in the trunk, nothing is measured or written."""
    with pytest.raises(FileNotFoundError, match="nothing learnt yet by resnet_mini, ea_mini"):
        load_students(training(pool, tmp_path))


def test_weights_that_do_not_fit_are_not_shipped(tmp_path):
    """A number beyond float16 is refused by its key."""
    student = Student("resnet_mini", RECIPE, "cpu")
    student.averaged.bn1.running_var[0] = 1e6
    with pytest.raises(ValueError, match=r"bn1\.running_var"):
        ship(student, Figures(0, 0, 0, 0, 0), tmp_path)
    assert not list(tmp_path.iterdir())
