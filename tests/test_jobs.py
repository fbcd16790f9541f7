"""Runs of a grid in processes of their own: none takes another along, none is done twice, none outlives the grid."""

import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
import types
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import thunks

from spinup.errors import UserError
from spinup.grid import ExperimentGrid
from spinup.jobs import Job, Overview, Run, first_and_last_line, progress, write_status

TESTS = Path(__file__).parent


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.txt"


def seeds_run(log) -> list[int]:
    return sorted(map(int, log.read_text().split())) if log.exists() else []


def run_grid(tmp_path, log, seeds=(0, 1, 2), thunk=thunks.run, jobs=2, executor="process", **arguments):
    grid = ExperimentGrid("g")
    grid.add("seed", list(seeds))
    grid.add("log", str(log))
    quiet = {"quiet": arguments.pop("quiet", False)}
    for key, value in arguments.items():
        grid.add(key, value)
    runs = grid.run(thunk, data_dir=str(tmp_path / "data"), logger_kwargs=quiet, jobs=jobs, executor=executor)
    return {run.seed: run for run in runs}


def outcomes(runs) -> dict[int, str]:
    return {seed: run.outcome for seed, run in runs.items()}


# ---- every run by itself


@pytest.mark.parametrize(
    ("does", "outcome", "told"),
    [
        ("work", "done", None),
        ("raise", "failed", "ValueError: a bug of ours"),
        ("mistake", "wrong input", "gamma is 2; it must be 1"),
        ("exit", "failed", "ended with status 3"),
        pytest.param("die", "killed", "killed by SIGKILL", marks=pytest.mark.skipif(os.name == "nt", reason="signals")),
    ],
)
def test_one_run_does_not_touch_the_others(tmp_path, log, capfd, does, outcome, told):
    runs = run_grid(tmp_path, log, does=does)
    assert outcomes(runs) == {0: "done", 1: outcome, 2: "done"}
    assert seeds_run(log) == [0, 1, 2]
    for seed, run in runs.items():
        folder = Path(run.folder)
        assert folder == tmp_path / "data" / "g" / f"g_s{seed}"
        status = json.loads((folder / "status.json").read_text())
        assert status["outcome"] == run.outcome
        assert status["arguments"]["log"] == str(log)
        assert (folder / "output.txt").read_text().startswith(f"seed {seed} threads ")
    error = Path(runs[1].folder) / "error.txt"
    assert error.exists() == (told is not None)
    if told:
        assert told in error.read_text()
    out, err = capfd.readouterr()
    if told:
        assert err.startswith("spinup: error: g, seed 1: ")
        assert err.endswith(f"{told}; see {Path(runs[1].folder) / 'output.txt'}\n")
        assert err.count("\n") == 1
    else:
        assert "done: g, seed 1, " in out
    assert ("3 of 3 runs done" if told is None else "2 of 3 runs done, 1 not") in out
    assert "threads" not in out, "what a run prints is in its folder"


def test_quiet_tells_of_errors_alone(tmp_path, log, capfd):
    runs = run_grid(tmp_path, log, does="mistake", quiet=True)
    told = f"gamma is 2; it must be 1; see {Path(runs[1].folder) / 'output.txt'}"
    assert capfd.readouterr() == ("", f"spinup: error: g, seed 1: {told}\n")


def test_cores_are_shared_out(tmp_path, log, monkeypatch):
    monkeypatch.setattr("spinup.grid.physical_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    runs = run_grid(tmp_path, log, seeds=(0, 1), jobs=2)
    assert (Path(runs[0].folder) / "output.txt").read_text() == "seed 0 threads 3\n"
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_jobs_run_at_the_same_time(tmp_path, log):
    """Each run waits until all four have begun."""
    assert set(outcomes(run_grid(tmp_path, log, seeds=range(4), thunk=thunks.meet, jobs=4)).values()) == {"done"}


# ---- started again


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_grid_started_again_does_what_is_left(tmp_path, log, jobs):
    run_grid(tmp_path, log, jobs=jobs, does="raise")
    assert seeds_run(log) == [0, 1, 2]
    junk = tmp_path / "data" / "g" / "g_s1" / "progress.txt"
    junk.write_text("half a run")
    runs = run_grid(tmp_path, log, jobs=jobs, does="raise")
    assert outcomes(runs) == {0: "done before", 1: "failed", 2: "done before"}
    assert seeds_run(log) == [0, 1, 1, 2]
    assert not junk.exists(), "the second try began in what the first had left"
    assert sorted(p.name for p in (tmp_path / "data" / "g").iterdir()) == ["g_s0", "g_s1", "g_s2"]


def test_an_unfinished_run_goes_on_from_its_checkpoint(tmp_path, log):
    """The second try trains the last two epochs alone, and ends with the table of a run that was never ended."""
    quick = dict(thunk=thunks.train, seeds=(1, 2))
    assert outcomes(run_grid(tmp_path / "whole", log, **quick)) == {1: "done", 2: "done"}
    assert outcomes(run_grid(tmp_path, log, **quick, stop_at=130)) == {1: "failed", 2: "done"}
    folder = tmp_path / "data" / "g" / "g_s1"
    began = json.loads((folder / "config.json").read_text())["run"]["started"]
    assert outcomes(run_grid(tmp_path, log, **quick, stop_at=130)) == {1: "done", 2: "done before"}
    assert json.loads((folder / "config.json").read_text())["run"]["started"] == began
    assert len(json.loads((folder / "config.json").read_text())["run"]["resumed"]) == 1

    def table(folder):
        return [line.rpartition("\t")[0] for line in (folder / "progress.txt").read_text().split("\n")]  # not Time

    assert table(folder) == table(tmp_path / "whole" / "data" / "g" / "g_s1")


@pytest.mark.skipif(os.name == "nt", reason="cannot be told there")
def test_an_executor_that_tries_again_takes_the_same_folder(tmp_path, log):
    """A node that died has left its folder as a run at work."""
    kwargs = {"output_dir": str(tmp_path / "g_s0"), "exp_name": "g", "quiet": True}
    job = Job("g", 0, thunks.train, {"seed": 0, "log": str(log), "logger_kwargs": kwargs})
    write_status(job, "running", time.time())
    (tmp_path / "g_s0" / "config.json").write_text("{}")
    file = tmp_path / "g_s0" / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "process": ["a node that died", 1]}))
    code = (
        "import sys, thunks; from spinup.jobs import Job, perform\n"
        f"print(perform(Job('g', 0, thunks.train, {job.arguments!r}), True).outcome)"
    )
    env = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout == "done\n", done.stderr
    assert [path.name for path in tmp_path.glob("g_s*")] == ["g_s0"]
    assert (tmp_path / "g_s0" / "progress.txt").read_text().count("\n") == 5


def test_other_arguments_are_another_run(tmp_path, log):
    run_grid(tmp_path, log, seeds=(0, 2), epochs=1)
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 2), epochs=2)) == {0: "done", 2: "done"}
    again = run_grid(tmp_path, log, seeds=(0, 2), epochs=2)
    assert outcomes(again) == {0: "done before", 2: "done before"}
    assert again[0].folder.endswith("g_s0-2")
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 2), epochs=1)) == {0: "done before", 2: "done before"}
    assert seeds_run(log) == [0, 0, 2, 2]


def test_a_run_that_is_no_grids_is_left_alone(tmp_path, log):
    folder = tmp_path / "data" / "g" / "g_s0"
    folder.mkdir(parents=True)
    (folder / "progress.txt").write_text("of somebody else")
    runs = run_grid(tmp_path, log, seeds=(0, 2))
    assert runs[0].folder == f"{folder}-2"
    assert [p.name for p in folder.iterdir()] == ["progress.txt"]


@pytest.mark.skipif(os.name == "nt", reason="cannot be told there")
def test_a_run_that_is_at_work_is_not_touched(tmp_path, log):
    run_grid(tmp_path, log, seeds=(0, 2))
    file = tmp_path / "data" / "g" / "g_s0" / "status.json"
    status = json.loads(file.read_text())
    for process, free in ((os.getpid(), False), (2**22 + 1, True)):  # ours, and one above all that Linux has
        file.write_text(json.dumps({**status, "outcome": "running", "process": [platform.node(), process]}))
        if free:
            assert outcomes(run_grid(tmp_path, log, seeds=(0, 2))) == {0: "done", 2: "done before"}
        else:
            with pytest.raises(UserError, match=f"g_s0 is at work in process {process}"):
                run_grid(tmp_path, log, seeds=(0, 2))
            assert file.exists()
    assert seeds_run(log) == [0, 0, 2]


# ---- other executors


def test_an_executor_of_ones_own(tmp_path, log):
    with ProcessPoolExecutor(2) as executor:
        runs = run_grid(tmp_path, log, executor=executor, does="raise")
    assert outcomes(runs) == {0: "done", 1: "failed", 2: "done"}
    assert seeds_run(log) == [0, 1, 2]


def test_an_mpi_pool(tmp_path, log):
    """The workers belong to an MPI world, and still each run is one of a single process."""
    script = f"""
        import thunks
        from mpi4py.futures import MPIPoolExecutor
        from spinup import mpi
        from spinup.grid import ExperimentGrid
        if __name__ == "__main__":
            grid = ExperimentGrid("g")
            grid.add("seed", [0, 1, 2, 3])
            grid.add("log", {str(log)!r})
            with MPIPoolExecutor() as executor:
                runs = grid.run(thunks.run, data_dir={str(tmp_path / "data")!r}, executor=executor)
            print(sorted((run.seed, run.outcome) for run in runs))
    """
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    mpiexec = str(Path(sys.executable).parent / "mpiexec")
    command = [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(file)]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str([(seed, "done") for seed in range(4)])
    assert seeds_run(log) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(executor=ThreadPoolExecutor(1)), "executor has threads"),
        (dict(executor="rai"), "executor is 'rai'; it must be process or ray; did you mean 'ray'?"),
        (dict(thunk=lambda **kwargs: None), "cannot be sent to another process"),
    ],
)
def test_refuses(tmp_path, log, options, message):
    with pytest.raises(UserError, match="^.*" + message.replace("?", r"\?")):
        run_grid(tmp_path, log, **options)
    assert seeds_run(log) == []


def test_refuses_jobs_and_num_cpu(tmp_path):
    grid = ExperimentGrid("g")
    grid.add("seed", [0, 1])
    with pytest.raises(UserError, match="jobs and num_cpu do not go together"):
        grid.run(thunks.run, num_cpu=2, jobs=2, data_dir=str(tmp_path))


# ---- scripts, signals


def start_script(tmp_path, log, guard='if __name__ == "__main__":', seconds=60.0):
    script = f"""
        import thunks
        from spinup.grid import ExperimentGrid
        {guard}
            grid = ExperimentGrid("g")
            grid.add("seed", [0, 2, 4])
            grid.add("log", {str(log)!r})
            grid.add("seconds", {seconds})
            grid.run(thunks.run, data_dir={str(tmp_path / "data")!r}, jobs=2)
    """
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen(
        [sys.executable, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def processes_of(session: int) -> list[str]:
    """The live processes of a session, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *rest = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(rest[2]) == session and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_the_grid(tmp_path, log, how):
    process = start_script(tmp_path, log)
    with process:
        stop_and_look(process, how, log)


def stop_and_look(process, how, log):
    deadline = time.time() + 60
    while len(seeds_run(log)) < 2 and time.time() < deadline:
        time.sleep(0.1)
    assert seeds_run(log) == [0, 2], process.stderr.read() if process.poll() is not None else ""
    process.send_signal(how)  # to the parent alone
    process.communicate(timeout=30)
    while processes_of(process.pid) and time.time() < deadline:
        time.sleep(0.1)
    assert processes_of(process.pid) == []
    assert seeds_run(log) == [0, 2], "a further run was started"


def test_a_script_without_its_guard_is_told_so(tmp_path, log):
    process = start_script(tmp_path, log, guard="if True:")
    _, error = process.communicate(timeout=120)
    assert "must do it under: if __name__ == '__main__':" in error
    assert seeds_run(log) == []


# ---- the overview


def test_an_overview_of_many_runs_fits_the_terminal_and_shows_those_at_work(tmp_path):
    todo = [Job("x", i, print, {"logger_kwargs": {"output_dir": str(tmp_path / f"x_s{i}")}}) for i in range(50)]
    for i, outcome in ((3, "done"), (40, "running"), (49, "running")):
        todo[i].folder.mkdir()
        (todo[i].folder / "status.json").write_text(json.dumps({"outcome": outcome}))
    overview = Overview(todo, quiet=True)
    assert overview.table().row_count == 50
    overview.live = types.SimpleNamespace(console=types.SimpleNamespace(height=10))
    overview.runs = {str(todo[0].folder): Run("x", 0, str(todo[0].folder), 1.0, "done")}
    table = overview.table()
    assert list(table.columns[1].cells)[:4] == ["40", "49", "0", "1"]
    assert table.row_count == 7
    assert table.caption == "46 waiting, 2 done, 2 running"


def test_the_last_row_of_a_long_table_is_found_at_its_end(tmp_path):
    file = tmp_path / "progress.txt"
    file.write_text("Epoch\tX\n" + "".join(f"{i}\t{'0' * 1000}\n" for i in range(1000)) + "1000\tto")
    assert first_and_last_line(file) == ("Epoch\tX", "999\t" + "0" * 1000)
    for text in ("", "Epoch", "Epoch\n", "Epoch\n1"):
        file.write_text(text)
        with pytest.raises(LookupError):
            first_and_last_line(file)


def test_progress(tmp_path):
    assert progress(tmp_path, running=True) == ("", "", "")
    (tmp_path / "config.json").write_text('{"epochs": 10}')
    rows = "Epoch\tAverageEpRet\tTotalEnvInteracts\tTime\n1\t5\t1000\t3\n2\t7.5\t2000\t6\n"
    (tmp_path / "progress.txt").write_text(rows + "3\t8")  # the last line is half written
    assert progress(tmp_path, running=True) == ("2,000", "7.5", "0:00:24")  # 6 s for 2 of 10
    assert progress(tmp_path, running=False) == ("2,000", "7.5", "")


# ---- Ray


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_ray_with_a_node_that_dies(tmp_path, log, kill):
    """Two nodes of one core each and four runs; a node that is removed in the middle costs no run, and repeats none."""
    script = f"""
        import threading, time
        import ray, thunks
        from ray.cluster_utils import Cluster
        from spinup.grid import ExperimentGrid
        cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0))
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)

        def remove():
            while thunks.lines({str(log)!r}) < 2:
                time.sleep(0.1)
            cluster.remove_node(nodes[0], allow_graceful=False)
            cluster.add_node(num_cpus=1)

        if {kill}:
            threading.Thread(target=remove, daemon=True).start()
        grid = ExperimentGrid("g")
        grid.add("seed", [0, 2, 4, 6])
        grid.add("log", {str(log)!r})
        grid.add("seconds", 8.0)
        runs = grid.run(thunks.run, data_dir={str(tmp_path / "data")!r}, executor="ray", jobs=2)
        print(sorted((run.seed, run.outcome) for run in runs))
    """
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    env = {**os.environ, "PYTHONPATH": path, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str([(seed, "done") for seed in (0, 2, 4, 6)])
    finished = Path(f"{log}.finished").read_text().split()
    assert sorted(finished) == ["0", "2", "4", "6"]
    assert len(seeds_run(log)) == (5 if kill else 4), "one run was begun twice where its node died"
