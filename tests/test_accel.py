"""Seeds, threads and the device."""

import ctypes
import random
import sys

import numpy as np
import pytest
import torch

from spinup.accel import keep_freed_memory, setup
from spinup.errors import UserError


@pytest.fixture(autouse=True)
def restored():
    """Threads and random streams as they were."""
    threads, states = torch.get_num_threads(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    yield
    torch.set_num_threads(threads)
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
def test_good_seeds(seed):
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


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_device_is_returned(device):
    assert setup(0, device) == torch.device(device)
    assert isinstance(setup(0, device), torch.device)


@pytest.mark.parametrize("device", ["cup", "", "cuda:99", "vulkan", "hpu"])
def test_a_device_that_is_not_there_is_an_error_that_lists_what_is(device):
    with pytest.raises(UserError, match=rf"device '{device}' is not available here; available: cpu") as error:
        setup(0, device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_gpu_is_another_name_for_cuda(device, monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: None)  # as on a machine that has one
    assert setup(0, device) == torch.device("cuda")


def test_malloc_takes_its_settings_on_linux_and_is_left_alone_elsewhere(monkeypatch):
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        taken = []

        class Recorder:
            def mallopt(self, *args):
                taken.append(libc.mallopt(*args))

        with monkeypatch.context() as m:
            m.setattr(ctypes, "CDLL", lambda name: Recorder())
            keep_freed_memory()
        assert taken == [1, 1]  # what mallopt returns where it took the value
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # another C library
    keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("opened the C library"))
    keep_freed_memory()
