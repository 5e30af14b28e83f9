"""How large a reply will be, known before anything is computed for it.

    shapes of the outputs ─→ at each picture's size ─→ less the axes that are averaged away ─→ bytes in the encoding

Feature maps and attention maps are large: `layer1` of 256 pictures is 820 MB. They exist twice before they are
sent, as float32 and encoded, so both are bounded.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from regard_models import OutputInfo
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import ServedModel
from regard_server.errors import ReplyTooLargeError
from regard_server.request import Picture

MIB: Final = 1 << 20
# A small encoding hides how much is computed for it: binary is a 32nd of float32.
MOST_TIMES_COMPUTED: Final = 4
# Names, shapes, timings and fingerprints, roughly.
_AROUND_IMAGE: Final = 64
_AROUND_OUTPUT: Final = 64
_SIDES: Final = {"height": 0, "width": 1}
_AREAS: Final = frozenset({"query", "key", "position"})
# The axes that a reduction averages over, where an attention map has them.
REDUCED_AXES: Final = {
    pb.ATTENTION_REDUCTION_UNSPECIFIED: frozenset[str](),
    pb.ATTENTION_REDUCTION_MEAN_QUERIES: frozenset({"query"}),
    pb.ATTENTION_REDUCTION_MEAN_HEADS_QUERIES: frozenset({"head", "query"}),
}


def check_reply_size(
    message: pb.ExtractRequest,
    model: ServedModel,
    pictures: Sequence[Picture],
    outputs: Sequence[str],
    max_bytes: int,
) -> None:
    """Check that what is asked for may be sent in one reply.

    Raises:
        ReplyTooLargeError: it may not; the message says how large it would be.
    """
    if _is_small(model, pictures, outputs, max_bytes):
        return
    count_of: Counter[tuple[int, int]] = Counter()
    for each in pictures:
        count_of[each.height, each.width] += each.images
    encoded = computed = _AROUND_IMAGE * count_of.total()
    for (height, width), count in count_of.items():
        for output in outputs:
            sent, made = _bytes_of(model.outputs[output], message, model, height, width)
            encoded += count * (sent + _AROUND_OUTPUT)
            computed += count * made
    if encoded <= max_bytes and computed <= MOST_TIMES_COMPUTED * max_bytes:
        return
    before = f", and {computed / MIB:.1f} MiB of float32 before" if computed > encoded else ""
    raise ReplyTooLargeError(
        f"the reply would hold {encoded / MIB:.1f} MiB of {', '.join(outputs)} for {count_of.total()} images{before}; "
        f"at most {max_bytes / MIB:.1f} MiB are sent and {MOST_TIMES_COMPUTED} times that computed at once. Ask for "
        "fewer images or outputs at a time, a smaller encoding, or attention reduced"
    )


def _is_small(
    model: ServedModel, pictures: Sequence[Picture], outputs: Sequence[str], max_bytes: int
) -> bool:
    """Tell quickly what is true of nearly every request: at the model's own size, even in float32, it is far below."""
    height, width = model.preprocessing.height, model.preprocessing.width
    one = sum([4 * math.prod(model.outputs[output].shape) + _AROUND_OUTPUT for output in outputs])
    count = sum([each.images for each in pictures])
    return count * (one + _AROUND_IMAGE) <= max_bytes and all(
        each.height == height and each.width == width for each in pictures
    )


def _bytes_of(
    info: OutputInfo, message: pb.ExtractRequest, model: ServedModel, height: int, width: int
) -> tuple[int, int]:
    """Return what one output of one picture takes: (encoded, as float32)."""
    prepared = model.preprocessing
    sides = (height / prepared.height, width / prepared.width)
    shape = info.shape
    if sides != (1.0, 1.0):
        shape = tuple(
            math.ceil(length * _growth(axis, sides))
            for length, axis in zip(info.shape, info.axes, strict=True)
        )
    dropped = REDUCED_AXES[message.attention_reduction] if "query" in info.axes else frozenset()
    kept = [length for length, axis in zip(shape, info.axes, strict=True) if axis not in dropped]
    element = tensors.ELEMENT_TYPES[tensors.ENCODING_TYPES[message.encoding]]
    return element.nbytes(kept), math.prod(shape) * 4


def _growth(axis: str, sides: tuple[float, float]) -> float:
    """Return how an axis grows with the picture, which may be of another size than the model's own."""
    if axis in _SIDES:
        return sides[_SIDES[axis]]
    return sides[0] * sides[1] if axis in _AREAS else 1.0
