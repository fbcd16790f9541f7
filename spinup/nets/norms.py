"""Running statistics that center and scale observations and rewards."""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup.compute import mpi, optim  # noqa: F401 (optim defines the operator average_)
from spinup.observations import Part, is_image, parts_of


class RunningNorm(nn.Module):
    """Centers and scales by the running mean and standard deviation over all MPI processes, then clips.

    The statistics change only in `update`, and are saved with the module.
    """

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def std(self) -> Tensor:
        """The standard deviation, (*shape); never 0, even for a constant feature."""
        return (self.var + 1e-8).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).clamp(-self.clip, self.clip)

    def scale(self, x: Tensor) -> Tensor:
        """x, (..., *shape), divided by the standard deviation, then clipped, but not centered: for rewards."""
        return (x / self.std).clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add the batch x, (..., *shape), to the statistics."""
        x = x.detach().cpu().reshape(-1, *self.mean.shape).double().numpy()
        n, old_n = int(mpi.mpi_sum(len(x))), int(self.count)
        mean = mpi.mpi_sum(x.sum(0)) / n
        m2 = mpi.mpi_sum(np.square(x - mean).sum(0))
        old_mean, old_var = self.mean.cpu().double().numpy(), self.var.cpu().double().numpy()
        shift = mean - old_mean
        m2 = m2 + old_var * old_n + np.square(shift) * old_n * n / (old_n + n)
        self.mean.copy_(torch.as_tensor(old_mean + shift * n / (old_n + n)))
        self.var.copy_(torch.as_tensor(m2 / (old_n + n)))
        self.count += n


class PartsNorm(RunningNorm):
    """A RunningNorm for observations with several parts, (..., size), that leaves images and masks unchanged."""

    def __init__(self, space: spaces.Box):
        sizes = [(torch.Size(part.space.shape).numel(), is_normalized(part)) for part in parts_of(space)]
        numbers = torch.from_numpy(np.concatenate([np.full(size, counts) for size, counts in sizes]).nonzero()[0])
        super().__init__(numbers.shape)
        self.register_buffer("numbers", numbers, persistent=False)  # indices of the normalized entries

    def forward(self, x: Tensor) -> Tensor:
        return x.index_copy(-1, self.numbers, super().forward(x.index_select(-1, self.numbers)))

    def update(self, x: Tensor) -> None:
        super().update(x.index_select(-1, self.numbers.to(x.device)))


class NoNorm(nn.Identity):
    """Stands in for a RunningNorm and changes nothing."""

    def update(self, x: Tensor) -> None:
        pass


def is_normalized(part: Part) -> bool:
    return not (is_image(part.space) or part.is_mask)


def make_obs_norm(space: spaces.Box, normalize_obs: bool) -> nn.Module:
    """The normalizer for observations of `space`. Images and masks, and without normalize_obs all, stay unchanged."""
    parts = [is_normalized(part) for part in parts_of(space)]
    if not normalize_obs or not any(parts):
        return NoNorm()
    return RunningNorm(space.shape) if all(parts) else PartsNorm(space)


class BatchNorm(nn.Module):
    """Batch normalization (arXiv:1502.03167) of features, (..., n).

    With `training`, by the mean and variance of the batch, and the running ones move toward these; otherwise by the
    running ones, so that what a row gives doesn't depend on the rest of its batch. With several MPI processes, each
    normalizes by its own batch, and the running statistics move toward the averages over all processes.
    """

    def __init__(self, n: int, momentum: float = 0.01, eps: float = 1e-3):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("var", torch.ones(n))
        self.several_processes = mpi.num_procs() > 1

    def forward(self, x: Tensor, training: bool = False) -> Tensor:
        rows, scale = x.reshape(-1, x.shape[-1]), (self.weight, self.bias)
        if not training:
            return nn.functional.batch_norm(rows, self.mean, self.var, *scale, eps=self.eps).view_as(x)
        y, mean, inverse_std = torch.native_batch_norm(rows, *scale, None, None, True, 0.0, self.eps)  # crossq-1
        self.move(mean.detach(), (inverse_std.detach() ** -2 - self.eps).clamp(min=0))
        return y.view_as(x)

    @torch.no_grad()
    def move(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics toward those of a batch, (n,) each; the variance divides by the batch's size."""
        for running, x in ((self.mean, mean), (self.var, var)):
            if self.several_processes:
                x = x.clone()  # backward needs the batch's own
                torch.ops.spinup.average_(x)
            running.lerp_(x, self.momentum)  # crossq-2
