"""The catalogue: names, states and fingerprints."""

import dataclasses

import pytest
from served_models import TINY

from regard_models import OutputInfo, Preprocessing
from regard_server.catalog import Catalog, ModelState
from regard_server.errors import ModelNotFoundError, UnavailableError, UnknownOutputError

EMBEDDING = OutputInfo("embedding", "embedding", (64,), ("channel",), "the vector")
LOGITS = OutputInfo("logits", "logits", (10,), ("class",), "the scores")
MODEL = dataclasses.replace(
    TINY, preprocessing=Preprocessing(32, 32, 32), outputs={"embedding": EMBEDDING, "logits": LOGITS}
)


@pytest.fixture
def catalog():
    catalog = Catalog(["tiny", "resnet50"])
    catalog.add(MODEL)
    return catalog


def test_equal_models_have_equal_fingerprints():
    """The fingerprint is 64 hexadecimal digits and depends on nothing but the model."""
    assert dataclasses.replace(MODEL).fingerprint == MODEL.fingerprint
    assert len(MODEL.fingerprint) == 64
    assert int(MODEL.fingerprint, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "cd" * 32},
        {"architecture": '{"depth":2}'},
        {"preprocessing": Preprocessing(32, 32, 36)},
        {"preprocessing": Preprocessing(32, 32, 32, "bicubic")},
        {"preprocessing": Preprocessing(32, 32, 32, mean=(0.5, 0.5, 0.5))},
        {"outputs": {"embedding": EMBEDDING}},
        {"outputs": {"embedding": dataclasses.replace(EMBEDDING, shape=(65,)), "logits": LOGITS}},
        {"compute_dtype": "bfloat16"},
        {"engine": "compiled"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_vectors_changes_the_fingerprint(change):
    """Weights, architecture, preprocessing, outputs, dtype and engine are all in it."""
    assert dataclasses.replace(MODEL, **change).fingerprint != MODEL.fingerprint


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"weights": "tiny.safetensors"}, {"device": "cuda:0"}, {"trained": True}]
)
def test_what_does_not_change_the_vectors_does_not_change_the_fingerprint(change):
    """A model's name, its label and its place may differ between replicas."""
    assert dataclasses.replace(MODEL, **change).fingerprint == MODEL.fingerprint


def test_a_fingerprint_is_stable_across_releases():
    """A fingerprint stored beside vectors stays valid: this one was computed by the first release."""
    assert MODEL.fingerprint[:16] == "2636882a05a33cef"


def test_the_first_model_is_the_default(catalog):
    """An empty name stands for the first one that was configured."""
    catalog.set_states(ModelState.READY)
    assert catalog.default == "tiny"
    assert catalog.find("") == catalog.find("tiny") == (MODEL, MODEL.fingerprint)


def test_known_models_come_in_the_configurations_order():
    """The order of loading does not show."""
    catalog = Catalog(["first", "second", "never loaded"])
    for name in ("second", "first"):
        catalog.add(dataclasses.replace(MODEL, name=name))
    assert [model.name for model, _ in catalog.known()] == ["first", "second"]


def test_an_unknown_model_is_not_found_and_near_names_are_listed(catalog):
    """A typing error is answered with the name that was meant."""
    with pytest.raises(ModelNotFoundError, match="did you mean resnet50"):
        catalog.find("resnet51")


def test_without_a_near_name_all_are_listed(catalog):
    """Somebody who guesses learns what there is."""
    with pytest.raises(ModelNotFoundError, match="there is tiny, resnet50"):
        catalog.find("vgg")


@pytest.mark.parametrize(
    ("state", "words", "retry"),
    [(ModelState.LOADING, "is being loaded", True), (ModelState.FAILED, "is broken", False)],
)
def test_a_model_that_is_not_ready_is_unavailable(catalog, state, words, retry):
    """Loading is worth another try, broken is not."""
    catalog.set_states(state)
    with pytest.raises(UnavailableError, match=words) as error:
        catalog.find("tiny")
    assert (error.value.retry_after_s is not None) == retry


def test_an_unknown_output_lists_the_near_ones():
    """A misspelt output is answered with the one that was meant."""
    MODEL.check_outputs(("embedding", "logits"))
    with pytest.raises(UnknownOutputError, match="no output 'embeding'; did you mean embedding"):
        MODEL.check_outputs(("logits", "embeding"))
