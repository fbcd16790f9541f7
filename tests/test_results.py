"""Reading runs and scoring them, with values computed by hand."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest

from spinup.analysis import results
from spinup.analysis.results import (
    candidate_columns,
    expand,
    first_with_numbers,
    format_numbers,
    load,
    moving_average,
    read,
    scores,
    series,
    table,
    table_text,
)
from spinup.errors import UserError
from spinup.runs.logger import Logger
from spinup.system.terminal import abbreviate

nan = math.nan


def make(folder, table, **config):
    """Create a run's folder; `table` is the text of progress.txt with | between cells."""
    folder.mkdir(parents=True)
    (folder / "progress.txt").write_text(table.replace("|", "\t"))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def frame(*runs, **columns):
    """What `load` would return for runs (x, y), (x, y, group) or (x, y, group, env); `columns` are added to each."""
    parts = []
    for i, (x, y, *names) in enumerate(runs):
        group, env = (*names, *["a", "unknown"][len(names) :])
        ids = {"group": group, "env": env, "seed": i, "run": f"data/{group}/{group}_s{i}"}
        data = {"TotalEnvInteracts": np.array(x, dtype=float), "AverageEpRet": np.array(y, dtype=float)}
        parts.append(pd.DataFrame({**ids, **data, **columns}))
    return pd.concat(parts, ignore_index=True)


def two_groups(folder):
    """Two groups on one environment: ppo (seeds 0, 1, 10, the second stopped early) and trpo (one seed)."""
    table = "TotalEnvInteracts|AverageEpRet|Time\n100|{}|60\n200|{}|120\n300|{}|180\n"
    ppo, trpo = {"exp_name": "ppo", "env_fn": "A-v0"}, {"exp_name": "trpo", "env_fn": "A-v0"}
    make(folder / "ppo" / "ppo_s10", table.format(1, 2, 3), **ppo, seed=10)
    make(folder / "ppo" / "ppo_s0", table.format(3, 6, 9), **ppo, seed=0)
    make(folder / "ppo" / "ppo_s1", table.format(5, 7, 0).rsplit("300", 1)[0], **ppo, seed=1)
    make(folder / "trpo" / "trpo_s0", table.format(0, 1, 2), **trpo, seed=0)
    return folder


runs = pytest.fixture(lambda tmp_path: two_groups(tmp_path))


# ---- reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A|B\n1|2\n3|4\n", {"A": [1, 3], "B": [2, 4]}),
        ("A|B\n1|2\n3|4", {"A": [1], "B": [2]}),  # the last line is still being written: 4 may become 42
        ("A|B\n1|2\n3", {"A": [1], "B": [2]}),
        ("A|B\n1|2\n3\n5|6\n7|8|9\n", {"A": [1, 5], "B": [2, 6]}),
        ("A|B\r\n1|2\r\n", {"A": [1], "B": [2]}),
        ("A|B\n1|\nnan|inf\n", {"A": [1, nan], "B": [nan, math.inf]}),
        ("A|B\n1|x\n2|3\n", {"A": [1, 2], "B": [nan, 3]}),
        ("A|B\n|\n|\n", {"A": [nan, nan], "B": [nan, nan]}),
        ("A|B\n", {"A": [], "B": []}),
        ("A|B", {}),
        ("", {}),
    ],
)
def test_read_by_hand(tmp_path, text, expected):
    path = tmp_path / "progress.txt"
    path.write_bytes(text.replace("|", "\t").encode())
    columns = read(path)
    assert list(columns) == list(expected)
    for key, values in expected.items():
        assert columns[key].dtype == np.float64
        np.testing.assert_array_equal(columns[key], values)


def test_tables_of_numbers_are_read_by_numpy(tmp_path, monkeypatch):
    numbers = ["1e-3", "0.1", "-inf", "nan", "12345678901234567890", " 7 ", "1.7976931348623157e308", "5e-324"]
    rows = ["|".join(numbers[i:] + numbers[:i]) for i in range(len(numbers))]
    text = "|".join("ABCDEFGH") + "\n" + "\n".join(rows) + "\nhalf a row"
    folder = make(tmp_path / "r", text)
    slow = {
        key: results._parse_column(tuple(row.split("|")[i] for row in rows))  # as float() reads them
        for i, key in enumerate("ABCDEFGH")
    }
    monkeypatch.setattr(results, "_parse_column", None)
    columns = read(folder / "progress.txt")
    assert list(columns) == list("ABCDEFGH")
    for key, expected in slow.items():
        np.testing.assert_array_equal(columns[key], expected)


def test_read_strings(tmp_path):
    columns = read(make(tmp_path / "r", "A|B\n1|x\n2|y\n") / "progress.txt")
    assert columns["B"].tolist() == ["x", "y"]


def test_reads_what_the_logger_writes(tmp_path):
    with Logger(tmp_path / "run", exp_name="ppo", quiet=True) as logger:
        logger.save_config({"env_fn": "A-v0", "seed": 3, "gamma": nan})
        for row in ({"Epoch": 1}, {"Epoch": 2, "Late": 0.1}):
            for key, value in row.items():
                logger.log_tabular(key, value)
            logger.dump_tabular()
    df = load(tmp_path / "run")
    assert df.columns.tolist() == ["group", "env", "seed", "run", "Epoch", "Late"]
    assert df.iloc[:, :4].to_numpy().tolist() == [["ppo", "A-v0", 3, str(tmp_path / "run")]] * 2
    np.testing.assert_array_equal(df["Epoch"], [1, 2])
    np.testing.assert_array_equal(df["Late"], [nan, 0.1])


def test_runs_behind_symbolic_links(tmp_path):
    two_groups(tmp_path / "scratch")
    data = tmp_path / "data"
    (data / "again").mkdir(parents=True)
    (data / "ppo").symlink_to(tmp_path / "scratch" / "ppo")  # a group
    (data / "run").symlink_to(tmp_path / "scratch" / "trpo" / "trpo_s0")  # a run
    (data / "again" / "run").symlink_to(data / "run")  # the same run again
    (data / "again" / "up").symlink_to(data)  # a cycle
    (data / "nowhere").symlink_to(tmp_path / "nowhere")
    df = load(data)
    assert sorted(set(df["run"])) == [
        f"{data}/{run}" for run in ("again/run", "ppo/ppo_s0", "ppo/ppo_s1", "ppo/ppo_s10")
    ]
    assert load(f"{data}/pp")["run"].nunique() == 3
    assert load(str(tmp_path / "data" / "run"))["group"].unique() == ["trpo"]


def test_runs_with_different_columns(tmp_path):
    make(tmp_path / "a_s0", "A|B|run\n1|2|3\n", exp_name="a")
    make(tmp_path / "b_s0", "B|C\n4|x\n5|y\n", exp_name="b", seed=7)
    df = load(tmp_path)
    assert df.columns.tolist() == ["group", "env", "seed", "run", "A", "B", "C"]
    assert df["seed"].tolist() == [pd.NA, 7, 7]
    np.testing.assert_array_equal(df["A"], [1, nan, nan])
    assert df["B"].tolist() == [2, 4, 5]
    assert df["C"].tolist()[1:] == ["x", "y"]
    assert first_with_numbers(candidate_columns(df, "C")) is None


# What two algorithms of the original Spinning Up 0.2.0 write: VPG from the command line, SAC on a cluster's gym. Its
# config.json separates keys with ":\t", and contains the environment as the text of a lambda.
ORIGINAL_CONFIG = """{
    "ac_kwargs":\t{
        "hidden_sizes":\t[
            64,
            64
        ]
    },
    "actor_critic":\t"MLPActorCritic",
    "env_fn":\t"<function call_experiment.<locals>.thunk_plus.<locals>.<lambda> at 0x7f1c2d0d5a60>",
    "epochs":\t3,
    "exp_name":\t"%s",
    "gamma":\t0.99,
    "logger":\t{
        "<spinup.utils.logx.EpochLogger object at 0x7f1c2c0b3d30>":\t{
            "epoch_dict":\t{},
            "exp_name":\t"%s",
            "first_row":\ttrue,
            "log_current_row":\t{},
            "log_headers":\t[],
            "output_dir":\t"data/%s/%s_s%d",
            "output_file":\t{
                "<_io.TextIOWrapper name='progress.txt' mode='w' encoding='UTF-8'>":\t{
                    "mode":\t"w"
                }
            }
        }
    },
    "seed":\t%d
}"""
ORIGINAL_VPG = """\
Epoch|AverageEpRet|StdEpRet|MaxEpRet|MinEpRet|EpLen|AverageVVals|StdVVals|MaxVVals|MinVVals|TotalEnvInteracts|LossPi\
|LossV|DeltaLossPi|DeltaLossV|Entropy|KL|Time
0|21.5|9.8|57.0|9.0|21.5|0.02|0.1|0.4|-0.3|4000|-0.0|272.1|0.0|-70.2|0.68|0.0|1.49
1|{}|20.1|99.0|10.0|33.2|9.4|0.6|11.7|8.1|8000|1e-09|391.0|0.0|-10.0|0.67|0.0|2.95
2|{}|28.0|141.0|11.0|45.6|12.5|0.9|15.9|9.9|12000|-2.5e-08|430.0|0.0|-12.3|0.65|0.0|4.4
"""
ORIGINAL_SAC = """\
Epoch|AverageEpRet|StdEpRet|MaxEpRet|MinEpRet|AverageTestEpRet|StdTestEpRet|MaxTestEpRet|MinTestEpRet|EpLen|TestEpLen\
|TotalEnvInteracts|AverageQ1Vals|AverageQ2Vals|AverageLogPi|LossPi|LossQ|Time
1|20.0|1.0|22.0|18.0|{}|2.0|33.0|27.0|20.0|30.0|4000|1.0|1.1|-0.9|-2.0|0.5|30.1
2|25.0|1.0|27.0|23.0|{}|2.0|43.0|37.0|25.0|40.0|8000|2.0|2.1|-0.8|-3.0|0.4|61.7
"""


def original(folder):
    """A data folder of the original: VPG with two seeds, SAC with one."""
    for name, seed, text in (
        ("cmd_vpg", 0, ORIGINAL_VPG.format(33.0, 46.0)),
        ("cmd_vpg", 10, ORIGINAL_VPG.format(35.0, 50.0)),
        ("cmd_sac", 0, ORIGINAL_SAC.format(30.0, 40.0)),
    ):
        run = make(folder / name / f"{name}_s{seed}", text)
        (run / "config.json").write_text(ORIGINAL_CONFIG % (name, name, name, name, seed, seed))
        (run / "pyt_save").mkdir()
        (run / "vars.pkl").write_bytes(b"\x80\x04N.")
    return folder


def test_reads_what_the_original_writes(tmp_path):
    df = load(original(tmp_path / "data"))
    firsts = df.groupby("run", sort=False)[["group", "env", "seed"]].first().to_numpy().tolist()
    assert firsts == [["cmd_sac", "unknown", 0], ["cmd_vpg", "unknown", 0], ["cmd_vpg", "unknown", 10]]
    assert len(df) == 8
    lines = series(df, "Performance", "TotalEnvInteracts")
    assert [(line.column, line.x.tolist(), line.y.tolist()) for line in lines] == [
        ("AverageTestEpRet", [4000, 8000], [30, 40]),
        ("AverageEpRet", [4000, 8000, 12000], [21.5, 33, 46]),
        ("AverageEpRet", [4000, 8000, 12000], [21.5, 35, 50]),
    ]


def test_expand(tmp_path, monkeypatch):
    for name in ("data", "data2", "old_data", "data10"):
        (tmp_path / name).mkdir()
    (tmp_path / "data.txt").write_text("")
    make(tmp_path / "x_s1", "A\n1\n")
    make(tmp_path / "x_s10", "A\n1\n")
    monkeypatch.chdir(tmp_path)
    assert expand("data") == ["data", "data2", "data10"]  # a prefix, not any substring
    assert expand("data/") == ["data/"]
    assert expand(str(tmp_path / "dat")) == [str(tmp_path / name) for name in ("data", "data2", "data10")]
    assert (
        expand("x_s1") == expand("x_s1/progress.txt") == ["x_s1"]
    )  # a run's folder is not a prefix: x_s10 is left out
    assert expand("x_") == ["x_s1", "x_s10"]
    assert expand(".") == ["."]
    monkeypatch.chdir("x_s1")
    assert expand("progress.txt") == ["."]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expand("~/data/") == [os.path.join(str(tmp_path), "data/")]


@pytest.mark.parametrize("folder", ["nowhere", "nowhere/", "no/where"])
def test_expand_finds_nothing(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^plot: there is no folder {folder}"):
        expand(folder)


def folders(df):
    """(group, folder's name) of each run."""
    return [(group, os.path.basename(run)) for group, run in df[["group", "run"]].drop_duplicates().to_numpy()]


def test_load_is_a_tidy_table(runs):
    df = load(runs / "ppo")
    assert df.columns.tolist() == ["group", "env", "seed", "run", "TotalEnvInteracts", "AverageEpRet", "Time"]
    assert df["seed"].tolist() == [0, 0, 0, 1, 1, 10, 10, 10]  # in numeric order
    assert df["AverageEpRet"].tolist() == [3, 6, 9, 5, 7, 1, 2, 3]
    assert set(df["run"]) == {str(runs / "ppo" / name) for name in ("ppo_s0", "ppo_s1", "ppo_s10")}
    assert df.index.tolist() == list(range(8))
    assert set(df["group"]) == {"ppo"}
    assert set(df["env"]) == {"A-v0"}


def test_load_finds_each_run_once(runs):
    ppo = [("ppo", "ppo_s0"), ("ppo", "ppo_s1"), ("ppo", "ppo_s10")]
    assert folders(load(str(runs) + "/")) == [*ppo, ("trpo", "trpo_s0")]
    given = [runs / "trpo", runs / "ppo", runs / "ppo" / ".." / "trpo"]
    assert folders(load(given)) == [("trpo", "trpo_s0"), *ppo]


def test_runs_with_other_columns_and_without_rows(tmp_path):
    make(tmp_path / "a", "A|B\n1|x\n", exp_name="a")
    make(tmp_path / "b", "A|run|C\n2|7|3\n", exp_name="b", seed="3")
    make(tmp_path / "c", "A|B\n", exp_name="c")
    make(tmp_path / "d", "", exp_name="d")
    df = load(f"{tmp_path}/")
    assert df.columns.tolist() == ["group", "env", "seed", "run", "A", "B", "C"]
    assert df["A"].tolist() == [1, 2]
    assert df["B"].fillna("").tolist() == ["x", ""]
    assert df["C"].fillna(0).tolist() == [0, 3]
    assert df["seed"].isna().all()
    with pytest.raises(UserError, match=r"^plot: no progress\.txt in or below .* has a row yet"):
        load([tmp_path / "c", tmp_path / "d"])


def test_environments(tmp_path):
    for i, env in enumerate(["A-v0", "module:B-v0", "<function <lambda> at 0x7f>", 3]):
        make(tmp_path / f"r{i}", "A\n1\n", exp_name="ppo", env_fn=env)
    make(tmp_path / "r9", "A\n1\n", exp_name="ppo", env_fn=None, env_name="C-v0")
    assert load(str(tmp_path) + "/")["env"].tolist() == ["A-v0", "module:B-v0", "unknown", "unknown", "C-v0"]


@pytest.mark.parametrize("config", [None, "", "{", "[]", '{"exp_name": null}'])
def test_without_a_usable_config_the_group_is_named_after_the_folder(tmp_path, config):
    folder = make(tmp_path / "my_run_s3-2", "A\n1\n")
    if config is not None:
        (folder / "config.json").write_text(config)
    assert load(folder)["group"].tolist() == ["my_run"]


def test_legends(runs):
    ppo, trpo = str(runs / "ppo"), str(runs / "trpo")
    assert [group for group, _ in folders(load([ppo, trpo], ["one", "two"]))] == ["one"] * 3 + ["two"]
    make(runs / "ppo_more" / "s0", "A\n1\n", exp_name="ppo")
    assert [group for group, _ in folders(load([ppo, trpo], ["one", "two"]))] == ["one"] * 4 + ["two"]
    groups = [group for group, _ in folders(load([ppo, trpo], ["one", "more", "two"]))]
    assert groups == ["one"] * 3 + ["more", "two"]
    for more in (str(runs / "ppo_more"), str(runs / "ppo_more") + "/"):
        assert [group for group, _ in folders(load([ppo, more], ["one", "more"]))] == ["one"] * 3 + ["more"]
        assert [group for group, _ in folders(load([more, ppo], ["more", "one"]))] == ["more"] + ["one"] * 3
    with pytest.raises(UserError, match=r"1 legends for 3 folders \(.*ppo_more.*\)"):
        load([ppo, trpo], ["one"])


def test_select_and_exclude(runs):
    def names(**kwargs):
        return [name for _, name in folders(load(str(runs) + "/", **kwargs))]

    assert names(select=["ppo", "s1"]) == ["ppo_s1", "ppo_s10"]
    assert names(exclude=["trpo", "s10"]) == ["ppo_s0", "ppo_s1"]
    with pytest.raises(UserError, match=r"no progress\.txt that --select and --exclude allow in or below"):
        names(select=["ppo"], exclude=["ppo"])


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match=r"^plot: no progress\.txt in or below "):
        load(str(tmp_path) + "/")


# ---- curves


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, [1, 2, 6, 3, 8]),
        (2, [1, 1.5, 4, 4.5, 5.5]),  # an even window extends one further back, as numpy's "same" does
        (3, [1.5, 3, 11 / 3, 17 / 3, 5.5]),
        (5, [3, 3, 4, 19 / 4, 17 / 3]),
        (9, [4, 4, 4, 4, 4]),
        (100, [4, 4, 4, 4, 4]),
    ],
)
def test_moving_average_by_hand(window, expected):
    np.testing.assert_allclose(moving_average(np.array([1.0, 2, 6, 3, 8]), window), expected)


def test_moving_average_over_more_than_all_rows():
    np.testing.assert_allclose(moving_average(np.array([1.0, 2, 6]), 10**12), [3, 3, 3])


def test_performance_is_the_evaluation_if_there_is_one():
    df = frame(([1, 2], [3, 4]), Word=["a", "b"])

    def found(df, value, rows=slice(None)):
        return first_with_numbers(candidate_columns(df, value), rows)

    assert found(df, "Performance")[0] == found(df, "EpRet")[0] == "AverageEpRet"
    evaluated = df.assign(AverageTestEpRet=[nan, 5.0])
    assert found(evaluated, "Performance")[0] == "AverageTestEpRet"
    assert found(evaluated, "Performance", np.array([0]))[0] == "AverageEpRet"  # of two runs, one was not evaluated
    assert found(df.assign(AverageTestEpRet=nan), "Performance")[0] == "AverageEpRet"  # never evaluated
    assert found(df, "Word") is found(df, "Nothing") is None
    assert found(df.assign(Word=["a", "3"]), "Word")[1].tolist()[1] == 3
    assert found(df.assign(seed=pd.array([7, None], "Int64")), "seed")[1].tolist()[0] == 7


def test_series_leaves_out_missing_numbers():
    df = frame(([1, 2, 3, 4], [nan, 5, math.inf, 7]), ([1], [nan], "b"))
    (line,) = series(df, "EpRet", "TotalEnvInteracts")
    assert (line.group, line.x.tolist(), line.y.tolist()) == ("a", [2, 4], [5, 7])
    (line,) = series(frame(([2, 1, 2], [5, 6, 7])), "EpRet", "TotalEnvInteracts")
    assert (line.x.tolist(), line.y.tolist()) == ([1, 2], [6, 5])


@pytest.mark.parametrize("n", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 9, 50, 101, 1000])
def test_moving_average_is_the_mean_of_each_window(n, window):
    y = np.random.default_rng(0).normal(size=n) * 10.0 ** np.arange(
        n
    )  # differences of running sums would be inaccurate
    spans = [slice(max(0, i + (window - 1) // 2 - window + 1), i + (window - 1) // 2 + 1) for i in range(n)]
    np.testing.assert_allclose(moving_average(y, window), [y[span].mean() for span in spans], rtol=1e-12)


def test_series_of_a_filtered_table():
    df = frame(([1, 2, 3], [0, 3, 6]), ([1, 2, 3], [1, 1, 1]))
    (line,) = series(df[(df["seed"] == 0) & (df["TotalEnvInteracts"] > 1)], "EpRet", "TotalEnvInteracts", smooth=3)
    assert (line.x.tolist(), line.y.tolist()) == ([2, 3], [4.5, 4.5])


def test_a_run_in_which_no_episode_has_ended(tmp_path):
    make(tmp_path / "a", "Epoch|AverageEpRet|TotalEnvInteracts\n1|nan|10\n2|nan|20\n")
    with pytest.raises(UserError, match=r"no run has numbers in a column Performance; no episode has ended yet\?"):
        series(load([str(tmp_path / "a")]), "Performance", "TotalEnvInteracts")


def test_unknown_columns():
    for value, xaxis, wrong, right in [
        ("AverageEpRt", "TotalEnvInteracts", "AverageEpRt", "AverageEpRet"),
        ("Performance", "TotalEnvInteract", "TotalEnvInteract", "TotalEnvInteracts"),
    ]:
        with pytest.raises(UserError, match=f"a column {wrong}; did you mean '{right}'?"):
            series(frame(([1], [2])), value, xaxis)


def test_normalize_by_hand():
    df = frame(([1, 2], [10, 30], "a", "A-v0"), ([1, 2], [0, -4], "a", "B-v0"))
    found = series(df, "EpRet", "TotalEnvInteracts", normalize=(10, 20))
    assert [line.y.tolist() for line in found] == [[0, 2], [-1, -1.4]]
    found = series(df, "EpRet", "TotalEnvInteracts", normalize={"A-v0": (10, 20), "B-v0": (0, -8)})
    assert [line.y.tolist() for line in found] == [[0, 2], [0, 0.5]]
    with pytest.raises(UserError, match="no LOW HIGH for B-v0, only for A-v0"):
        series(df, "EpRet", "TotalEnvInteracts", normalize={"A-v0": (10, 20)})
    for wrong in ((1, 1), (0, nan)):
        with pytest.raises(UserError, match="needs two different numbers, not"):
            series(df, "EpRet", "TotalEnvInteracts", normalize=wrong)


# ---- scores


def test_final_and_best_by_hand():
    steps = np.arange(1, 21) * 100
    curve = [0.0] * 5 + [9] + [0] * 12 + [4, 6]
    df = frame((steps, curve), (steps[:3], [3, 2, 1]), ([0], [7], "b"))
    found = scores(df)
    assert found["final"].tolist() == [5, 1, 7]  # rows above 1800 of 2000 steps; above 270 of 300; the only one
    assert found["best"].tolist() == [9, 3, 7]
    assert found["end"].tolist() == [2000, 300, 0]
    assert scores(df, smooth=3)["best"].tolist() == [5, 2.5, 7]
    assert scores(df, smooth=3)["final"].tolist() == [5, 1, 7]
    assert found[["group", "env", "column"]].drop_duplicates().to_numpy().tolist() == [
        ["a", "unknown", "AverageEpRet"],
        ["b", "unknown", "AverageEpRet"],
    ]


def test_table_by_hand():
    df = frame(([100], [1], "a", "A-v0"), ([300], [3], "a", "A-v0"), ([100], [8], "a", "B-v0"), ([5], [6], "b", "A-v0"))
    found = table(df).set_index(["group", "env"])
    assert found.index.tolist() == [("a", "A-v0"), ("a", "B-v0"), ("b", "A-v0")]
    assert found.loc[("a", "A-v0")].tolist() == [2, 100, 300, *2 * [2, 1, 2, 1, 3]]
    np.testing.assert_array_equal(found.loc[("b", "A-v0")], [1, 5, 5, *2 * [6, nan, 6, nan, nan]])
    # Normalized, environments share a row; with B-v0's single run, the spread is unknown.
    row = table(df, normalize=(0, 2)).loc[0]
    assert row[["group", "env", "runs"]].tolist() == ["a", "2 environments", 3]
    numbers = [2, np.std([0.5, 1.5, 4]), 2, nan, nan]
    np.testing.assert_allclose(row.iloc[3:].astype(float), [100, 300, *2 * numbers])


def test_table_text():
    found = table(frame(([1000], [123.44]), ([2500], [123.46]), ([10], [0.5], "b|c", "A-v0")))
    assert table_text(found, "txt").splitlines() == [
        "group  env      runs         end    final  final IQM [95%]     best  best IQM [95%]",
        "a      unknown     2  1k to 2.5k  123 ± 0   123 [123, 123]  123 ± 0  123 [123, 123]",
        "b|c    A-v0        1          10    0.500            0.500    0.500           0.500",
    ]
    assert table_text(found, "md").splitlines()[3] == ("| b\\|c | A-v0 | 1 | 10 | 0.500 | 0.500 | 0.500 | 0.500 |")
    lines = table_text(found, "csv").splitlines()
    assert lines[0].startswith(
        "group,env,runs,end_min,end_max,final_mean,final_std,final_iqm,final_low,final_high,best_"
    )
    assert lines[2] == "b|c,A-v0,1,10.0,10.0,0.5,,0.5,,,0.5,,0.5,,"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((1234.5, 12.3), ["1234", "12"]),
        ((123.4, 1), ["123", "1"]),
        ((-12.34, 1), ["-12.3", "1.0"]),
        ((1.234, nan), ["1.23", "nan"]),
        ((0.1234, 0), ["0.123", "0.000"]),
        ((0.0001234,), ["0.000123"]),
        ((1.234e-9, 0), ["1.23e-09", "0"]),
        ((0, nan), ["0", "nan"]),
    ],
)
def test_format_numbers(values, texts):
    assert format_numbers(*values) == texts


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (500, "500"), (250e3, "250k"), (1e6, "1M"), (1.25e6, "1.25M"), (-2e3, "-2k"), (0.5, "0.5")],
)
def test_abbreviate_by_hand(n, text):
    assert abbreviate(n, 4) == text
