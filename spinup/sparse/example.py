"""Block-sparse and dense hidden layers on a synthetic regression task: python -m spinup.sparse.example

The targets are the outputs of a wide random network. Four students learn them for the same number of steps: a dense
one, a wider one with about as many weights in fixed random blocks, the same with blocks that move (RigL), and a dense
one of that width. It takes about a minute, and prints each one's loss on fresh data and its time.
"""

import argparse
import time

import torch
from torch import Tensor, nn

from spinup.sparse import BlockSparseLinear, Schedule, summary

INPUTS, OUTPUTS, BATCH = 32, 8, 256


def student(width: int, density: float | None, schedule: str | None = None, every: int = 1) -> nn.Sequential:
    """An MLP with two hidden layers of this width; density: that of the middle matrix, None for a dense one."""
    if density is None:
        hidden = nn.Linear(width, width)
    else:
        changes = Schedule(schedule, every=every) if schedule else None
        hidden = BlockSparseLinear(width, width, density, block_size=32, schedule=changes)
    return nn.Sequential(nn.Linear(INPUTS, width), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(width, OUTPUTS))


def train(net: nn.Sequential, teacher: nn.Module, steps: int) -> tuple[float, float]:
    """The final loss on fresh data, and the seconds that training took."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    start = time.perf_counter()
    for step in range(steps):
        optimizer.zero_grad()
        loss_on(net, teacher, generator).backward()
        optimizer.step()
        layer = net[2]
        if getattr(layer, "schedule", None) is not None:
            layer.schedule.progress = step / steps
            state = optimizer.state[layer.weight]
            layer.evolve(None, state["exp_avg"], state["exp_avg_sq"])  # Adam's moments follow their blocks
    seconds = time.perf_counter() - start
    with torch.no_grad():
        return loss_on(net, teacher, generator, 4096).item(), seconds


def loss_on(net: nn.Module, teacher: nn.Module, generator: torch.Generator, batch: int = BATCH) -> Tensor:
    """Mean squared error on freshly drawn inputs."""
    x = torch.randn(batch, INPUTS, generator=generator)
    with torch.no_grad():
        y = teacher(x)
    return (net(x) - y).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(INPUTS, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, OUTPUTS))
    for layer in teacher[::2]:
        nn.init.orthogonal_(layer.weight, 2**0.5)
    students = {
        "dense 200": student(200, None),
        "block-sparse 512, static": student(512, 0.1),
        "block-sparse 512, RigL": student(512, 0.1, "rigl", every=max(1, steps // 20)),
        "dense 512": student(512, None),
    }
    for name, net in students.items():
        loss, seconds = train(net, teacher, steps)
        print(f"{name:<26} loss {loss:.4f}  {seconds:5.1f} s  {summary(net)}", flush=True)


if __name__ == "__main__":
    main()
