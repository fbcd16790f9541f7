"""Adam on one flat tensor: networks are stepped, clipped, averaged and followed by targets in single calls."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from spinup.compute import mpi
from spinup.compute.accel import ALIGNMENT
from spinup.compute.capture.operators import operator
from spinup.errors import Fault


def flatten(module: nn.Module, alignment: int = ALIGNMENT) -> nn.Parameter:
    """Move all parameters of `module` into one tensor, which is returned, and their gradients into another: (P,) each.

    The module's parameters and gradients become views of these. Each starts at a multiple of `alignment` bytes, padded
    with zeros, which P includes. Move the module to its device first. Two attributes of the returned tensor are for
    `polyak_average`: `evolving` lists the block-sparse layers with a schedule, `statistics` the running statistics.
    """
    params = list(module.parameters())
    spans = aligned_sizes(params, alignment)
    flat = nn.Parameter(params[0].detach().new_zeros(sum(spans)))
    flat.grad = torch.zeros_like(flat)
    for p, data, grad in zip(params, flat.detach().split(spans), flat.grad.split(spans), strict=True):
        data = data[: p.numel()].view_as(p).copy_(p.detach())
        p.data, p.grad = data, grad[: p.numel()].view_as(p)
    flat.evolving, flat.statistics = evolving(module), statistics(module)
    return flat


def aligned_sizes(params: Sequence[nn.Parameter], alignment: int = ALIGNMENT) -> list[int]:
    """The size of each parameter in a flat tensor, including its padding."""
    step = max(1, alignment // params[0].element_size())
    return [-(-p.numel() // step) * step for p in params]


def evolving(module: nn.Module) -> list[nn.Module]:
    """The layers whose layout changes during training: block-sparse ones with a schedule."""
    return [layer for layer in module.modules() if getattr(layer, "schedule", None) is not None]


def statistics(module: nn.Module) -> list[torch.Tensor]:
    """The running statistics of a module, as of batch normalization: its buffers of floating-point numbers."""
    saved = module.state_dict()  # leaves out buffers that are constants
    return [x for name, x in module.named_buffers() if name in saved and x.is_floating_point()]


def set_progress(module: nn.Module, progress: float) -> None:
    """Set the progress of the training, 0 to 1, in all layers whose layout changes during training."""
    for layer in evolving(module):
        layer.schedule.progress = progress


def evolve(module: nn.Module) -> None:
    """Advance the schedules of a module by one step, for modules without a FlatAdam."""
    for layer in evolving(module):
        layer.evolve(mpi.average_tensor)


def gradients(y: torch.Tensor, params: Sequence[nn.Parameter], **kwargs) -> list[torch.Tensor]:
    """The gradient of y, a scalar, with respect to each parameter: 0 for those that are frozen or don't affect y."""
    found = torch.autograd.grad(y, [p for p in params if p.requires_grad], materialize_grads=True, **kwargs)
    grads = iter(found)
    return [next(grads) if p.requires_grad else torch.zeros_like(p) for p in params]


@torch.no_grad()
def polyak_average(target: torch.Tensor, source: torch.Tensor, polyak: float | torch.Tensor) -> None:
    """target <- polyak * target + (1 - polyak) * source, for flat parameters (P,) and running statistics, in place.

    Block-sparse layers of the target first adopt the layouts and the steps of the source's.
    """
    for copy, layer in zip(getattr(target, "evolving", ()), getattr(source, "evolving", ()), strict=True):
        copy.follow(layer)
    running = zip(getattr(target, "statistics", ()), getattr(source, "statistics", ()), strict=True)
    for old, new in ((target, source), *running):
        old.lerp_(new, 1 - polyak)


class FlatAdam:
    """Adam (arXiv:1412.6980) for a whole module, with optional clipping of the gradient's norm.

    It calls the kernel of torch.optim.Adam(fused=True) directly: on one flat tensor, that class's bookkeeping costs
    more than the step itself. `minimize(loss)` does zero_grad(), loss.backward() and step() in one; these work as in
    torch.

    lr: learning rate; may be changed between steps
    max_grad_norm: gradients are clipped to this 2-norm, over all parameters; None: no clipping
    betas: decay rates of the running mean and mean square of the gradient; eps: keeps the division finite

    before_step, after_step: hooks, functions of the optimizer called around each step. Averaging over MPI processes is
    one of the former, changing the layout of block-sparse layers one of the latter.
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
        self.spans = aligned_sizes(self.params)
        self.network = type(module).__name__
        self.max_grad_norm, self.betas, self.eps = max_grad_norm, betas, eps
        # A tensor, so that captured updates see changes; CUDA's kernel needs float32.
        self._lr = torch.tensor(lr, dtype=torch.float64 if self.flat.is_cpu else torch.float32, device=self.flat.device)
        self.m, self.v = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.t = torch.zeros((), device=self.flat.device)
        self.before_step = [average_gradient] if mpi.num_procs() > 1 else []
        moments = {id(p): (m, v) for p, m, v in zip(self.params, self._parts(self.m), self._parts(self.v), strict=True)}
        self.evolving = [(layer, *moments[id(layer.weight)]) for layer in self.flat.evolving]
        self.after_step = [evolve_layers] if self.evolving else []
        self.grads = [p.grad for p in self.params]

    def _parts(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views of flat, (P,), with the shapes of the parameters."""
        parts = flat.detach().split(self.spans)
        return [part[: p.numel()].view_as(p) for part, p in zip(parts, self.params, strict=True)]

    def _padded(self, grads: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The pieces of a flat gradient: each parameter's, flattened, and its padding."""
        for grad, span in zip(grads, self.spans, strict=True):
            yield grad.reshape(-1)
            if span > grad.numel():
                yield grad.new_zeros(span - grad.numel())

    @property
    def lr(self) -> float:
        return self._lr.item()

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr.fill_(value)

    @property
    def grad(self) -> torch.Tensor:
        """The gradient with respect to all parameters, shape (P,)."""
        return self.flat.grad

    def zero_grad(self) -> None:
        self.grad.zero_()
        self._clear_dense_grads()

    def step(self) -> None:
        """One step with the gradients in p.grad, which are kept."""
        for p, grad in zip(self.params, self.grads, strict=True):
            if p.grad is not grad:  # other code has replaced it, or set it to None
                grad.copy_(torch.zeros_like(grad) if p.grad is None else p.grad)
                p.grad = grad
        self._step()

    def minimize(self, loss: torch.Tensor) -> None:
        """One step down the gradient of `loss` (a scalar), averaged over all MPI processes."""
        torch.ops.spinup.check_finite(loss.detach(), self.grad, self.t, self.names, self.spans, self.network)
        self._clear_dense_grads()  # from gradients of other losses, such as the policy's through the critic
        torch.cat(list(self._padded(gradients(loss, self.params))), out=self.grad)
        self._step()

    def _step(self) -> None:
        for hook in self.before_step:
            hook(self)
        if self.max_grad_norm is not None:
            self.grad.mul_((self.max_grad_norm / (self.grad.norm() + 1e-6)).clamp(max=1.0))
        moments = self.m, self.v, self.t
        torch.ops.spinup.adam_(self.flat.detach(), self.grad, *moments, self._lr, *self.betas, self.eps)
        for hook in self.after_step:
            hook(self)

    def _clear_dense_grads(self) -> None:
        for layer, *_ in self.evolving:
            layer.schedule.dense_grad = None

    def state_dict(self) -> dict:
        """The moments without padding, (number of parameters,) each, and the step count."""
        m, v = (torch.cat([part.reshape(-1) for part in self._parts(x)]) for x in (self.m, self.v))
        return {"m": m, "v": v, "t": self.t}

    def load_state_dict(self, state: Mapping) -> None:
        for name in ("m", "v"):
            parts = state[name].split([p.numel() for p in self.params])
            for part, x in zip(self._parts(getattr(self, name)), parts, strict=True):
                part.copy_(x.view_as(part))
        self.t.copy_(state["t"])


# ---- hooks


def average_gradient(optimizer: FlatAdam) -> None:
    """Replace the gradient by its mean over all MPI processes, in place."""
    torch.ops.spinup.average_(optimizer.grad)


def evolve_layers(optimizer: FlatAdam) -> None:
    """Advance the schedules of block-sparse layers by one step; Adam's moments move with their blocks."""
    for layer, m, v in optimizer.evolving:
        layer.evolve(mpi.average_tensor, m, v)


# ---- operators, so that captured updates can contain them


@operator("average_(Tensor(a!) x) -> ()")
def average_(x: torch.Tensor) -> None:
    """Replace x, (...), by its mean over all MPI processes."""
    mpi.average_tensor(x)


@operator("check_finite(Tensor loss, Tensor grad, Tensor(a!) t, str[] names, int[] spans, str network) -> ()")
def check_finite(
    loss: torch.Tensor, grad: torch.Tensor, t: torch.Tensor, names: list[str], spans: list[int], network: str
) -> None:
    """Raise Fault if the loss, a scalar, is NaN or infinite, as it is after any such gradient.

    Skipped on a GPU, which would have to synchronize: there the parameters are checked once per epoch. t, the step
    count, is marked as changed only because an operator must change something.
    """
    if not loss.is_cpu or math.isfinite(loss.item()):
        return
    bad = [name for name, x in zip(names, grad.split(spans), strict=True) if not x.isfinite().all()]
    first = f"; the previous step had NaN or infinity in the gradient of {bad[0]}" if bad else ""
    raise Fault(
        f"the loss of {network} is {loss.item()} in its gradient step {int(t) + 1}{first}; "
        "a smaller learning rate or max_grad_norm may help"
    )


@operator(
    "adam_(Tensor(a!) params, Tensor grad, Tensor(b!) m, Tensor(c!) v, Tensor(d!) t, Tensor lr, float beta1, "
    "float beta2, float eps) -> ()"
)
def adam_(
    params: torch.Tensor,
    grad: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    t: torch.Tensor,
    lr: torch.Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One step of Adam for flat parameters, (P,): the kernel of torch.optim.Adam(fused=True)."""
    t += 1
    # While a gradient stays 0, as below a dead ReLU, its running mean decays through the subnormal numbers, with which
    # some CPUs are more than ten times slower. Within this call and thread they are flushed to 0.
    torch.set_flush_denormal(True)
    torch._fused_adam_(
        [params],
        [grad],
        [m],
        [v],
        [],
        [t],
        lr=lr.item() if lr.is_cpu else lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )
    torch.set_flush_denormal(False)
