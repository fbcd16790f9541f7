"""How torch computes: device, threads, precision, seeds and memory."""

import ctypes
import random
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from spinup.errors import UserError

ALIGNMENT = 64  # bytes; on some CPUs the last digits of a matrix product depend on the operands' addresses modulo this


def setup(seed: int, device: str = "cpu", threads: int = 1, matmul_precision: str = "highest") -> torch.device:
    """Seed Python, numpy and torch, set CPU threads and the precision of products, and return the checked device.

    matmul_precision: of float32 matrix products: "highest" is float32; "high" allows TF32 if the hardware has it;
    "medium" also allows bfloat16, and uses it for hidden layers on CPUs that have it (nets.HiddenLinear)

    One thread is the default because the usual networks, (64, 64), are so small that synchronizing a second one costs
    more than it gains; image policies and wide layers benefit from more.

    Raises UserError for a device that isn't available.
    """
    if threads < 1:
        raise UserError(f"threads is {threads}; it must be at least 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; it must lie in 0 to {2**32 - 1}")
    seed = int(seed)
    torch.set_default_dtype(torch.float32)  # a script may have set other defaults,
    torch.set_default_device(None)  # and a run creates its tensors on its own device
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(matmul_precision)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        device = torch.device("cuda" if device == "gpu" else device)
        torch.zeros(1, device=device).item()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError, ModuleNotFoundError):
        available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        available += ["mps"] if torch.backends.mps.is_available() else []
        raise UserError(f"device '{device}' is not available here; available: {', '.join(available)}") from None
    return device


def aligned(x: torch.Tensor) -> torch.Tensor:
    """x, (...), or a copy if its address isn't a multiple of ALIGNMENT, as with numpy's arrays but not torch's own."""
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware, as far as torch knows."""
    return hasattr(torch.cpu, "get_capabilities") and torch.cpu.get_capabilities().get("avx512_bf16", False)


def free_memory(device: torch.device) -> int | None:
    """Bytes available on `device`; None if unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = []
    with suppress(OSError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with suppress(OSError, ValueError):  # a container's limit; "max", which isn't a number, if it has none
        limit, used, stat = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current", "stat"))
        cache = dict(line.split() for line in stat.splitlines()).get("inactive_file", 0)  # reclaimable
        limits.append(int(limit) - int(used) + int(cache))
    return min(limits, default=None)


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory. By default it returns every block above 128 KiB to the system, so that
    each pass of a full-batch update spends much of its time getting memory for its activations, page by page.

    Does nothing with another C library.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # more than any activation of the usual batches
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
