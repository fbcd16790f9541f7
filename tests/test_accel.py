"""spinup.compute.accel: seeds, threads, precision, devices and memory."""

import ctypes
import os
import random
import sys
import types

import numpy as np
import pytest
import torch

from spinup.compute import accel
from spinup.compute.accel import free_memory, keep_freed_memory, setup
from spinup.errors import UserError


@pytest.fixture(autouse=True)
def restored():
    """Restores threads, precision and random states after each test."""
    precision = torch.get_float32_matmul_precision()
    threads, states = torch.get_num_threads(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_the_same_seed_gives_the_same_numbers_everywhere():
    setup(3)
    first, second = draws(), draws()
    setup(3)
    assert draws() == first
    setup(4)
    other = draws()
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert all(a != b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("seed", [0, 2**32 - 1, np.int64(3), np.uint32(7)])
def test_valid_seeds(seed):
    setup(seed)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(seed):
    with pytest.raises(UserError, match=rf"seed is {seed}; it must lie in 0 to 4294967295"):
        setup(seed)


def test_threads():
    for threads in (2, 1):
        setup(0, threads=threads)
        assert torch.get_num_threads() == threads
    setup(0)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("threads", [0, -2])
def test_threads_below_one_are_an_error(threads):
    with pytest.raises(UserError, match=f"threads is {threads}; it must be at least 1"):
        setup(0, threads=threads)


def test_matmul_precision():
    for precision in ("medium", "high", "highest"):
        setup(0, matmul_precision=precision)
        assert torch.get_float32_matmul_precision() == precision
    torch.set_float32_matmul_precision("medium")
    setup(0)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_device_is_returned(device):
    assert setup(0, device) == torch.device(device)
    assert isinstance(setup(0, device), torch.device)


@pytest.mark.parametrize("device", ["cup", "", "cuda:99", "vulkan", "hpu"])
def test_an_unavailable_device_is_an_error_that_lists_the_available_ones(device):
    with pytest.raises(UserError, match=rf"device '{device}' is not available here; available: cpu") as error:
        setup(0, device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_gpu_is_another_name_for_cuda(device, monkeypatch):
    monkeypatch.setattr(torch, "zeros", lambda *args, device: torch.ones(1))  # as on a machine with a GPU
    assert setup(0, device) == torch.device("cuda")


def test_malloc_is_configured_only_on_linux(monkeypatch):
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        taken = []

        class Recorder:
            def mallopt(self, *args):
                taken.append(libc.mallopt(*args))

        with monkeypatch.context() as m:
            m.setattr(ctypes, "CDLL", lambda name: Recorder())
            keep_freed_memory()
        assert taken == [1, 1]  # mallopt returns 1 for success
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # another C library
    keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("opened the C library"))
    keep_freed_memory()


# ---- free memory

MEMINFO = "MemTotal:  16000000 kB\nMemFree:  1000000 kB\nMemAvailable:   8000000 kB\nBuffers:  1 kB\n"
CGROUP = "/sys/fs/cgroup/memory."


def pretend(monkeypatch, **files):
    """Let only these files exist: meminfo, and a container's memory.max, memory.current and memory.stat."""
    texts = {"/proc/meminfo" if name == "meminfo" else f"{CGROUP}{name}": text for name, text in files.items()}

    def read_text(path):
        if path not in texts:
            raise FileNotFoundError(path)
        return texts[path]

    def path(name):
        return types.SimpleNamespace(read_text=lambda *_: read_text(str(name)))

    monkeypatch.setattr(accel, "Path", path)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (dict(meminfo=MEMINFO), 8_000_000 * 1024),
        (dict(meminfo=MEMINFO, max="max\n", current="5\n"), 8_000_000 * 1024),  # a container without a limit
        (dict(meminfo=MEMINFO, max="2000000000\n", current="500000000\n", stat=""), 1_500_000_000),
        (dict(meminfo=MEMINFO, max="999000000000\n", current="5\n"), 8_000_000 * 1024),  # more than the machine has
        (dict(max="2000\n", current="500\n", stat=""), 1500),
        (dict(meminfo="MemTotal:  16000000 kB\n"), None),  # a kernel from before 2014
        ({}, None),  # not Linux
    ],
)
def test_free_memory(monkeypatch, files, free):
    pretend(monkeypatch, **files)
    assert free_memory("cpu") == free


def test_a_containers_file_cache_counts_as_free(monkeypatch):
    """Files that it has read or written stay cached until the memory is needed, up to the limit after a long time."""
    stat = "anon 1000000000\nfile 6900000000\nactive_file 900000000\ninactive_file 6000000000\n"
    pretend(monkeypatch, meminfo=MEMINFO, max="8000000000\n", current="7900000000\n", stat=stat)
    assert free_memory("cpu") >= 6_000_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only known on Linux")
def test_free_memory_of_this_machine():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < free_memory("cpu") < total


@pytest.mark.gpu
def test_free_memory_of_a_gpu():
    assert free_memory("cuda") == pytest.approx(torch.cuda.mem_get_info("cuda")[0], rel=0.1)
