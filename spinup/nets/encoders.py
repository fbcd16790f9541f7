"""Encoders in front of an MLP: none for a vector, a CNN for an image, and a CNN for each image of several parts."""

import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup.observations import channels_last, height_and_width, is_image, parts_of


class CNN(nn.Module):
    """Features of images, (..., C, H, W), (..., H, W, C) or (..., H, W), or of stacks of these, (..., K, C, H, W) or
    (..., K, H, W, C): (..., features).

    The three convolutions of doi:10.1038/nature14236 if both sides have at least 36 pixels, otherwise two of 3x3.

    brightest: divisor that scales pixels to [0, 1]: 255, or 1 if they are already in this range
    """

    def __init__(self, shape: tuple[int, ...], brightest: float = 255):
        super().__init__()
        self.shape, self.brightest = shape, brightest
        self.channels_last = len(shape) > 2 and channels_last(shape)
        h, w = height_and_width(shape)
        c = torch.Size(shape).numel() // (h * w)
        if min(h, w) >= 36:
            convs = [nn.Conv2d(c, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1)]
        else:
            convs = [nn.Conv2d(c, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, padding=1)]
        self.net = nn.Sequential(*convs, nn.ReLU(), nn.Flatten())
        self.features = self.net(torch.zeros(1, c, h, w)).shape[1]

    def forward(self, o: Tensor) -> Tensor:
        lead = o.shape[: o.dim() - len(self.shape)]
        x = o.reshape(-1, *self.shape)
        x = x.movedim(-1, -3) if self.channels_last else x.unsqueeze(1) if len(self.shape) == 2 else x
        x = x.flatten(1, 2) if len(self.shape) == 4 else x  # the channels of all K images
        return self.net(x.float() / self.brightest).reshape(*lead, self.features)


class PartsEncoder(nn.Module):
    """Features of observations with several parts: (..., size) -> (..., features).

    Each image has its own CNN, vectors pass through unchanged, and an action mask is left out.
    """

    def __init__(self, space: spaces.Box):
        super().__init__()
        shapes = [part.space.shape for part in parts_of(space)]
        self.sizes = [torch.Size(shape).numel() for shape in shapes]
        self.shapes = [
            shape if is_image(part.space) else None for part, shape in zip(parts_of(space), shapes, strict=True)
        ]
        self.masks = [part.is_mask for part in parts_of(space)]
        encoders = [(nn.Identity(), 0) if part.is_mask else make_encoder(part.space) for part in parts_of(space)]
        self.encoders = nn.ModuleList(encoder for encoder, _ in encoders)
        self.features = sum(features for _, features in encoders)

    def forward(self, o: Tensor) -> Tensor:
        parts = zip(o.split(self.sizes, -1), self.shapes, self.encoders, self.masks, strict=True)
        return torch.cat([net(x.unflatten(-1, shape) if shape else x) for x, shape, net, mask in parts if not mask], -1)


def make_encoder(space: spaces.Box) -> tuple[nn.Module, int]:
    """The encoder for observations of `space`, nn.Identity if there are no images, and the number of its features."""
    if is_image(space):
        encoder = CNN(space.shape, 255 if space.dtype == "uint8" else float(space.high.max()))
    elif any(is_image(part.space) or part.is_mask for part in parts_of(space)):
        encoder = PartsEncoder(space)
    else:
        return nn.Identity(), torch.Size(space.shape).numel()
    return encoder, encoder.features
