"""Residual networks by name: what is trained. Knows nothing of training.

Only ``create_model`` imports MindSpore; names and options can be checked without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.variants import list_models, resolve

if TYPE_CHECKING:
    from mindspore import nn

__version__ = "0.1.0"

__all__ = ["create_model", "list_models", "resolve"]


def create_model(name: str, *, num_classes: int = 1000, in_channels: int = 3, **options: object) -> nn.Cell:
    """Build a model of the table with freshly drawn weights.

    Args:
        name: one of ``list_models()``.
        num_classes: length of the logits.
        in_channels: channels of the images.
        options: fields of ``models.variants.ResNetOptions`` that replace the variant's, e.g. ``shortcut="B"``.

    Returns:
        A cell in float32 that takes (N, in_channels, H, W) images to (N, num_classes) logits. Its weights are a
        function of ``ms.set_seed``'s number (see ``models.init``).

    Raises:
        ValueError: unknown name or option (with near matches), or a value that is not allowed.
    """
    resolved = resolve(name, num_classes=num_classes, in_channels=in_channels, **options)
    from models.init import init_weights
    from models.resnet import ResNet

    model = ResNet(resolved, num_classes=num_classes, in_channels=in_channels)
    init_weights(model)
    return model
