"""The five attention mechanisms.

    external           EA      a memory shared by all images
    multi_head         MHSA    on tokens;  relative: on a feature map, with BoTNet's position code
    selective_kernel   SK      branches of different reach
    dual               DA      over positions and channels;  dual_paper: as published networks have it
    pyramid            EPSA    kernels of four sizes

`from_original` and `load_original` take the published classes' names, arguments and keys; a spec's slots name
mechanisms by the table in `regard_models.attention.mechanisms`.
"""

from regard_models.attention.dual import (
    ChannelAttention,
    DualAttention,
    PositionAttention,
)
from regard_models.attention.dual_paper import ResidualDualAttention
from regard_models.attention.external import ExternalAttention
from regard_models.attention.module import AttentionModule, MapInfo, Maps
from regard_models.attention.multi_head import MultiHeadAttention, SimplifiedAttention
from regard_models.attention.original import from_original, load_original
from regard_models.attention.pyramid import ChannelExcitation, PyramidAttention
from regard_models.attention.relative import RelativeAttention
from regard_models.attention.selective_kernel import SelectiveKernel

__all__ = [
    "AttentionModule",
    "ChannelAttention",
    "ChannelExcitation",
    "DualAttention",
    "ExternalAttention",
    "MapInfo",
    "Maps",
    "MultiHeadAttention",
    "PositionAttention",
    "PyramidAttention",
    "RelativeAttention",
    "ResidualDualAttention",
    "SelectiveKernel",
    "SimplifiedAttention",
    "from_original",
    "load_original",
]
