"""What stands behind a trunk that looks at every position: the heads of DANet and EANet.

A head takes the last feature map and offers outputs by name, `embedding` and `logits` among them; it
computes only what is wanted. The plain classifier is no module of its own: its one layer is `fc` of the
network, where torchvision has it. Logits keep the resolution of the feature map; the published networks
enlarge them to the image's, which a caller who wants that does for himself.

Letters as in `regard_models.attention.module`; K classes, D channels of the embedding.

    danet   x ─→ 3x3 ─→ position attention ─→ 3x3 ─→ + ─→ logits       (and logits of each branch by itself)
            x ─→ 3x3 ─→ channel attention ──→ 3x3 ─→ ┘
    eanet   x ─→ 3x3 ─→ external attention ─→ 3x3 ─→ logits
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from regard_models.attention.dual import describe
from regard_models.attention.dual_paper import PaperChannelAttention, PaperPositionAttention
from regard_models.attention.external import ExternalAttention
from regard_models.convolution import Branch, NormalisedConvolution
from regard_models.outputs import OutputInfo, check_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

THREE = Branch(3)
DROPOUT = 0.1
"""Of whole channels before each classifier, in train mode only."""


class Head(nn.Module, ABC):
    """What turns the trunk's last feature map into outputs.

    Attributes:
        size: height and width of the feature map at the model's own input size.
    """

    size: tuple[int, int]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W) -> (B, K, H, W)`, the logits."""
        return self.run(x, ("logits",))["logits"]

    def extract(self, x: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Compute the outputs that are asked for from a feature map `(B, C, H, W)`.

        Raises:
            UnknownOutputError: a name that this head does not offer.
        """
        check_outputs(outputs, self.outputs)
        found = self.run(x, outputs)
        return {name: found[name] for name in outputs}

    @cached_property
    @abstractmethod
    def outputs(self) -> Mapping[str, OutputInfo]:
        """Every output by name, with its shape for a feature map of `size`."""

    @abstractmethod
    def run(self, x: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Return at least the outputs named in `wanted`, running no layer that they do not need."""


class DualHead(Head):
    """DANet's head: Fu et al., *Dual Attention Network for Scene Segmentation*, 2018, arXiv 1809.02983.

    Args:
        channels: C of the trunk.
        num_classes: K; 0 for no classifiers.
        size: height and width of the feature map at the model's own input size.
        reduction: how many times fewer channels the branches have.
    """

    def __init__(self, channels: int, num_classes: int, size: tuple[int, int], *, reduction: int = 4) -> None:
        super().__init__()
        self.size, self.num_classes, self.width = size, num_classes, channels // reduction
        width = self.width
        self.position_in = NormalisedConvolution(channels, width, THREE)
        self.channel_in = NormalisedConvolution(channels, width, THREE)
        self.position = PaperPositionAttention(width)
        self.channel = PaperChannelAttention()
        self.position_out = NormalisedConvolution(width, width, THREE)
        self.channel_out = NormalisedConvolution(width, width, THREE)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classify = _classifier(width, num_classes)
        self.classify_position = _classifier(width, num_classes)
        self.classify_channel = _classifier(width, num_classes)

    @cached_property
    def outputs(self) -> Mapping[str, OutputInfo]:
        """`embedding`, each branch's features and attention, and logits of the sum and of each branch."""
        offered = [
            _embedding(self.width),
            *_logits(self.num_classes, self.size, "logits", "of both branches' sum"),
        ]
        for branch in ("position", "channel"):
            offered += _logits(
                self.num_classes, self.size, f"{branch}_logits", f"of the {branch} branch alone"
            )
            text = f"features behind the {branch} attention"
            offered.append(_features(f"{branch}_features", self.width, self.size, text))
        offered.append(
            _features("fused_features", self.width, self.size, "sum of the branches, what is classified")
        )
        offered += [
            OutputInfo(f"head.{name}", "attention", info.shape, info.axes, info.description)
            for name, info in describe(self.width, *self.size).items()
        ]
        return {each.name: each for each in offered}

    def run(self, x: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Run the branches that some wanted output needs."""
        here = [name.removeprefix("head.") for name in wanted if name.startswith("head.")]
        both = not {"embedding", "logits", "fused_features"}.isdisjoint(wanted)
        found: dict[str, Tensor] = {}
        for branch in ("position", "channel"):
            if both or any(name.startswith((branch, f"head.{branch}")) for name in wanted):
                found |= self._run_branch(branch, x, wanted, here)
        if both:
            fused = found["position_out"] + found["channel_out"]
            found |= {"fused_features": fused, "embedding": fused.mean((2, 3))}
            if self.classify is not None and "logits" in wanted:
                found["logits"] = self.classify(self.dropout(fused))
        return found

    def _run_branch(
        self, branch: str, x: Tensor, wanted: Collection[str], maps: Collection[str]
    ) -> dict[str, Tensor]:
        features, attention = getattr(self, branch).attend(getattr(self, f"{branch}_in")(x), maps)
        out = getattr(self, f"{branch}_out")(features)
        found = {f"head.{name}": value for name, value in attention.items()}
        found |= {f"{branch}_features": features, f"{branch}_out": out}
        classify = getattr(self, f"classify_{branch}")
        if classify is not None and f"{branch}_logits" in wanted:
            found[f"{branch}_logits"] = classify(self.dropout(out))
        return found


class ExternalHead(Head):
    """EANet's head: Guo et al., *Beyond Self-attention: External Attention*, 2021, arXiv 2105.02358.

    Args:
        channels: C of the trunk.
        num_classes: K; 0 for no classifier.
        size: height and width of the feature map at the model's own input size.
        width: channels that the attention sees; the embedding has half as many.
        slots: of the attention's memory.
    """

    def __init__(
        self, channels: int, num_classes: int, size: tuple[int, int], *, width: int = 512, slots: int = 64
    ) -> None:
        super().__init__()
        self.size, self.num_classes, self.width = size, num_classes, width // 2
        self.reduce = NormalisedConvolution(channels, width, THREE)
        self.attention = ExternalAttention(width, slots)
        self.out = NormalisedConvolution(width, self.width, THREE)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classify = _classifier(self.width, num_classes)

    @cached_property
    def outputs(self) -> Mapping[str, OutputInfo]:
        """`embedding`, `logits`, what they are made of, and the attention."""
        info = self.attention.maps(*self.size)["attention"]
        offered = [
            _embedding(self.width),
            *_logits(self.num_classes, self.size, "logits", "of what is behind the attention"),
            _features(
                "fused_features", self.width, self.size, "features behind the attention, what is classified"
            ),
            OutputInfo("head.attention", "attention", info.shape, info.axes, info.description),
        ]
        return {each.name: each for each in offered}

    def run(self, x: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Run the attention, and what is behind it if an output from there is wanted."""
        here = [name.removeprefix("head.") for name in wanted]
        attended, maps = self.attention.attend(self.reduce(x), here)
        found = {f"head.{name}": value for name, value in maps.items()}
        if {"embedding", "logits", "fused_features"}.isdisjoint(wanted):
            return found
        out = self.out(attended)
        found |= {"fused_features": out, "embedding": out.mean((2, 3))}
        if self.classify is not None and "logits" in wanted:
            found["logits"] = self.classify(self.dropout(out))
        return found


HEADS: dict[str, Callable[..., Head]] = {"dual": DualHead, "external": ExternalHead}
"""Heads by the name that a slot gives: each takes `channels`, `num_classes`, `size` and the slot's arguments."""


def _classifier(width: int, num_classes: int) -> nn.Conv2d | None:
    return nn.Conv2d(width, num_classes, 1) if num_classes else None


def _embedding(width: int) -> OutputInfo:
    return OutputInfo(
        "embedding", "embedding", (width,), ("channel",), "average of the features before the classifier"
    )


def _features(name: str, width: int, size: tuple[int, int], description: str) -> OutputInfo:
    return OutputInfo(name, "feature_map", (width, *size), ("channel", "height", "width"), description)


def _logits(num_classes: int, size: tuple[int, int], name: str, description: str) -> list[OutputInfo]:
    axes = ("class", "height", "width")
    info = OutputInfo(
        name, "logits", (num_classes, *size), axes, f"class scores of every position, {description}"
    )
    return [info] if num_classes else []
