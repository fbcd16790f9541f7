"""A grid's runs in separate processes: none affects another, none is done twice, and none outlives the grid."""

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


# ---- runs don't affect each other


@pytest.mark.parametrize(
    ("does", "outcome", "message"),
    [
        ("work", "done", None),
        ("raise", "failed", "ValueError: a bug"),
        ("mistake", "wrong input", "gamma is 2; it must be 1"),
        ("exit", "failed", "SystemExit: 3"),
        ("leave", "failed", "ended with status 3"),
        pytest.param("die", "killed", "killed by SIGKILL", marks=pytest.mark.skipif(os.name == "nt", reason="signals")),
    ],
)
def test_a_failed_run_does_not_affect_the_others(tmp_path, log, capfd, does, outcome, message):
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
    assert error.exists() == (message is not None)
    if message:
        assert message in error.read_text()
    out, err = capfd.readouterr()
    if message:
        assert err.startswith("spinup: error: g, seed 1: ")
        assert err.endswith(f"{message}; see {Path(runs[1].folder) / 'output.txt'}\n")
        assert err.count("\n") == 1
    else:
        assert "done: g, seed 1, " in out
    assert ("3 of 3 runs done" if message is None else "2 of 3 runs done, 1 not") in out
    assert "threads" not in out, "a run's output belongs in its folder"


def test_quiet_prints_only_errors(tmp_path, log, capfd):
    runs = run_grid(tmp_path, log, does="mistake", quiet=True)
    message = f"gamma is 2; it must be 1; see {Path(runs[1].folder) / 'output.txt'}"
    assert capfd.readouterr() == ("", f"spinup: error: g, seed 1: {message}\n")


def test_a_folder_that_cannot_be_made_is_named_without_an_output_in_it(tmp_path, log, capfd):
    (tmp_path / "data").write_text("a file")
    assert set(outcomes(run_grid(tmp_path, log)).values()) == {"wrong input"}
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("cannot write" in line and "output.txt" not in line for line in lines)


def test_cores_are_divided_among_jobs(tmp_path, log, monkeypatch):
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
def test_a_restarted_grid_does_only_unfinished_runs(tmp_path, log, jobs):
    run_grid(tmp_path, log, jobs=jobs, does="raise")
    assert seeds_run(log) == [0, 1, 2]
    junk = tmp_path / "data" / "g" / "g_s1" / "progress.txt"
    junk.write_text("half a run")
    runs = run_grid(tmp_path, log, jobs=jobs, does="raise")
    assert outcomes(runs) == {0: "done before", 1: "failed", 2: "done before"}
    assert seeds_run(log) == [0, 1, 1, 2]
    assert not junk.exists(), "the second attempt kept the first one's files"
    assert sorted(p.name for p in (tmp_path / "data" / "g").iterdir()) == ["g_s0", "g_s1", "g_s2"]


def test_an_unfinished_run_resumes_from_its_checkpoint(tmp_path, log):
    """The second attempt trains only the last two epochs, and its table equals that of an uninterrupted run."""
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


@pytest.mark.skipif(os.name == "nt", reason="checks a process by its id")
def test_an_executor_that_retries_uses_the_same_folder(tmp_path, log):
    """A node that died has left the status `running` in its folder."""
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


def test_other_arguments_make_another_run(tmp_path, log):
    run_grid(tmp_path, log, seeds=(0, 2), epochs=1)
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 2), epochs=2)) == {0: "done", 2: "done"}
    again = run_grid(tmp_path, log, seeds=(0, 2), epochs=2)
    assert outcomes(again) == {0: "done before", 2: "done before"}
    assert again[0].folder.endswith("g_s0-2")
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 2), epochs=1)) == {0: "done before", 2: "done before"}
    assert seeds_run(log) == [0, 0, 2, 2]


def test_a_run_of_another_program_is_left_alone(tmp_path, log):
    folder = tmp_path / "data" / "g" / "g_s0"
    folder.mkdir(parents=True)
    (folder / "progress.txt").write_text("someone else's")
    runs = run_grid(tmp_path, log, seeds=(0, 2))
    assert runs[0].folder == f"{folder}-2"
    assert [p.name for p in folder.iterdir()] == ["progress.txt"]


# ---- several grids at once


@pytest.mark.parametrize(
    "process",
    [[platform.node(), 1], [platform.node(), os.getpid()], [1, 2, 3], [], None, 7, "x", {}, [None, None], ["x", "y"]]
    + [[platform.node(), number] for number in (-1, 0, 10**30, "1", 1.5, True, [1])],
)
def test_a_process_id_in_status_json_is_ignored(tmp_path, log, process):
    """Only the lock counts: after kill -9 and a reboot, another process can have the same id."""
    run_grid(tmp_path, log, seeds=(0, 2), jobs=1)
    file = tmp_path / "data" / "g" / "g_s0" / "status.json"
    status = json.loads(file.read_text())
    file.write_text(json.dumps({**status, "outcome": "running", "process": process}))
    assert outcomes(run_grid(tmp_path, log, seeds=(0, 2), jobs=1)) == {0: "done", 2: "done before"}
    assert seeds_run(log) == [0, 0, 2]


@pytest.mark.parametrize(
    "content", ["[]", "[" * 10**5, '{"outcome": {}, "arguments": 1}', '{"outcome": ["done"]}', "\x00"]
)
def test_a_status_that_spinup_did_not_write(tmp_path, log, content):
    run_grid(tmp_path, log, seeds=(0, 2), jobs=1)
    (tmp_path / "data" / "g" / "g_s0" / "status.json").write_text(content)
    runs = run_grid(tmp_path, log, seeds=(0, 2), jobs=1)
    assert outcomes(runs) == {0: "done", 2: "done before"}
    assert runs[0].folder.endswith("g_s0-2")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_of_another_process_is_not_touched(tmp_path, log, jobs, capfd, monkeypatch):
    """If the other process can be looked up, the grid doesn't start; otherwise it skips the run."""
    run_grid(tmp_path, log, seeds=(0, 2), does="raise", jobs=1)
    folder = tmp_path / "data" / "g" / "g_s0"
    file = folder / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "outcome": "running"}))
    before = {
        path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"
    }  # the lock's owner rewrites that one
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


def test_a_grid_does_not_overwrite_another_grids_status(tmp_path):
    """Its worker was killed, and another grid resumed the run before the first one noticed."""
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


def test_a_grids_own_process_needs_no_torch(tmp_path, log):
    """Nor does a job, beyond what it does itself."""
    code = (
        "import sys\nimport thunks\nfrom spinup.experiments.grid import ExperimentGrid\n"
        f"grid = ExperimentGrid('g')\ngrid.add('seed', [0])\ngrid.add('log', {str(log)!r})\n"
        f"grid.run(thunks.run, data_dir={str(tmp_path)!r}, jobs=1)\n"
        "sys.exit(str({'torch', 'gymnasium', 'mpi4py'} & {*sys.modules}))"
    )
    env = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert process.stderr == "set()\n"
    assert seeds_run(log) == [0]


def test_a_run_that_loses_its_folder_writes_no_more_there(tmp_path, log):
    """As after a long suspension, on a file system that doesn't enforce locks across hosts."""
    grid = ExperimentGrid("g")
    grid.add("seed", [0, 2])
    (zero, two) = grid.run(lose_folder, data_dir=str(tmp_path), logger_kwargs={"quiet": True})
    assert (zero.outcome, two.outcome) == ("running elsewhere", "done")
    assert json.loads((tmp_path / "g" / "g_s0" / "status.json").read_text()) == "another's"


def lose_folder(seed, logger_kwargs):
    folder = Path(logger_kwargs["output_dir"])
    if seed == 0:
        (folder / ".lock").write_text('{"token": "another"}')
        (folder / "status.json").write_text('"another\'s"')


def test_only_the_files_of_an_earlier_attempt_are_removed(tmp_path, log):
    """The user's files stay, and so do the targets of links."""
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


def test_a_fresh_start_removes_nothing_through_a_link(tmp_path, log, capfd):
    """A run may use a folder that is a link, but the link's target is not cleared for another attempt."""
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
    run_grids_at_once(tmp_path, log, [[]] * 3)


@pytest.mark.slow
def test_three_grids_at_once_in_separate_namespaces(tmp_path, log):
    """As in containers that share a folder. Needs a user who can create PID namespaces, such as root."""
    space = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*space, "true"], capture_output=True).returncode:
        pytest.skip("can't create PID namespaces here")
    run_grids_at_once(tmp_path, log, [space, space, []])


def test_a_function_of_the_script_counts_as_the_same_when_the_grid_is_repeated(tmp_path):
    script = f"""
        import gymnasium, spinup
        def make():
            return gymnasium.make("CartPole-v1")
        if __name__ == "__main__":
            grid = spinup.ExperimentGrid("g")
            grid.add("env_fn", make)
            grid.add("seed", [0, 1])
            grid.add("steps_per_epoch", 20)
            grid.add("epochs", 1)
            runs = grid.run(spinup.vpg, data_dir={str(tmp_path / "data")!r}, jobs=2)
            print([run.outcome for run in runs])
    """
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    for outcome in ("done", "done before"):
        run = subprocess.run([sys.executable, str(file)], env=env, capture_output=True, text=True, timeout=300)
        assert run.stdout.splitlines()[-1] == str([outcome] * 2), run.stderr
    assert len(list((tmp_path / "data" / "g").iterdir())) == 2


def run_grids_at_once(tmp_path, log, wrappers):
    """Each grid has all the runs; together they do each run once, and none reports a failure."""
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
    outputs = [grid.communicate(timeout=300) for grid in grids]
    last = [out.splitlines()[-1] if out else err for out, err in outputs]
    for line in last:
        refused = line.startswith("refused another process is using ")
        assert refused or set(ast.literal_eval(line)) <= {"done", "done before", "running elsewhere"}, outputs
    assert seeds_run(log) == seeds, "a run was started twice, or never"
    for seed in seeds:
        folder = tmp_path / "data" / "g" / f"g_s{seed}"
        assert json.loads((folder / "status.json").read_text())["outcome"] == "done"
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.json", "output.txt", "status.json"]
    assert len(list((tmp_path / "data" / "g").iterdir())) == len(seeds)


# ---- other executors


def test_a_users_executor(tmp_path, log):
    with ProcessPoolExecutor(2) as executor:
        runs = run_grid(tmp_path, log, executor=executor, does="raise")
    assert outcomes(runs) == {0: "done", 1: "failed", 2: "done"}
    assert seeds_run(log) == [0, 1, 2]


def test_a_single_run_goes_to_the_executor_that_the_user_gives(tmp_path, log):
    with ProcessPoolExecutor(1) as executor:
        runs = run_grid(tmp_path, log, seeds=(3,), executor=executor)
        assert outcomes(runs) == {3: "done"}
        assert seeds_run(log) == [3]
        assert outcomes(run_grid(tmp_path, log, seeds=(3,), executor=executor)) == {3: "done before"}
    assert seeds_run(log) == [3]


def test_an_mpi_pool(tmp_path, log):
    """The workers belong to an MPI world, but each run has a single process."""
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
        (dict(executor=5), "executor is 5; it must be 'process', 'ray' or a concurrent.futures.Executor"),
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
    with pytest.raises(UserError, match="executor ray and num_cpu can't be combined"):
        grid.run(thunks.run, num_cpu=2, executor="ray", data_dir=str(tmp_path))


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
def test_no_child_process_outlives_the_grid(tmp_path, log, how):
    process = start_script(tmp_path, log)
    with process:
        stop_and_check(process, how, log)


def stop_and_check(process, how, log):
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
@pytest.mark.parametrize(
    ("jobs", "how"),
    [(1, how) for how in ("SIGINT", "SIGTERM", "SIGTERM again and again")]
    + [(2, how) for how in ("SIGINT", "SIGHUP", "SIGTERM again and again", "SIGTERM to all", "SIGKILL")],
)
def test_a_grid_that_is_stopped_leaves_checkpoints(tmp_path, log, how, jobs):
    """And the status `stopped`. `timeout` and Slurm may signal all processes, or the same one twice."""
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


def test_a_script_without_a_main_guard_gets_an_error(tmp_path, log):
    process = start_script(tmp_path, log, guard="if True:")
    _, error = process.communicate(timeout=120)
    assert "must do it under: if __name__ == '__main__':" in error
    assert seeds_run(log) == []


# ---- progress


def test_the_table_of_many_runs_fits_the_terminal_and_shows_running_ones(tmp_path):
    todo = [Job("x", i, print, {"logger_kwargs": {"output_dir": str(tmp_path / f"x_s{i}")}}) for i in range(50)]
    for i, outcome in ((3, "done"), (40, "running"), (49, "running")):
        todo[i].folder.mkdir()
        (todo[i].folder / "status.json").write_text(json.dumps({"outcome": outcome}))
    progress = GridProgress(todo, quiet=True)
    assert progress.table().row_count == 50
    progress.live = types.SimpleNamespace(console=types.SimpleNamespace(height=10))
    progress.runs = {str(todo[0].folder): Run("x", 0, str(todo[0].folder), 1.0, "done")}
    table = progress.table()
    assert list(table.columns[1].cells)[:4] == ["40", "49", "0", "1"]
    assert table.row_count == 7
    assert table.caption == "46 waiting, 2 done, 2 running"


def test_the_last_row_of_a_long_table_is_read_from_its_end(tmp_path):
    file = tmp_path / "progress.txt"
    file.write_text("Epoch\tX\n" + "".join(f"{i}\t{'0' * 1000}\n" for i in range(1000)) + "1000\tto")
    assert first_and_last_line(file) == ("Epoch\tX", "999\t" + "0" * 1000)
    for text in ("", "Epoch", "Epoch\n", "Epoch\n1"):
        file.write_text(text)
        with pytest.raises(LookupError):
            first_and_last_line(file)


def test_run_progress(tmp_path):
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
    """Two nodes of one core each, four runs: if a node is removed, only its run is repeated, and all are done."""
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
    assert len(seeds_run(log)) == (5 if kill else 4), "exactly the run whose node died must start twice"
