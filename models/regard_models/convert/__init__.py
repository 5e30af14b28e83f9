"""Published checkpoints into our models: `from_published` for a state dict, `convert_file` for a file.

read (weights only) ─→ unwrap ─→ drop, rename ─→ reshape, resize ─→ load strictly ─→ safetensors with metadata
"""

from regard_models.convert.checkpoint import read_checkpoint
from regard_models.convert.originals import load_module
from regard_models.convert.published import convert_file, from_published
from regard_models.convert.sources import SOURCES, Source, UnknownSourceError, find_source

__all__ = [
    "SOURCES",
    "Source",
    "UnknownSourceError",
    "convert_file",
    "find_source",
    "from_published",
    "load_module",
    "read_checkpoint",
]
