"""The figures of the algorithms' pages: what the columns of healthy runs look like, and those of one that is not.

    python docs/figures.py             # trains 21 short runs (half an hour on two cores) for docs/images/*.svg
    python docs/figures.py ppo sac     # only these

Runs go to data/figures; a run that is there already is not repeated. Nothing of this is needed to build the docs.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "data" / "figures"
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#808080"


class Figure(NamedTuple):
    """One page's figure: flags of all its runs, flags that spoil one more run, and the columns, a panel each."""

    flags: str
    broken: str
    columns: list[str]


CARTPOLE = "--env CartPole-v1"
PENDULUM = "--env Pendulum-v1 --epochs 12 --steps_per_epoch 1000 --start_steps 1000 --hid 64,64 --batch_size 64"
FIGURES = {
    "vpg": Figure(
        f"{CARTPOLE} --epochs 120",
        "--pi_lr 0.1",
        ["AverageEpRet", "Entropy", "KL", "DeltaLossPi", "LossV", "AverageVVals"],
    ),
    "trpo": Figure(
        f"{CARTPOLE} --epochs 60",
        "--delta 2 --algo npg",
        ["AverageEpRet", "KL", "BacktrackIters", "DeltaLossPi", "LossV", "AverageVVals"],
    ),
    "ppo": Figure(
        f"{CARTPOLE} --epochs 30",
        "--pi_lr 0.1",
        ["AverageEpRet", "Entropy", "KL", "ClipFrac", "LossV", "AverageVVals"],
    ),
    "ddpg": Figure(
        PENDULUM,
        "--polyak 0 --ac_kwargs:layer_norm False --q_lr 0.01",
        ["AverageTestEpRet", "AverageEpRet", "AverageQVals", "MaxQVals", "LossQ", "LossPi"],
    ),
    "td3": Figure(
        PENDULUM,
        "--target_noise 3 --noise_clip 3",
        ["AverageTestEpRet", "AverageEpRet", "AverageQ1Vals", "MaxQ1Vals", "LossQ", "LossPi"],
    ),
    "sac": Figure(
        PENDULUM,
        "--alpha 20",
        ["AverageTestEpRet", "AverageEpRet", "AverageLogPi", "Alpha", "AverageQ1Vals", "LossQ"],
    ),
    "crossq": Figure(
        PENDULUM,
        "--ac_kwargs:batch_norm False",
        ["AverageTestEpRet", "AverageEpRet", "AverageLogPi", "Alpha", "AverageQ1Vals", "LossQ"],
    ),
}


def train(algo: str, name: str, flags: str, seed: int) -> pd.DataFrame:
    """The table of a run, which is made unless it is there."""
    table = RUNS / name / f"{name}_s{seed}" / "progress.txt"
    if not table.exists():
        words = [algo, *flags.split(), "--seed", str(seed), "--exp_name", name, "--data_dir", str(RUNS), "--quiet"]
        subprocess.run([sys.executable, "-m", "spinup.run", *words], check=True, cwd=ROOT)
    return pd.read_csv(table, sep="\t")


def shorter(svg: str) -> str:
    """The same picture, to a tenth of a point, in half the bytes."""
    svg = re.sub(r"(\d+\.\d)\d+", r"\1", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg)
    return re.sub(r"\n\s*", "\n", svg).replace(" \nL ", "L")


def draw(algo: str, figure: Figure) -> None:
    """Train the figure's runs and write docs/images/<algo>-columns.svg: healthy in blue, broken dashed in red."""
    healthy = [train(algo, f"{algo}-healthy", figure.flags, seed) for seed in (0, 1)]
    broken = train(algo, f"{algo}-broken", f"{figure.flags} {figure.broken}", 0)
    style = {"font.size": 7, "svg.fonttype": "none", "svg.hashsalt": algo, "axes.linewidth": 0.6}
    style |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY)
    with plt.rc_context(style):
        grid, axes = plt.subplots(2, 3, figsize=(7, 3.4), layout="constrained")
        for ax, column in zip(axes.flat, figure.columns, strict=True):
            for run, color, line in [*((run, BLUE, "-") for run in healthy), (broken, VERMILLION, "--")]:
                rows = run[run[column].notna()]
                ax.plot(rows["TotalEnvInteracts"] / 1000, rows[column], line, color=color, linewidth=0.9)
            values = np.concatenate([run[column].dropna() for run in (*healthy, broken)])
            if column in ("KL", "Alpha") or (column.startswith("Loss") and values.min() > 0):
                ax.set_yscale("log", nonpositive="mask")
            ax.set_title(column, fontsize=7)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in axes[1]:
            ax.set_xlabel("thousand environment steps")
        path = ROOT / "docs" / "images" / f"{algo}-columns.svg"
        grid.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(grid)
    path.write_text(shorter(path.read_text()))
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        draw(name, FIGURES[name])
