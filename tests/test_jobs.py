"""Runs of a grid in processes of their own: none takes another along, none is done twice, none outlives the grid."""

import ast
import json
import os
import platform
import shutil
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
from spinup.experiments.grid import ExperimentGrid
from spinup.experiments.jobs import GridProgress, Job, Run, first_and_last_line, run_progress, write_status
from spinup.system.locks import lock

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
        ("exit", "failed", "SystemExit: 3"),
        ("leave", "failed", "ended with status 3"),
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
    monkeypatch.setattr("spinup.experiments.grid.physical_cores", lambda: 6)
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
    (tmp_path / "g_s0").mkdir()
    write_status(job, "running", 0.0)
    (tmp_path / "g_s0" / "config.json").write_text("{}")
    file = tmp_path / "g_s0" / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "process": ["a node that died", 1]}))
    code = (
        "import sys, thunks; from spinup.experiments.jobs import Job, run_job\n"
        f"print(run_job(Job('g', 0, thunks.train, {job.arguments!r}), True).outcome)"
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


# ---- several at work at once


@pytest.mark.parametrize(
    "process",
    [[platform.node(), 1], [platform.node(), os.getpid()], [1, 2, 3], [], None, 7, "x", {}, [None, None], ["x", "y"]]
    + [[platform.node(), number] for number in (-1, 0, 10**30, "1", 1.5, True, [1])],
)
def test_a_process_id_in_status_json_says_nothing(tmp_path, log, process):
    """The lock does: after kill -9 and a restart, the number is another process's."""
    run_grid(tmp_path, log, seeds=(0, 2), jobs=1)
    file = tmp_path / "data" / "g" / "g_s0" / "status.json"
    status = json.loads(file.read_text())
    file.write_text(json.dumps({**status, "outcome": "running", "process": process}))
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 2), jobs=1)) == {0: "done", 2: "done before"}
    assert seeds_run(log) == [0, 0, 2]


@pytest.mark.parametrize(
    "content", ["[]", "[" * 10**5, '{"outcome": {}, "arguments": 1}', '{"outcome": ["done"]}', "\x00"]
)
def test_a_status_that_is_none_of_ours(tmp_path, log, content):
    run_grid(tmp_path, log, seeds=(0, 2), jobs=1)
    (tmp_path / "data" / "g" / "g_s0" / "status.json").write_text(content)
    runs = run_grid(tmp_path, log, seeds=(0, 2), jobs=1)
    assert outcomes(runs) == {0: "done", 2: "done before"}
    assert runs[0].folder.endswith("g_s0-2")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_at_work_elsewhere_is_not_touched(tmp_path, log, jobs, capfd, monkeypatch):
    """By a process that can be looked up, none of the grid begins; one of another host or container is left out."""
    run_grid(tmp_path, log, seeds=(0, 2), does="raise", jobs=1)
    folder = tmp_path / "data" / "g" / "g_s0"
    file = folder / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "outcome": "running"}))
    before = {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}  # that one is the holder's
    code = "import sys\nfrom pathlib import Path\nfrom spinup.system.locks import lock\nlock(Path(sys.argv[1]))\n"
    command = [sys.executable, "-c", code + "print(flush=True)\ninput()", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        with pytest.raises(UserError, match=rf"another process is using {folder} \(process {holder.pid} on "):
            run_grid(tmp_path, log, seeds=(0, 2), does="raise", jobs=jobs)
        monkeypatch.setattr("spinup.experiments.grid.folder_in_use", lambda folder: "")
        runs = run_grid(tmp_path, log, seeds=(0, 2), does="raise", jobs=jobs)
        assert outcomes(runs) == {0: "running elsewhere", 2: "done before"}
        assert f"spinup: error: g, seed 0: another process is using {folder}\n" in capfd.readouterr().err
        for path, content in before.items():
            assert path.read_bytes() == content, path
        holder.communicate("\n")
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 2), does="raise", jobs=jobs)) == {0: "done", 2: "done before"}


def test_a_grid_writes_no_status_over_that_of_another(tmp_path):
    """Its worker was killed, and before it saw that, another grid went on with the run."""
    kwargs = {"output_dir": str(tmp_path / "g_s0"), "exp_name": "g"}
    job = Job("g", 0, thunks.run, {"seed": 0, "logger_kwargs": kwargs})
    (tmp_path / "g_s0").mkdir()
    write_status(job, "running", 0.0)
    status = (tmp_path / "g_s0" / "status.json").read_bytes()
    code = f"""
import thunks
from spinup.experiments.jobs import Job, record_outcome
print(record_outcome(Job("g", 0, thunks.run, {job.arguments!r}), "killed", "why").outcome)
"""
    env = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}

    def record_outcome():
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=True).stdout

    held = lock(tmp_path / "g_s0")
    assert record_outcome() == "killed\n"
    assert (tmp_path / "g_s0" / "status.json").read_bytes() == status
    assert not (tmp_path / "g_s0" / "error.txt").exists()
    held.release()
    assert record_outcome() == "killed\n"
    assert json.loads((tmp_path / "g_s0" / "status.json").read_text())["outcome"] == "killed"
    assert (tmp_path / "g_s0" / "error.txt").read_text() == "why\n"


def test_a_run_that_loses_its_folder_says_nothing_more_there(tmp_path, log):
    """As one that was stopped for long on a file system whose locks do not reach the host that took the folder."""
    grid = ExperimentGrid("g")
    grid.add("seed", [0, 2])
    (zero, two) = grid.run(loses_its_folder, data_dir=str(tmp_path), logger_kwargs={"quiet": True})
    assert (zero.outcome, two.outcome) == ("running elsewhere", "done")
    assert json.loads((tmp_path / "g" / "g_s0" / "status.json").read_text()) == "another's"


def loses_its_folder(seed, logger_kwargs):
    folder = Path(logger_kwargs["output_dir"])
    if seed == 0:
        (folder / ".lock").write_text('{"token": "another"}')
        (folder / "status.json").write_text('"another\'s"')


def test_what_a_try_left_is_removed_and_nothing_else(tmp_path, log):
    """The user's files stay, and what is behind links."""
    run_grid(tmp_path, log, seeds=(0, 1), does="raise", jobs=1)
    folder, outside = tmp_path / "data" / "g" / "g_s1", tmp_path / "outside"
    (outside / "thesis").mkdir(parents=True)
    (outside / "7").mkdir()
    for name in ("notes.md", "progress.txt", "model.pt", "model_best.pt", "model3.pt", "my_model.pt", "output.txt"):
        (folder / name).write_text("x")
    (folder / "videos").mkdir()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(outside / "thesis")
    (folder / "checkpoint").symlink_to(outside)
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 1), jobs=1, thunk=leaves, does="raise"))[1] == "done"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "checkpoint", "config.json", "my_model.pt", "notes.md", "status.json", "videos",
    ]  # fmt: skip
    assert sorted(path.name for path in outside.iterdir()) == ["7", "thesis"]
    status = folder / "status.json"
    status.write_text(status.read_text().replace('"done"', '"failed"'))
    (folder / "checkpoint").unlink()
    for name in ("7", ".8.tmp", "mine"):
        (folder / "checkpoint" / name).mkdir(parents=True)
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 1), jobs=1, thunk=leaves, does="raise"))[1] == "done"
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["mine"]


def test_a_fresh_start_removes_nothing_behind_a_link(tmp_path, log, capfd):
    """A run's folder that is a link itself: it is trained in, but what it leads to is not cleared for another try."""
    run_grid(tmp_path, log, seeds=(0, 1), does="raise", jobs=1)
    folder, scratch = tmp_path / "data" / "g" / "g_s1", tmp_path / "scratch"
    folder.rename(scratch)
    folder.symlink_to(scratch)
    for name in ("progress.txt", "model.pt", "config.json"):
        (scratch / name).write_text("x")
    before = {path.name: path.read_bytes() for path in scratch.iterdir() if path.name != ".lock"}
    for jobs in (1, 2):
        assert (
            outcomes(run_grid(tmp_path, log, seeds=(0, 1), jobs=jobs, thunk=leaves, does="raise"))[1] == "wrong input"
        )
        assert {name: (scratch / name).read_bytes() for name in before} == before
        assert "Traceback" not in capfd.readouterr().err.partition("is a link")[2]
    shutil.rmtree(scratch)
    scratch.mkdir()
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 1), jobs=1, thunk=leaves, does="raise"))[1] == "done"
    assert folder.is_symlink()
    assert json.loads((scratch / "status.json").read_text())["outcome"] == "done"


def leaves(seed, logger_kwargs, **arguments):
    """A run that writes nothing."""


def test_three_grids_at_once(tmp_path, log):
    share_out(tmp_path, log, [[]] * 3)


@pytest.mark.slow
def test_three_grids_at_once_in_name_spaces_of_their_own(tmp_path, log):
    """As in containers that share a folder. Needs a user who can make name spaces for process ids, for example root."""
    space = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*space, "true"], capture_output=True).returncode:
        pytest.skip("this user or system can make no name spaces for process ids")
    share_out(tmp_path, log, [space, space, []])


def share_out(tmp_path, log, wrappers):
    """Each grid has all the runs; together they do each once, and none reports one as failed."""
    seeds = [0, 2, 4, 6]
    script = f"""
        import sys, thunks
        from spinup.errors import UserError
        from spinup.experiments.grid import ExperimentGrid
        if __name__ == "__main__":
            grid = ExperimentGrid("g")
            grid.add("seed", {seeds})
            grid.add("log", {str(log)!r})
            grid.add("seconds", 0.5)
            try:
                runs = grid.run(thunks.run, data_dir={str(tmp_path / "data")!r}, jobs=2)
                print(sorted(dict.fromkeys(run.outcome for run in runs)))
            except UserError as error:
                print("refused", error)
    """
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    grids = [subprocess.Popen([*wrapper, sys.executable, str(file)], env=env, **pipes) for wrapper in wrappers]
    said = [grid.communicate(timeout=300) for grid in grids]
    last = [out.splitlines()[-1] if out else err for out, err in said]
    for line in last:
        told = line.startswith("refused another process is using ")
        assert told or set(ast.literal_eval(line)) <= {"done", "done before", "running elsewhere"}, said
    assert seeds_run(log) == seeds, "a run was begun twice, or by none"
    for seed in seeds:
        folder = tmp_path / "data" / "g" / f"g_s{seed}"
        assert json.loads((folder / "status.json").read_text())["outcome"] == "done"
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.json", "output.txt", "status.json"]
    assert len(list((tmp_path / "data" / "g").iterdir())) == len(seeds)


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
        from spinup.compute import mpi
        from spinup.experiments.grid import ExperimentGrid
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
        (dict(executor=ThreadPoolExecutor(1)), "executor uses threads"),
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
    with pytest.raises(UserError, match="jobs and num_cpu can't be combined"):
        grid.run(thunks.run, num_cpu=2, jobs=2, data_dir=str(tmp_path))


# ---- scripts, signals


def start_script(tmp_path, log, guard='if __name__ == "__main__":', seconds=60.0):
    script = f"""
        import thunks
        from spinup.experiments.grid import ExperimentGrid
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


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP", "SIGTERM again and again", "SIGTERM to all", "SIGKILL"])
def test_a_grid_that_is_stopped_leaves_checkpoints(tmp_path, log, how, jobs):
    """And a status that says so; started again, it goes on. `timeout` and Slurm tell its processes too, or twice."""
    if how == "SIGKILL" and jobs == 1:
        pytest.skip("nobody is left to write a checkpoint")
    script = f"""
        import thunks
        from spinup.experiments.grid import ExperimentGrid
        if __name__ == "__main__":
            grid = ExperimentGrid("g")
            grid.add("seed", [0, 2, 4])
            grid.add("log", {str(log)!r})
            grid.run(thunks.train_long, data_dir={str(tmp_path / "data")!r}, jobs={jobs})
    """
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, str(file)], env=env, start_new_session=True, **pipes)
    folders = [tmp_path / "data" / "g" / f"g_s{seed}" for seed in (0, 2)][:jobs]
    while not all(thunks.lines(folder / "progress.txt") > 2 for folder in folders):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    number = getattr(signal, how.split()[0])
    if how.endswith("all"):
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    while how.endswith("again") and process.poll() is None:
        time.sleep(0.02)
        process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == (128 + number if number in (signal.SIGTERM, signal.SIGHUP) else -number)
    deadline = time.time() + 60
    while processes_of(process.pid) and time.time() < deadline:
        time.sleep(0.1)
    assert processes_of(process.pid) == []
    for folder in folders:
        assert json.loads((folder / "status.json").read_text())["outcome"] == "stopped"
        assert list(folder.glob("checkpoint/*/manifest.json")), "no checkpoint"
    assert not (tmp_path / "data" / "g" / "g_s4").exists()


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
    overview = GridProgress(todo, quiet=True)
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
    assert run_progress(tmp_path, running=True) == ("", "", "")
    (tmp_path / "config.json").write_text('{"epochs": 10}')
    rows = "Epoch\tAverageEpRet\tTotalEnvInteracts\tTime\n1\t5\t1000\t3\n2\t7.5\t2000\t6\n"
    (tmp_path / "progress.txt").write_text(rows + "3\t8")  # the last line is half written
    assert run_progress(tmp_path, running=True) == ("2,000", "7.5", "0:00:24")  # 6 s for 2 of 10
    assert run_progress(tmp_path, running=False) == ("2,000", "7.5", "")


# ---- Ray


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_ray_with_a_node_that_dies(tmp_path, log, kill):
    """Two nodes of one core each and four runs; a node that is removed in the middle costs no run, and repeats none."""
    script = f"""
        import threading, time
        import ray, thunks
        from ray.cluster_utils import Cluster
        from spinup.experiments.grid import ExperimentGrid
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
