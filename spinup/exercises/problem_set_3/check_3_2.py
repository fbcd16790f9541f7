"""The checker of exercise 3.2."""

from pathlib import Path

import numpy as np

from spinup.exercises.experiments import (
    check_better,
    check_choice,
    check_number,
    finals,
    interval,
    read_answers,
    read_runs,
)
from spinup.exercises.judge import Wrong

NAMES = {0.01: "0.01", 0.2: "0.2", 2.0: "2.0"}


def check(path: Path) -> str:
    """The runs, how far the policy moved in them, how much was clipped, and two comparisons."""
    keys = {"iqm_001": 0.01, "iqm_02": 0.2, "iqm_2": 2.0}
    more = ["largest_kl", "most_clipped", "better_001_or_02", "better_02_or_2"]
    answers = read_answers(path, [*keys, *more])
    runs = read_runs(answers["folder"], "CartPole-v1", "clip_ratio", list(NAMES), 5, ["ClipFrac", "KL"])
    scores = {value: finals(of) for value, of in runs.items()}
    for key, value in keys.items():
        check_number(key, answers[key], interval(scores[value])[0], "the final IQM in the table")
    for key, column in (("largest_kl", "KL"), ("most_clipped", "ClipFrac")):
        check_choice(key, answers[key], list(NAMES.values()))
        means = {value: float(np.mean([run.columns[column].mean() for run in of])) for value, of in runs.items()}
        right = NAMES[max(means, key=means.get)]
        if answers[key] != right:
            raise Wrong(f"{key} is '{answers[key]}', which is not what your runs show: compare the means of {column}")
    check_better("better_001_or_02", answers["better_001_or_02"], ("0.01", "0.2"), scores[0.01], scores[0.2])
    check_better("better_02_or_2", answers["better_02_or_2"], ("0.2", "2.0"), scores[0.2], scores[2.0])
    return "fifteen runs, and what you say of them is what they show"
