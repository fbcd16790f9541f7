"""The checker of exercise 3.3."""

import json
from pathlib import Path

import numpy as np

from spinup.analysis import results
from spinup.exercises.experiments import (
    check_better,
    check_number,
    finals,
    interval,
    read_answers,
    read_runs,
    updates_after,
)


def check(path: Path) -> str:
    """The runs, their scores for the same steps, and what they cost."""
    answers = read_answers(path, ["iqm_025", "iqm_1", "better", "times_longer", "gradient_steps"])
    runs = read_runs(answers["folder"], "Pendulum-v1", "replay_ratio", [0.25, 1.0], 5, ["Alpha", "AverageTestEpRet"])
    scores = {value: finals(of) for value, of in runs.items()}
    for key, value in (("iqm_025", 0.25), ("iqm_1", 1.0)):
        check_number(key, answers[key], interval(scores[value])[0], "the final IQM in the table")
    winner = check_better("better", answers["better"], ("0.25", "1.0"), scores[0.25], scores[1.0])
    time = {value: np.mean([run.columns["Time"][-1] for run in of]) for value, of in runs.items()}
    what = "the mean of the last Time with ratio 1, over that with 0.25"
    check_number("times_longer", answers["times_longer"], time[1.0] / time[0.25], what, tol=0.05)
    run = results.load([answers["folder"]])["run"].iloc[0]
    config = json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))
    steps = config["epochs"] * config["steps_per_epoch"]
    what = f"one for each of the {steps} environment steps but the first update_after"
    check_number("gradient_steps", answers["gradient_steps"], steps - updates_after(config), what, floor=100)
    return f"ten runs, and what you say of their scores ({winner}) and their cost is what they show"
