"""What is asked of the images of one message; requests with equal queries may share a message."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, TypeVar

from regard_client.images import Picture
from regard_proto.v1 import features_pb2 as pb

Encoding: TypeAlias = Literal["float32", "float16", "bfloat16", "int8", "binary"]
Priority: TypeAlias = Literal["interactive", "bulk"]
AttentionReduction: TypeAlias = Literal["none", "mean_queries", "mean_heads_queries"]

_Value = TypeVar("_Value")

_ENCODINGS: Final = MappingProxyType(
    {
        "float32": pb.ENCODING_FLOAT32,
        "float16": pb.ENCODING_FLOAT16,
        "bfloat16": pb.ENCODING_BFLOAT16,
        "int8": pb.ENCODING_INT8,
        "binary": pb.ENCODING_BINARY,
    }
)
_PRIORITIES: Final = MappingProxyType(
    {"interactive": pb.PRIORITY_INTERACTIVE, "bulk": pb.PRIORITY_BULK},
)
_REDUCTIONS: Final = MappingProxyType(
    {
        "none": pb.ATTENTION_REDUCTION_UNSPECIFIED,
        "mean_queries": pb.ATTENTION_REDUCTION_MEAN_QUERIES,
        "mean_heads_queries": pb.ATTENTION_REDUCTION_MEAN_HEADS_QUERIES,
    }
)


@dataclass(frozen=True, slots=True)
class Query:
    """Everything about a request but its images.

    Attributes:
        model: name of the model; empty for the server's default one.
        outputs: names of the outputs wanted.
        encoding: how values travel; float32 is exact.
        l2_normalize: whether embeddings are scaled to unit length.
        expected_fingerprint: the only model that may answer; empty for any.
        priority: which requests go first; "bulk" takes what room the others leave.
        attention_reduction: how maps over queries and keys are reduced before they travel.

    Raises:
        ValueError: an option has no such value, or no output is named.
    """

    model: str = ""
    outputs: tuple[str, ...] = ("embedding",)
    encoding: Encoding = "float32"
    l2_normalize: bool = False
    expected_fingerprint: str = ""
    priority: Priority = "interactive"
    attention_reduction: AttentionReduction = "none"
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _look_up("encoding", self.encoding, _ENCODINGS)
        _look_up("priority", self.priority, _PRIORITIES)
        _look_up("attention_reduction", self.attention_reduction, _REDUCTIONS)
        if not self.outputs or not all(self.outputs):
            raise ValueError(f"outputs are {self.outputs}; name at least one, such as 'embedding'")
        object.__setattr__(self, "_hash", hash(self._values()))

    def __hash__(self) -> int:
        return self._hash  # asked for several times an image

    def __reduce__(self) -> tuple[type["Query"], tuple[object, ...]]:
        return Query, self._values()  # made anew: another process hashes strings otherwise

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, each.name) for each in fields(self) if each.init)

    def request(self, pictures: Sequence[Picture], request_id: str) -> pb.ExtractRequest:
        """Return the message that asks this of some images."""
        request = pb.ExtractRequest(
            model=self.model,
            outputs=self.outputs,
            encoding=_ENCODINGS[self.encoding],
            l2_normalize=self.l2_normalize,
            expected_fingerprint=self.expected_fingerprint,
            request_id=request_id,
            priority=_PRIORITIES[self.priority],
            attention_reduction=_REDUCTIONS[self.attention_reduction],
        )
        images = request.images
        for picture in pictures:
            picture.write(images.add())
        return request


def _look_up(option: str, value: str, table: Mapping[str, _Value]) -> _Value:
    if value in table:
        return table[value]
    near = difflib.get_close_matches(str(value), table, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{option} {value!r} is none of {', '.join(table)}{hint}")
