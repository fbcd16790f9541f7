"""Where and how torch computes: device, threads, seeds. The one place that knows."""

import ctypes
import random
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from spinup.errors import UserError

ALIGNMENT = 64  # bytes: on some CPUs the last digits of a matrix product depend on where memory begins within these


def setup(seed: int, device: str = "cpu", threads: int = 1, matmul_precision: str = "highest") -> torch.device:
    """Seed Python, numpy and torch, set CPU threads and precision of products, and return the checked device.

    matmul_precision: of float32 matrix products: "highest" is float32; "high" allows TF32 where the hardware has it,
    "medium" bfloat16 as well, and takes it for hidden layers on CPUs that have it (nets.HiddenLinear)

    One thread is the default because the usual networks, (64, 64), are so small that a second one costs more in
    waiting than it computes; image policies and wide layers gain from more.

    Raises UserError for a device that torch does not have here.
    """
    if threads < 1:
        raise UserError(f"threads is {threads}; it must be at least 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; it must lie in 0 to {2**32 - 1}")
    seed = int(seed)
    torch.set_default_dtype(torch.float32)  # what environments give; a script may have set another, and
    torch.set_default_device(None)  # tensors of a run are made where it says
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(matmul_precision)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        device = torch.device("cuda" if device == "gpu" else device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ModuleNotFoundError):
        available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        available += ["mps"] if torch.backends.mps.is_available() else []
        raise UserError(f"device '{device}' is not available here; available: {', '.join(available)}") from None
    return device


def aligned(x: torch.Tensor) -> torch.Tensor:
    """x, or a copy if it begins elsewhere than at a multiple of ALIGNMENT, as numpy's arrays may; torch's never do."""
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in hardware; False for one that torch does not know to."""
    return hasattr(torch.cpu, "get_capabilities") and torch.cpu.get_capabilities().get("avx512_bf16", False)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on `device`; None where that is not known."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = []
    with suppress(OSError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with suppress(OSError, ValueError):  # a container's own limit, and no number ("max") where it has none
        limit, used, stat = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current", "stat"))
        cache = dict(line.split() for line in stat.splitlines()).get("inactive_file", 0)  # given up when needed
        limits.append(int(limit) - int(used) + int(cache))
    return min(limits, default=None)


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what it is given back: otherwise every activation of more than 128 KiB is fetched
    from the system, page by page, in each pass, and a full-batch update spends much of its time so.

    Does nothing where the C library is another.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # more than any activation of the usual batches
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
