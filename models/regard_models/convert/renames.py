"""Published key names and ours, as tables of regular expressions applied in order.

A column on the left is what a publisher's code saves, on the right what our state dict calls it. ResNet's
own names (`conv1`, `bn1`, `layer1.0.conv2` …) are torchvision's on both sides and need no row.
"""

from __future__ import annotations

from typing import TypeAlias

from regard_models.attention.original import EXTERNAL_KEYS, PYRAMID_KEYS

Rules: TypeAlias = "tuple[tuple[str, str], ...]"

TORCHVISION: Rules = ()

EPSANET: Rules = PYRAMID_KEYS

# timm's SK-ResNets: a block's convolutions are pairs conv + bn, the selective one holds paths and attn.
TIMM_SK: Rules = (
    (r"\.paths\.(\d+)\.conv\.", r".branches.\1.conv."),
    (r"\.paths\.(\d+)\.bn\.", r".branches.\1.norm."),
    (r"\.attn\.fc_reduce\.", ".reduce."),
    (r"\.attn\.bn\.", ".norm."),
    (r"\.attn\.fc_select\.", ".select."),
    (r"^(layer\d\.\d+)\.conv(\d)\.conv\.", r"\1.conv\2."),
    (r"^(layer\d\.\d+)\.conv(\d)\.bn\.", r"\1.bn\2."),
)

# timm's byobnet: stages count from 0, the tiered stem is a module of its own.
TIMM_BOTNET: Rules = (
    (r"^stem\.conv1\.conv\.", "conv1.0."),
    (r"^stem\.conv1\.bn\.", "conv1.1."),
    (r"^stem\.conv2\.conv\.", "conv1.3."),
    (r"^stem\.conv2\.bn\.", "conv1.4."),
    (r"^stem\.conv3\.conv\.", "conv1.6."),
    (r"^stem\.conv3\.bn\.", "bn1."),
    (r"^stages\.0\.", "layer1."),
    (r"^stages\.1\.", "layer2."),
    (r"^stages\.2\.", "layer3."),
    (r"^stages\.3\.", "layer4."),
    (r"\.conv(\d)_\w+\.conv\.", r".conv\1."),
    (r"\.conv(\d)_\w+\.bn\.", r".bn\1."),
    (r"\.self_attn\.qkv\.", ".conv2.qkv."),
    (r"\.self_attn\.pos_embed\.(height|width)_rel$", r".conv2.\1"),
    (r"\.post_attn\.", ".bn2."),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.bn\.", ".downsample.1."),
    (r"^head\.fc\.", "fc."),
)

# PytorchInsight's SK-ResNets lay the two branches and the descriptor flat into the block.
INSIGHT_SK: Rules = (
    (r"^(layer\d\.\d+)\.conv2\.", r"\1.conv2.branches.0.conv."),
    (r"^(layer\d\.\d+)\.bn2\.", r"\1.conv2.branches.0.norm."),
    (r"^(layer\d\.\d+)\.conv2g\.", r"\1.conv2.branches.1.conv."),
    (r"^(layer\d\.\d+)\.bn2g\.", r"\1.conv2.branches.1.norm."),
    (r"^(layer\d\.\d+)\.conv_fc1\.", r"\1.conv2.reduce."),
    (r"^(layer\d\.\d+)\.bn_fc1\.", r"\1.conv2.norm."),
    (r"^(layer\d\.\d+)\.conv_fc2\.", r"\1.conv2.select."),
)

# EANet numbers its trunk as a Sequential: 0 and 1 are the stem, 2 and 3 have no weights, 4 to 7 the stages.
EANET: Rules = (
    (r"^extractor\.0\.", "conv1."),
    (r"^extractor\.1\.", "bn1."),
    (r"^extractor\.4\.", "layer1."),
    (r"^extractor\.5\.", "layer2."),
    (r"^extractor\.6\.", "layer3."),
    (r"^extractor\.7\.", "layer4."),
    (r"^fc0\.conv\.", "head.reduce.conv."),
    (r"^fc0\.bn\.", "head.reduce.norm."),
    (r"^fc1\.0\.conv\.", "head.out.conv."),
    (r"^fc1\.0\.bn\.", "head.out.norm."),
    (r"^fc2\.", "head.classify."),
    (r"^linu\.", "head.attention."),
    *((rule.replace(r"(^|\.)", r"^(head\.attention\.)", 1), new) for rule, new in EXTERNAL_KEYS),
)

DANET_HEAD: Rules = (
    (r"^conv5a\.0\.", "position_in.conv."),
    (r"^conv5a\.1\.", "position_in.norm."),
    (r"^conv5c\.0\.", "channel_in.conv."),
    (r"^conv5c\.1\.", "channel_in.norm."),
    (r"^conv51\.0\.", "position_out.conv."),
    (r"^conv51\.1\.", "position_out.norm."),
    (r"^conv52\.0\.", "channel_out.conv."),
    (r"^conv52\.1\.", "channel_out.norm."),
    (r"^sa\.(query|key|value)_conv\.", r"position.\1."),
    (r"^sa\.gamma$", "position.gamma"),
    (r"^sc\.gamma$", "channel.gamma"),
    (r"^conv6\.1\.", "classify_position."),
    (r"^conv7\.1\.", "classify_channel."),
    (r"^conv8\.1\.", "classify."),
)

DANET: Rules = (
    (r"^pretrained\.", ""),
    *((rule.replace("^", r"^head\.", 1), f"head.{new}") for rule, new in DANET_HEAD),
)

# mmsegmentation's ResNetV1c keeps its deep stem, norms included, in one Sequential.
MMSEG_DANET: Rules = (
    (r"^backbone\.stem\.7\.", "bn1."),
    (r"^backbone\.stem\.", "conv1."),
    (r"^backbone\.", ""),
    (r"^decode_head\.pam_(in|out)_conv\.conv\.", r"head.position_\1.conv."),
    (r"^decode_head\.pam_(in|out)_conv\.bn\.", r"head.position_\1.norm."),
    (r"^decode_head\.cam_(in|out)_conv\.conv\.", r"head.channel_\1.conv."),
    (r"^decode_head\.cam_(in|out)_conv\.bn\.", r"head.channel_\1.norm."),
    (r"^decode_head\.pam\.(query|key|value)_project\.", r"head.position.\1."),
    (r"^decode_head\.pam\.gamma\.scale$", "head.position.gamma"),
    (r"^decode_head\.cam\.gamma\.scale$", "head.channel.gamma"),
    (r"^decode_head\.pam_conv_seg\.", "head.classify_position."),
    (r"^decode_head\.cam_conv_seg\.", "head.classify_channel."),
    (r"^decode_head\.conv_seg\.", "head.classify."),
)
