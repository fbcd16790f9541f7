"""Adam on one flat tensor: every network is stepped, clipped, averaged over processes and followed in single calls."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from spinup import mpi
from spinup.capture import every_time, not_repeatable
from spinup.errors import Fault


def flatten(module: nn.Module) -> nn.Parameter:
    """Lay all parameters of `module` in one tensor and their gradients in another, and return it, shape (P,).

    The module's own parameters become views of it, and so do their gradients, so a change to either shows in both.
    Do it after the module has been moved to its device. Block-sparse layers with a schedule are its `evolving`.
    """
    params = list(module.parameters())
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in params]))
    flat.grad = torch.zeros_like(flat)
    sizes = [p.numel() for p in params]
    for p, data, grad in zip(params, flat.detach().split(sizes), flat.grad.split(sizes), strict=True):
        p.data, p.grad = data.view_as(p), grad.view_as(p)
    flat.evolving = evolving(module)
    return flat


def evolving(module: nn.Module) -> list[nn.Module]:
    """The layers whose layout changes as they learn: block-sparse ones with a schedule."""
    return [layer for layer in module.modules() if getattr(layer, "schedule", None) is not None]


def set_progress(module: nn.Module, progress: float) -> None:
    """Tell the layers whose layout changes as they learn which share of the training is done, 0 to 1."""
    for layer in evolving(module):
        layer.schedule.progress = progress


def evolve(module: nn.Module) -> None:
    """One step of the schedules of a module that no Adam steps."""
    for layer in evolving(module):
        layer.evolve(mpi.average_tensor)


@torch.no_grad()
def polyak_average(target: torch.Tensor, source: torch.Tensor, polyak: float) -> None:
    """target <- polyak * target + (1 - polyak) * source, for flat parameters (P,), in place.

    Where layers of the source have changed their layout, the target's take the same first.
    """
    for copy, layer in zip(getattr(target, "evolving", ()), getattr(source, "evolving", ()), strict=True):
        copy.follow(layer)
    target.lerp_(source, 1 - polyak)


class Adam:
    """Adam (arXiv:1412.6980) for a whole module, with optional clipping of the gradient's norm.

    The kernel is the one of torch.optim.Adam(fused=True), called directly: on one flat tensor that class's bookkeeping
    costs more than the step.

    lr: learning rate; may be changed between steps
    max_grad_norm: gradients longer than this (2-norm over all parameters) are scaled down to it; None: never
    betas: decay of the running mean and mean square of the gradient; eps: keeps the division finite
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        max_grad_norm: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        self.module = module
        self.names, self.params = zip(*module.named_parameters(), strict=True)
        self.flat = flatten(module)
        self.grads = [p.grad for p in self.params]  # views of self.grad
        self.lr, self.max_grad_norm, self.betas, self.eps = lr, max_grad_norm, betas, eps
        self.m, self.v = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.t = torch.zeros((), device=self.flat.device)
        moments = {id(p): (m, v) for p, m, v in zip(self.params, self._parts(self.m), self._parts(self.v), strict=True)}
        self.evolving = [(layer, *moments[id(layer.weight)]) for layer in self.flat.evolving]

    def _parts(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """A view of flat, (P,), for each parameter."""
        parts = flat.detach().split([p.numel() for p in self.params])
        return [part.view_as(p) for part, p in zip(parts, self.params, strict=True)]

    @property
    def grad(self) -> torch.Tensor:
        """The gradient of all parameters, shape (P,)."""
        return self.flat.grad

    def minimize(self, loss: torch.Tensor) -> None:
        """One step down the gradient of `loss` (a scalar), averaged over all MPI processes."""
        self.check_finite(loss)
        if self.evolving:
            not_repeatable()
        for layer, *_ in self.evolving:
            layer.schedule.signal = None  # the gradients of other losses, as the policy's through the critic
        grads = torch.autograd.grad(loss, self.params, materialize_grads=True)
        torch._foreach_copy_(self.grads, grads)
        if mpi.num_procs() > 1:  # alone, a captured update need not come back to Python for it
            self.average_gradient()
        if self.max_grad_norm is not None:
            self.grad.mul_((self.max_grad_norm / (self.grad.norm() + 1e-6)).clamp(max=1.0))
        self.step()

    @every_time
    def average_gradient(self) -> None:
        mpi.average_tensor(self.grad)

    @every_time
    def check_finite(self, loss: torch.Tensor) -> None:
        """Raise Fault where the loss is NaN or infinite, as it is once a gradient was.

        Not on a GPU, which would have to wait for it: there the parameters are looked at once an epoch.
        """
        if not loss.is_cpu or math.isfinite(loss.item()):
            return
        grads = self.grad.split([p.numel() for p in self.params])
        bad = [name for name, grad in zip(self.names, grads, strict=True) if not grad.isfinite().all()]
        first = f"; the step before had NaN or infinity in the gradient of {bad[0]}" if bad else ""
        raise Fault(
            f"the loss of {type(self.module).__name__} is {loss.item()} in its gradient step {int(self.t) + 1}{first}; "
            "a smaller learning rate or max_grad_norm may help"
        )

    def state_dict(self) -> dict:
        return {"m": self.m, "v": self.v, "t": self.t}

    def load_state_dict(self, state: Mapping) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)

    @every_time
    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by the gradient that is there."""
        self.t += 1
        # Where a gradient stays 0, as below a dead ReLU, its mean decays through the subnormal numbers, in which some
        # CPUs take more than ten times as long; they count as 0 here, in the thread that calls.
        torch.set_flush_denormal(True)
        torch._fused_adam_(
            [self.flat],
            [self.grad],
            [self.m],
            [self.v],
            [],
            [self.t],
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )
        torch.set_flush_denormal(False)
        for layer, m, v in self.evolving:
            layer.evolve(mpi.average_tensor, m, v)
