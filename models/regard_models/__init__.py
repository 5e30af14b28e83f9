"""Backbones with attention, their weights, and how images are made ready for them."""
