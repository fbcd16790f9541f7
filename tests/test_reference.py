"""data/reference: that it is whole, small and readable, made by the command in benchmarks/, and what it shows."""

import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from spinup.analysis import plot
from spinup.analysis.results import read

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "data" / "reference"
sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, and no package
import plotting  # noqa: E402
import reference  # noqa: E402

ENVS, ALGOS = ("CartPole-v1", "Pendulum-v1"), ("vpg", "trpo", "ppo", "sac")


@pytest.fixture(scope="module")
def df():
    return plot.load(f"{REFERENCE}/")


# ---- the files


def test_complete():
    names = {f"{env}/{algo}/{algo}_s{seed}" for env in ENVS for algo in ALGOS for seed in range(5)}
    files = {path.relative_to(REFERENCE).as_posix() for path in REFERENCE.rglob("*") if path.is_file()}
    assert files == {f"{name}/{file}" for name in names for file in ("config.json", "progress.txt")}
    assert all(reference.complete(REFERENCE / env / algo) for env, algo in reference.FLAGS)


def test_small():
    assert sum(path.stat().st_size for path in REFERENCE.rglob("*")) < 2_000_000


def test_configs_hold_the_command_and_no_machine():
    """Beside the versions, which the figures depend on, nothing that tells one computer from another."""
    for path in REFERENCE.rglob("config.json"):
        text = path.read_text(encoding="utf-8")
        config = json.loads(text)
        env, algo, run = path.relative_to(REFERENCE).parts[:3]
        assert config["run"]["command"] == shlex.join([*reference.command(env, algo, "data/reference"), "--quiet"])
        assert config["logger_kwargs"]["output_dir"] == f"data/reference/{env}/{algo}/{run}"
        assert (config["env_fn"], config["exp_name"], f"{algo}_s{config['seed']}") == (env, algo, run)
        assert config["run"]["git"]["dirty"] is False
        assert not {"platform", "host", "hostname", "user"} & set(config["run"])
        assert os.sep * 2 not in text
        assert '"/' not in text


# ---- the runs


def test_readable(df):
    groups = df.groupby(["env", "group"])
    assert groups["run"].nunique().to_dict() == {(env, algo): 5 for env in ENVS for algo in ALGOS}
    assert groups["seed"].nunique().eq(5).all()
    assert not df["TotalEnvInteracts"].isna().any()
    table = plot.table(df)
    assert len(table) == 8
    assert np.isfinite(table["final_mean"]).all()


@pytest.mark.parametrize("flags", [[], ["--est", "iqm", "-x", "Time"], ["--improvement"]])
def test_can_be_plotted(tmp_path, flags):
    plot.main([f"{REFERENCE}/", "--out", str(tmp_path / "f.png"), *flags])
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_shows_what_the_pages_say_of_it(df):
    """All solve CartPole; on Pendulum all but VPG learn; SAC takes few steps."""
    final = plot.scores(df).groupby(["env", "group"])["final"].mean()
    end = plot.scores(df).groupby(["env", "group"])["end"].max()
    assert final["CartPole-v1"].min() > 475
    assert final["Pendulum-v1"]["vpg"] < -900
    assert final["Pendulum-v1"].drop("vpg").min() > -300
    for env in ENVS:
        assert 4 * end[env]["sac"] < end[env].drop("sac").min()


# ---- the script that made them


def test_command():
    words = reference.command("CartPole-v1", "ppo", "d")
    assert words[:6] == ["python", "-m", "spinup.run", "ppo", "--env", "CartPole-v1"]
    assert words[-4:] == ["--exp_name", "ppo", "--data_dir", "d/CartPole-v1"]
    assert set(reference.FLAGS) == {(env, algo) for env in ENVS for algo in ALGOS}


def test_tidy_and_complete(tmp_path):
    folder = tmp_path / "ppo"
    for seed in range(5):
        run = folder / f"ppo_s{seed}"
        run.mkdir(parents=True)
        (run / "progress.txt").write_text("Epoch\n1\n")
        (run / "config.json").write_text('{"seed": 0, "run": {"platform": "Linux-1.2", "torch": "2"}}')
        (run / "model.pt").write_bytes(b"x")
        assert not reference.complete(folder)
        reference.tidy(run)
        assert json.loads((run / "config.json").read_text()) == {"seed": 0, "run": {"torch": "2"}}
    assert reference.complete(folder)
    (run / "progress.txt").unlink()
    assert not reference.complete(folder)


def test_the_plotters_benchmark_makes_runs_like_ppos(tmp_path):
    plotting.make_runs(tmp_path, runs=4, rows=3, groups=2)
    df = plot.load(f"{tmp_path}/")
    assert df.groupby("group")["seed"].unique().map(list).to_dict() == {"ppo-0": [0, 1], "ppo-1": [0, 1]}
    assert len(df) == 12
    assert set(plotting.COLUMNS) == set(read(REFERENCE / "CartPole-v1" / "ppo" / "ppo_s0" / "progress.txt"))
