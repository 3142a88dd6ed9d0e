"""A small residual network for images of about 8 to 64 pixels, quick on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from tamis.models.network import Network

__all__ = ["SmallResNet"]


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class SmallResNet(Network):
    """Stem, three residual stages of widths w, 2w and 4w, mean pooling, linear head.

    Above 16 pixels the stem has stride 2, so that most work happens at half resolution.

    Args:
        n_classes: Outputs.
        width: w.
        resolution: Side of the images in pixels; chooses the stem's stride.
    """

    kind = "small-resnet"

    def __init__(self, n_classes: int, width: int, resolution: int) -> None:
        stem = _conv(3, width, 4, 2) if resolution > 16 else _conv(3, width)
        stages: list[nn.Module] = [stem, _Residual(width)]
        for inputs in (width, 2 * width):
            stages += [_conv(inputs, 2 * inputs, stride=2), _Residual(2 * inputs)]
        config = {"n_classes": n_classes, "width": width, "resolution": resolution}
        super().__init__(config, 4 * width)
        self.body = nn.Sequential(*stages)

    def features(self, images: Tensor) -> Tensor:
        """See :meth:`Network.features`; n_features is 4w."""
        return self.body(self.normalised(images)).mean(dim=(2, 3))  # type: ignore[no-any-return]
