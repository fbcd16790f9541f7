"""Training does not depend on its output being read: streams that are closed, full, broken or not UTF-8."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAIN = "-m spinup.run vpg --env CartPole-v1 --steps 32 --num_envs 1 --epochs 3 --hid 4"
SCRIPT = """
import spinup
spinup.vpg("CartPole-v1", num_envs=1, steps_per_epoch=32, epochs=3, ac_kwargs={"hidden_sizes": [4]},
    logger_kwargs={"output_dir": "data/cmd_vpg/cmd_vpg_s0"})
"""
GRID_SCRIPT = """
import spinup
if __name__ == "__main__":
    grid = spinup.ExperimentGrid("cmd_vpg")
    for key, vals in dict(env_name="CartPole-v1", seed=[0, 1], num_envs=1, steps_per_epoch=32, epochs=3).items():
        grid.add(key, vals)
    grid.run(spinup.vpg, jobs=2)
"""
REDIRECTIONS = ["> /dev/full", "| true", ">&- 2>&- <&-", "> /dev/full 2>&1"]


def shell(words: str, redirection: str, tmp_path, **variables):
    """Exit status, stdout and stderr of `python WORDS REDIRECTION`, in tmp_path."""
    command = f"set -o pipefail; {shlex.quote(sys.executable)} {words} {redirection}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SPINUP_DATA_DIR": "data", **variables}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, timeout=170)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def rows(folder: Path) -> int:
    return len((folder / "progress.txt").read_text().splitlines()) - 1


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_training_continues_if_nobody_reads_its_output(tmp_path, redirection):
    status, _, err = shell(TRAIN, redirection, tmp_path)
    assert (status, err) == (0, "")
    assert rows(tmp_path / "data/cmd_vpg/cmd_vpg_s0") == 3


@pytest.mark.parametrize("redirection", ["2>&1 | true", "> /dev/full"])
def test_mpi_training_continues_if_nobody_reads_its_output(tmp_path, redirection):
    pytest.importorskip("mpi4py")
    status, _, err = shell(f"{TRAIN} --num_cpu 2", redirection, tmp_path)
    assert (status, err) == (0, "")
    assert rows(tmp_path / "data/cmd_vpg/cmd_vpg_s0") == 3


@pytest.mark.parametrize("redirection", [">&-", "> /dev/full"])
def test_a_grid_continues_if_nobody_reads_its_output(tmp_path, redirection):
    status, _, err = shell(f"{TRAIN} --seed 0 1 --jobs 2", redirection, tmp_path)
    assert (status, err) == (0, "")
    assert [rows(tmp_path / f"data/cmd_vpg/cmd_vpg_s{seed}") for seed in (0, 1)] == [3, 3]


@pytest.mark.parametrize(
    ("script", "redirection"),
    [(SCRIPT, "2> /dev/full | true"), (SCRIPT, "> /dev/full"), (GRID_SCRIPT, "2>&- | true")],
)
def test_a_users_script_continues_if_nobody_reads_its_output(tmp_path, script, redirection):
    (tmp_path / "script.py").write_text(script)
    status, _, err = shell("script.py", redirection, tmp_path)
    assert (status, err) == (0, "")
    assert [rows(folder) for folder in tmp_path.glob("data/cmd_vpg/*")] == [3] * (1 if script is SCRIPT else 2)


@pytest.mark.parametrize("words", ["--help", "--version", "plot data --table", "plot data --out a.png"])
def test_a_command_reports_that_its_output_could_not_be_written(tmp_path, words):
    for seed in (0, 1):
        folder = tmp_path / f"data/x/x_s{seed}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"exp_name": "x", "env_fn": "CartPole-v1"}')
        (folder / "progress.txt").write_text("TotalEnvInteracts\tAverageEpRet\n1\t2\n2\t3\n")
    words = f"-m spinup.run {words}"
    assert shell(words, "> /dev/full", tmp_path)[::2] == (
        1, "spinup: error: cannot write to stdout: No space left on device\n"
    )  # fmt: skip
    assert shell(words, ">&-", tmp_path)[::2] == (0, "")
    assert (tmp_path / "a.png").exists() == words.endswith("a.png")


def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path):
    code = "import os, spinup.system.terminal as t; t.open_closed_streams(); f = open('f', 'w'); os.write(1, b'x')"
    shell(f"-c {shlex.quote(code)}", "<&- >&- 2>&-", tmp_path)
    assert (tmp_path / "f").read_text() == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_stdout_cannot_encode_is_escaped(tmp_path, encoding):
    variables = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    words = f"{TRAIN} --exp_name \u5b9f\u9a13\u00e9 --seed 0 1"
    status, _, err = shell(words, "> out.txt", tmp_path, **variables)
    assert (status, err) == (0, "")
    shown = (tmp_path / "out.txt").read_bytes().decode(encoding)
    assert "\\u5b9f\\u9a13" in shown
    status, _, err = shell("-m spinup.run plot data --table", "> out.txt", tmp_path, **variables)
    assert (status, err) == (0, "")
    assert ("\\xb1" if encoding == "ascii" else " \u00b1 ") in (tmp_path / "out.txt").read_bytes().decode(encoding)


@pytest.mark.parametrize("script", [SCRIPT, GRID_SCRIPT])
def test_a_script_with_a_name_that_stdout_cannot_encode(tmp_path, script):
    (tmp_path / "script.py").write_text(script.replace("cmd_vpg", "\u5b9f\u9a13"), "utf-8")
    variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    status, out, err = shell("script.py", "", tmp_path, **variables)
    assert (status, err) == (0, "")
    assert "\\u5b9f\\u9a13" in out
    assert [rows(folder) for folder in tmp_path.glob("data/\u5b9f\u9a13/*")] == [3] * (1 if script is SCRIPT else 2)


def test_a_non_blocking_pipe_gets_everything(tmp_path):
    code = (
        "import os, sys, spinup.system.terminal as t; os.set_blocking(1, False); t.protect_streams();"
        "print('x' * 1_000_000); sys.exit(t.exit_status_of_output(t.protect_streams()))"
    )
    status, out, err = shell(f"-c {shlex.quote(code)}", "| (sleep 1; cat)", tmp_path)
    assert (status, len(out), err) == (0, 1_000_001, "")
