"""The logger: exact statistics and files first, then its output in a pipe and on a terminal."""

import functools
import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spinup
from spinup.compute import mpi
from spinup.errors import UserError, install
from spinup.runs import logger as logger_module
from spinup.runs.config import _git, convert_json, provenance, setup_logger_kwargs
from spinup.runs.logger import EpochLogger, Logger
from spinup.system.terminal import abbreviate, colorize, format_table, format_value

ROOT = Path(__file__).parent.parent
nan, inf = math.nan, math.inf


@pytest.fixture
def log(tmp_path):
    with EpochLogger(tmp_path / "run", quiet=True) as logger:
        yield logger


def lines(logger):
    return (logger.output_dir / "progress.txt").read_text().split("\n")


def strict_json(path):
    """json.loads alone accepts NaN and Infinity, which aren't JSON."""
    return json.loads(Path(path).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# ---- statistics


def test_statistics_by_hand(log):
    log.store(X=1)
    log.store(X=[2.0, 3.0])
    log.store(X=np.array([[4]], dtype=np.int8))
    log.store(X=torch.tensor([5.0], dtype=torch.bfloat16, requires_grad=True))
    log.store(X=[])
    assert log.get_stats("X") == pytest.approx((3.0, math.sqrt(2.0), 1.0, 5.0), abs=1e-15)
    log.store(X=[torch.tensor(6.0, requires_grad=True), True])  # now 1..6 and 1: mean 22/7, mean square 92/7
    assert log.get_stats("X") == pytest.approx((22 / 7, math.sqrt(92 / 7 - (22 / 7) ** 2), 1.0, 6.0), abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3), max_size=6), max_size=8),
    st.sampled_from([0.0, 1e8]),  # far from zero, a sum of squares would lose every digit of the deviation
)
def test_merged_batches_equal_the_whole_sample(batches, offset):
    statistics = logger_module._RunningStats()
    for batch in batches:
        statistics.add(np.array(batch) + offset)
    x = np.concatenate([np.array(batch, dtype=float) + offset for batch in batches] or [np.array([])])
    if x.size == 0:
        assert all(map(math.isnan, statistics.stats()))
    else:
        assert statistics.stats() == pytest.approx(
            (x.mean(), x.std(), x.min(), x.max()), rel=1e-12, abs=1e-6 if offset else 1e-9
        )


def test_constant_data_has_zero_std(log):
    for n in (1, 3, 7):
        log.store(X=np.full(n, 0.1))
    assert log.get_stats("X") == pytest.approx((0.1, 0.0, 0.1, 0.1), abs=1e-16)


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([[1.0, nan], [2.0]], (nan, nan, nan, nan)),
        ([2.0, nan, 3.0], (nan, nan, nan, nan)),
        ([inf], (inf, nan, inf, inf)),
        ([[1.0, inf], 2.0], (inf, nan, 1.0, inf)),
        ([2.0, [inf, 5.0]], (inf, nan, 2.0, inf)),
        ([inf, -inf], (nan, nan, -inf, inf)),
    ],
)
def test_non_finite_values(log, batches, expected):
    for batch in batches:
        log.store(X=batch)
    np.testing.assert_equal(log.get_stats("X"), expected)


def test_values_that_are_never_logged_do_not_accumulate(log):
    log.store(Unused=np.arange(3.0))
    before = len(pickle.dumps(log._running))
    for _ in range(1000):
        log.store(Unused=np.arange(3.0))
    assert len(pickle.dumps(log._running)) <= before + 16


def test_store_copies_tensors(log):
    """The caller may change its tensors before the row is written."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    log.store(X=x)
    with torch.no_grad():
        x.mul_(100)
    log.store(X=x.detach())
    x.data.zero_()
    assert log.get_stats("X") == pytest.approx((303 / 4, np.std([1, 2, 100, 200]), 1, 200))


@pytest.mark.parametrize("n", [1, 99, 100, 101, 999, 1000, 1001, 2500])
def test_pending_tensors_are_counted_exactly_once(log, n):
    for i in range(n):
        log.store(X=torch.tensor([float(i), -1.0]), Y=torch.tensor(2.0 * i))
    x = np.concatenate([np.arange(n), np.full(n, -1)])
    for _ in range(2):  # get_stats doesn't reset the statistics
        assert log.get_stats("X") == pytest.approx((x.mean(), x.std(), -1, n - 1))
    log.log_tabular("X")
    log.log_tabular("Y", average_only=True)
    assert log.log_current_row["Y"] == n - 1
    assert np.isnan(log.get_stats("X")).all()
    assert np.isnan(log.get_stats("Y")).all()


def test_tensors_and_numbers_under_one_key(log):
    log.store(X=torch.tensor([1.0, 2.0]))
    log.store(X=3.0)
    log.store(X=[4, 5])
    log.store(X=torch.tensor(6))  # an integer
    log.store(X=torch.tensor([[7.0], [8.0]], dtype=torch.float64))
    assert log.get_stats("X")[0] == pytest.approx(4.5)
    assert log.get_stats("X")[2:] == (1, 8)


def test_tensors_that_are_never_logged_do_not_accumulate(log):
    for i in range(3000):
        log.store(Unused=torch.ones(2))
        assert len(log._pending.get("Unused", [])) <= 1000, i


@pytest.mark.parametrize("value", ["high", [1.0, "x"], object(), [[1.0], [2.0, 3.0]]])
def test_store_accepts_only_numbers(log, value):
    with pytest.raises(UserError, match=r"^store\(EpRet=\.\.\.\) takes numbers"):
        log.store(EpRet=value)


def test_statistics_cover_all_processes(tmp_path, monkeypatch):
    """Three ranks as threads; if one of them skipped a collective call, the barrier would break."""
    data = [[1.0, 2.0, 6.0], [], [5.0]]  # 1 2 6 5: mean 3.5, mean square 16.5
    local, barrier, box = threading.local(), threading.Barrier(3, timeout=10), [None] * 3

    def collective(reduce):
        def call(x):
            box[local.rank] = np.asarray(x, dtype=float)
            barrier.wait()
            result = reduce(np.stack(box), axis=0)
            barrier.wait()
            return result

        return call

    for name, reduce in (("mpi_sum", np.sum), ("mpi_min", np.min), ("mpi_max", np.max)):
        monkeypatch.setattr(mpi, name, collective(reduce))
    monkeypatch.setattr(mpi, "num_procs", lambda: 3)
    monkeypatch.setattr(mpi, "proc_id", lambda: local.rank)
    results, errors = [None] * 3, []

    def run(rank):
        try:
            local.rank = rank
            logger = EpochLogger(tmp_path / "run", quiet=True)
            logger.store(X=data[rank])
            results[rank] = logger.get_stats("X"), logger.get_stats("Nowhere")
            logger.log_tabular("X", with_min_and_max=True)
            logger.dump_tabular()
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for stats, empty in results:
        assert stats == pytest.approx((3.5, math.sqrt(16.5 - 3.5**2), 1.0, 6.0))
        assert all(map(math.isnan, empty))
    assert os.listdir(tmp_path) == ["run"]  # created once, by rank 0
    assert (tmp_path / "run" / "progress.txt").read_text().startswith("AverageX\tStdX\tMaxX\tMinX\n3.5\t")


# ---- progress.txt


def test_columns_and_cells(log):
    log.store(EpRet=[1.0, 3.0], EpLen=[5, 7])
    log.log_tabular("Epoch", 1)
    log.log_tabular("EpRet", with_min_and_max=True)
    log.log_tabular("EpLen", average_only=True)
    log.store(EpLen=100)  # after EpLen was logged: belongs to the next row
    log.log_tabular("VVals")
    log.log_tabular("Note", "two\twords\n")
    log.log_tabular("Third", 1 / 3)
    log.log_tabular("Tensor", torch.tensor([0.5], requires_grad=True))
    log.log_tabular("Array", np.array([[2]]))
    log.dump_tabular()
    log.log_tabular("EpLen", average_only=True)
    log.dump_tabular()
    assert lines(log) == [
        "Epoch\tAverageEpRet\tStdEpRet\tMaxEpRet\tMinEpRet\tEpLen\tAverageVVals\tStdVVals\tNote\tThird\tTensor\tArray",
        "1\t2.0\t1.0\t3.0\t1.0\t6.0\tnan\tnan\ttwo words\t0.3333333333333333\t0.5\t2",
        "\t".join(["nan"] * 5 + ["100.0"] + ["nan"] * 6),
        "",
    ]


def test_late_columns_widen_the_table(log):
    rows = [{"A": 1}, {"A": 2, "B": 3}, {"B": 4}, {"C": 5, "A": 6}]
    expected = [["A", "1"], ["A\tB", "1\tnan", "2\t3"], ["A\tB", "1\tnan", "2\t3", "nan\t4"]]
    expected += [["A\tB\tC", "1\tnan\tnan", "2\t3\tnan", "nan\t4\tnan", "6\tnan\t5"]]
    for row, so_far in zip(rows, expected, strict=True):
        for key, value in row.items():
            log.log_tabular(key, value)
        log.dump_tabular()
        assert lines(log) == [*so_far, ""]


def test_an_empty_row_is_not_written(log):
    log.dump_tabular()
    assert lines(log) == [""]


def test_a_key_can_be_logged_once_per_row(log):
    log.log_tabular("A", 1)
    with pytest.raises(UserError, match="A is already in this row"):
        log.log_tabular("A", 2)


def test_a_full_disk_leaves_no_partial_line(log):
    resource = pytest.importorskip("resource")
    for i in range(2):
        log.log_tabular("LongColumnName", i)
        log.dump_tabular()
    whole = lines(log)
    log.log_tabular("LongColumnName", 123456)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.output_file.stat().st_size + 3, old[1]))  # room for three bytes
    try:
        with pytest.raises(UserError, match=r"cannot write .*progress\.txt: .*--data_dir"):
            log.dump_tabular()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert lines(log) == whole


def test_a_failed_rewrite_leaves_the_old_file(log, monkeypatch):
    log.log_tabular("A", 1)
    log.dump_tabular()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    log.log_tabular("B", 2)
    with pytest.raises(UserError, match="Permission denied"):
        log.dump_tabular()
    assert lines(log) == ["A", "1", ""]
    assert sorted(os.listdir(log.output_dir)) == [".lock", "progress.txt"]


# ---- config.json


class Mute:
    def __repr__(self):
        raise RuntimeError("no")


class Plain:
    __slots__ = ()


def test_convert_json_by_hand():
    loop = [1]
    loop.append({"again": loop})
    shared = [1]
    deep = []
    for _ in range(2000):
        deep = [deep]
    values = {
        "plain": (None, True, 3, 0.5, "s"),
        "not finite": [nan, inf, -inf, np.float32("nan"), np.longdouble("inf")],
        "numpy": [np.int64(3), np.float32(0.5), np.bool_(True), np.longdouble(2), np.array([[1, 2]]), np.array(nan)],
        "tensors": [torch.tensor([1.5, inf]), torch.tensor(2), torch.zeros(40, 40)],
        "set": {3, 1, 2},
        "keys": {1: "a", (1, 2): "b", None: "c", torch.nn.Tanh: "d"},
        "classes": [torch.nn.Tanh, OrderedDict, Plain, int],
        "functions": [len, os.path.join, Logger.log, str.upper],
        "lambda": lambda x: x,
        "partial": functools.partial(torch.nn.Linear, 3, bias=False),
        "torch": [torch.float32, torch.device("cpu")],
        "path": Path("a") / "b",
        "objects": [Plain(), object(), Mute(), 1 + 2j, b"x"],
        "surrogate": "\ud800",
        "loop": loop,
        "shared": [shared, shared],
    }
    here = __name__
    converted = convert_json(values)
    line = converted["lambda"].rpartition(":")[2].rstrip(")")
    assert converted == {
        "plain": [None, True, 3, 0.5, "s"],
        "not finite": ["nan", "inf", "-inf", "nan", "inf"],
        "numpy": [3, 0.5, True, 2.0, [[1, 2]], "nan"],
        "tensors": [[1.5, "inf"], 2, "Tensor of shape (40, 40), torch.float32"],
        "set": [1, 2, 3],
        "keys": {"1": "a", "[1, 2]": "b", "None": "c", "torch.nn.modules.activation.Tanh": "d"},
        "classes": ["torch.nn.modules.activation.Tanh", "collections.OrderedDict", f"{here}.Plain", "builtins.int"],
        "functions": [
            "builtins.len",
            f"{os.path.__name__}.join",
            "spinup.runs.logger.Logger.log",
            "builtins.str.upper",
        ],
        "lambda": f"{here}.test_convert_json_by_hand.<locals>.<lambda> (test_logger.py:{line})",
        "partial": "partial(torch.nn.modules.linear.Linear, 3, bias=False)",
        "torch": ["torch.float32", "cpu"],
        "path": str(Path("a") / "b"),
        "objects": [f"<{here}.Plain object>", "<object object>", f"<{here}.Mute>", "(1+2j)", "b'x'"],
        "surrogate": "\ud800",
        "loop": [1, {"again": "<cycle>"}],
        "shared": [[1], [1]],
    }
    assert "lambda x: x" in Path(__file__).read_text().splitlines()[int(line) - 1]
    assert "<nested too deeply>" in json.dumps(convert_json(deep))


def test_config_is_strict_json(log):
    config = {"gamma": nan, "env_fn": lambda: None, "nasty": {("a", 1): Mute()}, "seed": 3, "surrogate": "\ud800"}
    config["self"] = config
    log.save_config(config)
    saved = strict_json(log.output_dir / "config.json")
    assert saved["exp_name"] == "run"  # default: the folder's name
    assert saved["seed"] == 3
    assert saved["run"]["torch"] == torch.__version__  # includes the build, as in 2.13.0+cu130
    assert saved["run"]["processes"] == 1
    assert saved["run"]["threads"] == torch.get_num_threads()
    assert {"command", "started", "spinup", "python", "numpy", "gymnasium", "git", "device"} <= saved["run"].keys()


def test_commit_of_the_working_directory(tmp_path, monkeypatch):
    def git(*args):
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *settings, *args], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.chdir(tmp_path)
    try:
        git("init")
    except OSError:
        pytest.skip("no git")
    assert _git(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    assert provenance({})["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert provenance({})["git"]["dirty"]
    monkeypatch.setenv("PATH", "")
    assert provenance({})["git"] is None


# ---- the run's folder


def test_folder_names(monkeypatch):
    monkeypatch.delenv("SPINUP_DATA_DIR", raising=False)
    assert setup_logger_kwargs("ppo", 3) == {"output_dir": os.path.join("data", "ppo", "ppo_s3"), "exp_name": "ppo"}
    assert setup_logger_kwargs("ppo")["output_dir"] == os.path.join("data", "ppo", "ppo")
    monkeypatch.setenv("SPINUP_DATA_DIR", "elsewhere")
    assert setup_logger_kwargs("ppo", 0)["output_dir"] == os.path.join("elsewhere", "ppo", "ppo_s0")
    assert setup_logger_kwargs("ppo", 0, "here")["output_dir"] == os.path.join("here", "ppo", "ppo_s0")
    date = r"\d{4}-\d\d-\d\d"
    stamped = setup_logger_kwargs("ppo", 0, "here", datestamp=True)["output_dir"]
    assert re.fullmatch(rf"here/{date}_ppo/{date}_\d\d-\d\d-\d\d-ppo_s0", Path(stamped).as_posix())


def test_no_run_is_overwritten(tmp_path, capsys):
    folder = tmp_path / "ppo_s0"
    folder.mkdir()
    (folder / "stdout.log").write_text("a folder without a run is used as it is")
    loggers = [Logger(folder, quiet=True) for _ in range(3)]
    assert [logger.output_dir.name for logger in loggers] == ["ppo_s0", "ppo_s0-2", "ppo_s0-3"]
    assert {logger.exp_name for logger in loggers} == {"ppo_s0"}
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"warning: {folder} already contains a run; this one goes to {folder}-2",
        f"warning: {folder} already contains a run; this one goes to {folder}-3",
    ]


def test_a_folder_with_only_a_config_is_a_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert Logger(tmp_path, quiet=True).output_dir == tmp_path.with_name(tmp_path.name + "-2")


def test_current_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert [Logger(".", quiet=True).output_dir.name for _ in range(2)] == ["here", "here-2"]
    assert capsys.readouterr().err.count("warning") == 1


def test_concurrent_loggers_get_different_folders(tmp_path):
    folders, barrier = [], threading.Barrier(8)

    def start():
        barrier.wait()
        folders.append(logger_module._create_folder(tmp_path / "a" / "run", "progress.txt")[0].name)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folders) == ["run", *(f"run-{i}" for i in range(2, 9))]


@pytest.mark.parametrize("folder", ["file", "file/run"])
def test_a_folder_that_cannot_be_created(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write .*{folder}: .*--data_dir"):
        Logger(tmp_path / folder, quiet=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(output_dir=5), "output_dir is 5; it must be the path of a folder, or None"),
        (dict(output_dir=0), "output_dir is 0; it must be the path of a folder, or None"),
        (dict(output_dir=b"x", resume=True), "output_dir is b'x'; it must be the path of a folder, or None"),
        (dict(exp_name=5), "exp_name is 5; it must be a string, or None"),
    ],
)
def test_a_folder_or_name_of_the_wrong_type(arguments, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        Logger(quiet=True, **arguments)


# ---- the model


def test_save_state(log):
    with pytest.raises(UserError, match="setup_pytorch_saver"):
        log.save_state()
    with pytest.raises(UserError, match="not a dict"):
        log.setup_pytorch_saver({})
    module = torch.nn.Linear(2, 1)
    log.setup_pytorch_saver(module)
    log.save_state()
    log.save_state(7)
    assert sorted(os.listdir(log.output_dir)) == [".lock", "model.pt", "model7.pt", "progress.txt"]
    for name in ("model.pt", "model7.pt"):
        state = torch.load(log.output_dir / name, weights_only=True)
        assert list(state) == ["weight", "bias"]
        assert torch.equal(state["weight"], module.weight)


def test_a_failed_save_leaves_the_old_model(log, monkeypatch):
    module = torch.nn.Linear(2, 1)
    log.setup_pytorch_saver(module)
    log.save_state()
    old = (log.output_dir / "model.pt").read_bytes()

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    torch.nn.init.zeros_(module.weight)
    with pytest.raises(UserError, match=r"model\.pt: Input/output error"):
        log.save_state()
    assert (log.output_dir / "model.pt").read_bytes() == old
    assert sorted(os.listdir(log.output_dir)) == [".lock", "model.pt", "progress.txt"]


def test_only_rank_0_writes_and_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mpi, "proc_id", lambda: 1)
    with EpochLogger(tmp_path / "run", tensorboard=True) as logger:
        logger.save_config({})
        logger.setup_pytorch_saver(torch.nn.Linear(1, 1))
        logger.save_state()
        logger.store(X=1)
        logger.log_tabular("X")
        logger.dump_tabular()
        logger.log("hello")
        logger.warn("hello")
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr() == ("", "")


# ---- TensorBoard


def test_tensorboard_gets_every_number(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, log_dir, purge_step, filename_suffix):
            assert purge_step is None
            assert re.fullmatch(r"\.[0-9a-f]{16}", filename_suffix)
            calls.append(Path(log_dir).name)

        def add_scalar(self, *args):
            calls.append(args)

        def close(self):
            calls.append("closed")

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    with Logger(tmp_path / "run", quiet=True, tensorboard=True) as logger:
        for key, value in {"Epoch": 1, "Word": "x", "KL": np.float32(0.5), "TotalEnvInteracts": 4000}.items():
            logger.log_tabular(key, value)
        logger.dump_tabular()
    assert calls == [
        "run", ("Epoch", 1, 4000), ("KL", 0.5, 4000), ("TotalEnvInteracts", 4000, 4000), "closed"
    ]  # fmt: skip


def test_tensorboard_hides_rows_that_are_written_again(tmp_path, monkeypatch):
    """Killed after epoch 3 with a checkpoint of epoch 2: the row of epoch 3 is hidden and written again."""
    opened = []

    class SummaryWriter:
        def __init__(self, log_dir, purge_step, filename_suffix):
            opened.append(purge_step)

        def add_scalar(self, *args):
            pass

        def close(self):
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))

    def row(logger, epoch):
        logger.log_tabular("Epoch", epoch)
        logger.log_tabular("TotalEnvInteracts", 400 * epoch)
        logger.dump_tabular()

    with Logger(tmp_path / "run", quiet=True, tensorboard=True) as logger:
        row(logger, 1), row(logger, 2)
        saved = logger.state_dict()
        row(logger, 3)
    with Logger(tmp_path / "run", quiet=True, tensorboard=True, resume=True) as logger:
        logger.load_state_dict(saved)
        row(logger, 3)
        saved = logger.state_dict()
    with Logger(tmp_path / "run", quiet=True, tensorboard=True, resume=True) as logger:
        logger.load_state_dict(saved)
        row(logger, 4)
    with Logger(tmp_path / "run", quiet=True, tensorboard=True, resume=True) as logger:
        logger.clear_table()  # no checkpoint: all rows are written again
        row(logger, 1)
    assert opened == [None, 801, 1201, 0]


def test_tensorboard_of_a_killed_run(tmp_path):
    """As TensorBoard itself reads the files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def train(**more):
        settings = dict(num_envs=1, steps_per_epoch=10, epochs=5, checkpoint_freq=2, train_v_iters=1)
        logger_kwargs = dict(output_dir=str(tmp_path / "x"), exp_name="x", quiet=True, tensorboard=True, **more)
        spinup.vpg("CartPole-v1", **settings, on_epoch=fail if not more else None, logger_kwargs=logger_kwargs)

    def fail(row):
        if row["Epoch"] == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    time.sleep(1.1)  # its file names have a resolution of a second
    train(resume=True)
    events = accumulator.EventAccumulator(str(tmp_path / "x")).Reload().Scalars("Epoch")
    assert [(event.step, event.value) for event in events] == [(10 * i, i) for i in range(1, 6)]


def test_tensorboard_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=re.escape(install("tensorboard"))):
        Logger(tmp_path / "run", tensorboard=True)
    assert os.listdir(tmp_path) == []


# ---- output


def test_colorize():
    assert colorize("x", "red") == "\x1b[31mx\x1b[0m"
    assert colorize("x", "green", bold=True, highlight=True) == "\x1b[42;1mx\x1b[0m"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (0.0, "0"),
        (12345.678, "12,346"),
        (123.456, "123.5"),
        (-0.0012345, "-0.001234"),
        (0.00012345, "0.000123"),
        (1.5e-7, "1.5e-07"),
        (2.5e9, "2.5e+09"),
        (nan, "nan"),
        (-inf, "-inf"),
        ("a\nb", "a b"),
        (None, "nan"),
    ],
)
def test_format_value(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0"), (999, "999"), (2048, "2.05k"), (999_999, "1M"), (1_024_000, "1.02M"), (3e9, "3G")]
)
def test_abbreviate(n, text):
    assert abbreviate(n) == text


def test_table_by_hand():
    row = {"Epoch": 3, "AverageEpRet": 12.5, "KL": 0.01}
    wide = "Epoch                3   KL      0.01"
    assert format_table(row, 40) == "\n".join(["-" * len(wide), wide, "AverageEpRet      12.5"])
    assert format_table(row, 10).split("\n")[1:] == [
        "Epoch                3",
        "AverageEpRet      12.5",
        "KL                0.01",
    ]


TRAIN = """
import sys
from spinup.runs.logger import EpochLogger

logger = EpochLogger(sys.argv[1], exp_name="ppo")
logger.save_config({"steps_per_epoch": 1000, "epochs": 3})
for epoch in (1, 2):
    logger.store(EpRet=[20.0] if epoch == 1 else [])  # no episode ends in epoch 2
    logger.log_tabular("Epoch", epoch)
    logger.log_tabular("EpRet")
    logger.log_tabular("TotalEnvInteracts", 1000 * epoch)
    logger.dump_tabular()
if "fail" in sys.argv:
    raise RuntimeError("boom")
logger.log("bye")
logger.close()
assert "torch" not in sys.modules
"""


def child(tmp_path, *args, env=(), **kwargs):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TRAIN))
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    env = {**clean, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **dict(env)}
    return subprocess.Popen([sys.executable, str(script), str(tmp_path / "run"), *args], env=env, **kwargs)


def test_plain_lines_in_a_pipe(tmp_path):
    process = child(tmp_path, env={"FORCE_COLOR": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out = process.communicate(timeout=60)[0].decode()
    rule = "-" * 52
    run = tmp_path / "run"
    assert process.returncode == 0, out
    assert out.splitlines() == [
        f"Logging to {run}",
        rule,
        "Epoch                1   StdEpRet                  0",
        "AverageEpRet        20   TotalEnvInteracts     1,000",
        rule,
        "Epoch                2   StdEpRet                nan",
        "AverageEpRet       nan   TotalEnvInteracts     2,000",
        "bye",
        f"The run is in {run}",
    ]


def run_on_a_terminal(tmp_path, *args, env=()):
    """The output on a terminal of 80 columns, and the exit status."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    with child(tmp_path, *args, env=env, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        received = b""
        try:
            while chunk := os.read(master, 65536):
                received += chunk
        except OSError:  # how Linux reports that the other side is closed
            pass
        os.close(master)
    return received.decode(), process.returncode


def test_progress_bar_on_a_terminal(tmp_path):
    out, status = run_on_a_terminal(tmp_path)
    assert status == 0, out
    assert "0/3k steps" in out
    assert "return" not in out[: out.index("AverageEpRet")]  # no episode has ended yet
    assert re.search(r"━.* 2k/3k steps  [\d.]+[kM]?/s  return 20  0:00:\d\d left", out)
    assert "AverageEpRet        20" in out
    assert "\x1b[32;1mLogging" in out
    assert out.rindex("The run is in") > out.rindex("━")  # the bar was removed
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")  # the cursor is visible


def test_an_exception_restores_the_terminal(tmp_path):
    out, status = run_on_a_terminal(tmp_path, "fail")
    assert status == 1
    assert "RuntimeError: boom" in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")
    assert "━" not in out[out.rindex("\x1b[2K") :]  # the last bar was cleared


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color(tmp_path, env):
    out, status = run_on_a_terminal(tmp_path, env=env)
    assert status == 0, out
    assert not re.search(r"\x1b\[[\d;]*3\d[;m]", out)
    assert ("2k/3k steps" in out) == ("NO_COLOR" in env)  # a dumb terminal can't show a bar


@pytest.mark.parametrize("stream", [io.StringIO(), None, types.SimpleNamespace(write=len, flush=int)])
def test_unusual_stdout(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    with Logger(tmp_path / "run") as logger:
        logger.save_config({"steps_per_epoch": 10, "epochs": 1})
        logger.log_tabular("Epoch", 1)
        logger.dump_tabular()
    assert lines(logger) == ["Epoch", "1", ""]
    if isinstance(stream, io.StringIO):
        assert "Epoch         1\n" in stream.getvalue()


def test_quiet_prints_warnings_only(tmp_path, capsys):
    with EpochLogger(tmp_path / "run", quiet=True) as logger:
        logger.save_config({})
        logger.log("hello")
        logger.log_tabular("Epoch", 1)
        logger.dump_tabular()
        logger.warn("look out")
    assert capsys.readouterr() == ("", "warning: look out\n")


def test_close_prints_once(tmp_path, capsys):
    with Logger(tmp_path / "run") as logger:
        logger.close()
    assert capsys.readouterr().out.count("The run is in") == 1


def test_log_info_cannot_reuse_a_column(tmp_path):
    logger = EpochLogger(output_dir=str(tmp_path / "run"), quiet=True)
    logger.means = ["Speed"]
    logger.store(Speed=1.0)
    logger.log_tabular("Speed", average_only=True)
    with pytest.raises(UserError, match="log_info: the table already has a column 'Speed'"):
        logger.dump_tabular()
