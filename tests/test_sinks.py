"""Sinks: objects, and stand-ins for packages. TensorBoard is tested in test_logger.py."""

import math
import re
import sys
import types
from pathlib import Path

import pytest
from test_resume import ProcessEnded

import spinup
from spinup.errors import UserError, install
from spinup.run import main
from spinup.runs.logger import Logger
from spinup.runs.sinks import NAMED, Trackio, WandB, make_sink

SMALL = dict(num_envs=1, steps_per_epoch=10, train_v_iters=1, checkpoint_freq=2)


class RecordingSink:
    """Records its calls in order."""

    def __init__(self):
        self.calls = []

    def start(self, folder, config, step):
        self.calls.append(("start", folder.name, config.get("algorithm"), step))

    def write(self, row, step):
        self.calls.append((row["Epoch"], step))

    def close(self):
        self.calls.append("close")


class AppendOnlySink(RecordingSink):
    append_only = True


def train(folder, sinks, epochs=5, killed_in=None, resume=False):
    def on_epoch(row):
        if row["Epoch"] == killed_in:
            raise ProcessEnded

    kwargs = dict(output_dir=str(folder / "x"), exp_name="x", quiet=True, resume=resume, sinks=sinks)
    spinup.vpg("CartPole-v1", **SMALL, epochs=epochs, on_epoch=on_epoch, logger_kwargs=kwargs)


def test_a_sink_object_gets_every_row(tmp_path):
    sink = RecordingSink()
    train(tmp_path, [sink], epochs=2)
    assert sink.calls == [("start", "x", "vpg", None), (1, 10), (2, 20), "close"]


def test_a_sink_that_changes_its_row_or_fails_to_close_harms_nothing(tmp_path, capsys):
    class Careless(RecordingSink):
        def write(self, row, step):
            row["Epoch"] = "changed"
            del row["LossPi"]

        def close(self):
            raise ConnectionError("offline")

    sink = RecordingSink()
    train(tmp_path, [Careless(), sink], epochs=2)
    assert sink.calls == [("start", "x", "vpg", None), (1, 10), (2, 20), "close"]
    assert capsys.readouterr().err == "warning: Careless raised ConnectionError: offline in close\n"


def test_a_resumed_run_passes_its_step_and_repeats_no_row(tmp_path):
    """Killed after the row of epoch 3, with a checkpoint of epoch 2."""
    first, second, append_only = RecordingSink(), RecordingSink(), AppendOnlySink()
    with pytest.raises(ProcessEnded):
        train(tmp_path, [first], killed_in=3)
    assert first.calls == [("start", "x", "vpg", None), (1, 10), (2, 20), (3, 30)]
    train(tmp_path, [second, append_only], resume=True)
    assert second.calls == [("start", "x", "vpg", 20), (3, 30), (4, 40), (5, 50), "close"]
    assert append_only.calls == [("start", "x", "vpg", 20), (4, 40), (5, 50), "close"]


def test_resume_keeps_named_sinks_and_accepts_objects(tmp_path, monkeypatch):
    made = []
    monkeypatch.setitem(NAMED, "trackio", lambda: made.append(RecordingSink()) or made[-1])
    train(tmp_path, ["trackio", RecordingSink()], epochs=1)
    sink = RecordingSink()
    spinup.resume(tmp_path / "x", epochs=2, sinks=[sink])
    assert made[1].calls == sink.calls == [("start", "x", "vpg", 10), (2, 20), "close"]


def test_a_closed_logger_without_rows_starts_no_sink(tmp_path):
    sink = RecordingSink()
    Logger(tmp_path / "x", quiet=True, sinks=[sink]).close()
    assert sink.calls == []


def test_the_sink_in_the_documentation_has_ten_lines_and_works(tmp_path, capsys):
    page = (Path(__file__).parents[1] / "docs" / "outputs.md").read_text(encoding="utf-8")
    source = re.search(r"\nclass BestSoFar:\n(?:(?: .*)?\n)+", page)[0].strip()
    assert len(source.splitlines()) <= 10
    namespace = {}
    exec(source, namespace)
    with Logger(tmp_path / "x", quiet=True, sinks=[namespace["BestSoFar"]()]) as logger:
        for ret in (3.0, math.nan, 20.0, 10.0):  # NaN: no episode ended
            logger.log_tabular("AverageEpRet", ret)
            logger.dump_tabular()
    assert capsys.readouterr().out == "best mean return of an epoch: 20.0\n"


# ---- packages


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins for wandb and trackio; returns the list of calls."""
    calls = []
    run = types.SimpleNamespace(
        log=lambda row, step: calls.append(("wandb", row, step)), finish=lambda: calls.append("wandb ends")
    )
    wandb = types.SimpleNamespace(init=lambda **kwargs: calls.append(kwargs) or run)
    trackio = types.SimpleNamespace(
        init=lambda **kwargs: calls.append(kwargs),
        log=lambda row, step: calls.append(("trackio", row, step)),
        finish=lambda: calls.append("trackio ends"),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    return calls


def test_packages_get_only_numbers(tmp_path, packages):
    with Logger(tmp_path / "run", exp_name="e", quiet=True, sinks="wandb,trackio") as logger:
        logger.save_config({"seed": 3})
        for key, value in {"Epoch": 1, "Word": "x", "TotalEnvInteracts": 400}.items():
            logger.log_tabular(key, value)
        logger.dump_tabular()
    begun, logged = [x for x in packages if isinstance(x, dict)], [x for x in packages if not isinstance(x, dict)]
    row = {"Epoch": 1, "TotalEnvInteracts": 400}
    assert logged == [("wandb", row, 400), ("trackio", row, 400), "wandb ends", "trackio ends"]
    begun = [(x["project"], x["name"], x["config"]["seed"], x["resume"]) for x in begun]
    assert begun == [("e", "run", 3, "allow")] * 2


def test_a_resumed_run_keeps_its_wandb_id(tmp_path, packages):
    train(tmp_path, ["wandb"], epochs=1)
    spinup.resume(tmp_path / "x", epochs=2)
    train(tmp_path / "other", ["wandb"], epochs=1)
    first, again, other = (x["id"] for x in packages if isinstance(x, dict))
    assert first == again != other
    assert [x[2] for x in packages if isinstance(x, tuple)] == [10, 20, 10]


@pytest.mark.parametrize(
    ("argument", "variable", "project"),
    [(None, None, "e"), (None, "mine", None), ("given", None, "given"), ("given", "mine", "given")],
)
def test_the_wandb_project(tmp_path, packages, monkeypatch, argument, variable, project):
    """wandb.init reads $WANDB_PROJECT only if it gets no project."""
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if variable:
        monkeypatch.setenv("WANDB_PROJECT", variable)
    with Logger(tmp_path / "run", exp_name="e", quiet=True, sinks=[WandB(argument)]) as logger:
        logger.save_config({})
        logger.log_tabular("Epoch", 1)
        logger.dump_tabular()
    assert packages[0]["project"] == project


def test_the_trackio_project(tmp_path, packages):
    with Logger(tmp_path / "run", exp_name="e", quiet=True, sinks=[Trackio("given")]) as logger:
        logger.log_tabular("Epoch", 1)
        logger.dump_tabular()
    assert packages[0]["project"] == "given"


def test_wandb_without_a_saved_config(tmp_path, packages):
    with Logger(tmp_path / "run", exp_name="e", quiet=True, sinks="wandb") as logger:
        logger.log_tabular("Epoch", 1)
        logger.dump_tabular()
    assert packages[0]["id"] is None


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_reported_before_a_folder_is_created(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=re.escape(install(name))):
        Logger(tmp_path / "run", sinks=[name])
    assert not (tmp_path / "run").exists()


# ---- mistakes


def test_an_unknown_sink(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ppo", "--env", "CartPole-v1", "--data_dir", str(tmp_path), "--sinks", "wandbb", "--quiet"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "spinup: error: unknown sink 'wandbb'; the sinks are tensorboard, wandb, trackio; did you mean 'wandb'?\n"
    )


@pytest.mark.parametrize("missing", ["start", "write", "close"])
def test_a_sink_without_a_method(missing):
    methods = {name: lambda *args: None for name in ("start", "write", "close") if name != missing}
    with pytest.raises(UserError, match=f"has no method '{missing}'"):
        make_sink(types.SimpleNamespace(**methods))


@pytest.mark.parametrize(
    ("sinks", "message"),
    [
        (RecordingSink(), "sinks is <.*RecordingSink.*>; it must be a list of names and objects"),
        (None, "sinks is None; it must be a list"),
        ([RecordingSink], r"sinks has the class RecordingSink; it needs an object of it: RecordingSink\(\)"),
    ],
)
def test_sinks_of_another_type(tmp_path, sinks, message):
    with pytest.raises(UserError, match=message):
        Logger(output_dir=tmp_path / "run", quiet=True, sinks=sinks)
