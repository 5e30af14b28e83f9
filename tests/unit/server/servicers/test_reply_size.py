"""How large a reply will be, against replies that real networks gave."""

import itertools
from dataclasses import replace

import pytest
import torch
from served_models import TINY

from regard_models import load_bundle
from regard_proto.v1 import features_pb2 as pb
from regard_server.errors import ReplyTooLargeError
from regard_server.request import Picture, Request, Result, Timings
from regard_server.servicers.encode import encode
from regard_server.servicers.reply_size import check_reply_size


def served(bundle):
    return replace(TINY, preprocessing=bundle.preprocessing, outputs=bundle.model.outputs)


def picture(height, width):
    return Picture(lambda: None, 0, "tensor", height, width)


def predicted(message, model, pictures, outputs):
    """Find the least limit that lets a reply through."""
    low, high = 0, 1 << 32
    while low < high:
        middle = (low + high) // 2
        try:
            check_reply_size(message, model, pictures, outputs, middle)
            high = middle
        except ReplyTooLargeError:
            low = middle + 1
    return low


@pytest.mark.parametrize("name", ["ea_mini", "mhsa_mini", "da_mini", "sk_mini"])
@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_the_prediction_is_what_is_sent(name, size):
    """For every output, encoding and reduction: exact at the model's own size, a little more than enough at others."""
    bundle = load_bundle(name)
    model = served(bundle)
    with torch.inference_mode():
        found = bundle.model.extract(torch.zeros(1, 3, *size), list(model.outputs))
    arrays = {name: values.numpy() for name, values in found.items()}
    exact = size == (224, 224)
    for output, encoding, reduction in itertools.product(
        model.outputs, ("FLOAT32", "FLOAT16", "INT8"), pb.AttentionReduction.values()
    ):
        message = pb.ExtractRequest(
            encoding=pb.Encoding.Value(f"ENCODING_{encoding}"), attention_reduction=reduction
        )
        request = Request(model, [], (output,), arrived=0, deadline=1, priority=0)
        sent = len(encode(b"", [Result(arrays, Timings())], request, message)[0])
        least = predicted(message, model, [picture(*size)], (output,))
        computed = arrays[output].nbytes / 4
        assert max(sent, computed) <= least + 64, output
        assert least <= max(sent, computed) * (1.01 if exact else 1.3) + 256, output


def test_a_small_encoding_does_not_hide_what_is_computed():
    """Binary is a 32nd of float32 on the wire, not in memory."""
    bundle = load_bundle("resnet_tiny")
    message = pb.ExtractRequest(encoding=pb.ENCODING_BINARY)
    pictures = [picture(32, 32)] * 256
    with pytest.raises(ReplyTooLargeError, match="of float32 before"):
        check_reply_size(message, served(bundle), pictures, ("layer1",), 100_000)
    check_reply_size(message, served(bundle), pictures, ("layer1",), 200_000)


def test_shapes_that_no_picture_has_cost_nothing_to_predict():
    """A tensor may say of itself that it is as large as numbers get."""
    with pytest.raises(ReplyTooLargeError):
        check_reply_size(
            pb.ExtractRequest(),
            served(load_bundle("resnet_tiny")),
            [picture(1 << 62, 1 << 62)],
            ("layer1",),
            1 << 40,
        )
