"""Convolutional backbones: a ResNet trunk whose blocks have a place for attention."""

from regard_models.backbones.resnet import ResNet

__all__ = ["ResNet"]
