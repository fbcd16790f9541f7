"""The checker of exercise 3.1."""

import json
from pathlib import Path

from spinup.analysis import results
from spinup.exercises.experiments import check_better, check_number, finals, interval, read_answers, read_runs


def check(path: Path) -> str:
    """The runs, their interquartile means, which is better, and how far the advantages see."""
    answers = read_answers(path, ["iqm_0", "iqm_80", "better", "horizon"])
    runs = read_runs(answers["folder"], "CartPole-v1", "train_v_iters", [0, 80], 5, ["BacktrackIters"])
    scores = {value: finals(of) for value, of in runs.items()}
    for value, x in scores.items():
        check_number(f"iqm_{value}", answers[f"iqm_{value}"], interval(x)[0], "the final IQM in the table")
    winner = check_better("better", answers["better"], ("0", "80"), scores[0], scores[80])
    run = results.load([answers["folder"]])["run"].iloc[0]
    config = json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))
    horizon = 1 / (1 - config["gamma"] * config["lam"])
    what = "1 / (1 - gamma * lam), with the values in config.json"
    check_number("horizon", answers["horizon"], horizon, what, tol=0.05)
    return f"ten runs, and what you say of them is what they show ({winner})"
