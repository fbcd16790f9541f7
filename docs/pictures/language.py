"""The figures of docs/introduction/language-models.md: `python docs/pictures/language.py` writes them.

The numbers are the committed records that benchmarks/language_models.py made, in data/benchmarks/language_models.jsonl.
"""

import json
from pathlib import Path

import numpy as np
from svg import Axes, Picture, write

RECORDS = Path(__file__).parents[2] / "data" / "benchmarks" / "language_models.jsonl"
NAMES = {"reinforce": "REINFORCE", "ppo": "PPO", "grpo": "GRPO"}
BETAS = (0.0, 0.1, 0.3, 1.0)
STEP, REWARD, ACCURACY, KL = range(4)  # columns of a record's rows


def curves(algorithm: str, reward: str, beta: float) -> np.ndarray:
    """(seeds, rows, columns) of the runs with these settings."""
    runs = [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    wanted = (algorithm, reward, beta)
    return np.array([run["rows"] for run in runs if (run["algorithm"], run["reward"], run["beta"]) == wanted])


def panel(
    p: Picture, left: float, top: float, width: float, title: str, seeds: np.ndarray, columns: dict[int, str]
) -> None:
    """Curves over steps. columns: the line's class of each column that is drawn."""
    steps = seeds[0, :, STEP]
    ax = Axes(p, left, top, width, 118, (0, steps[-1]), (0, 1))
    ax.ticks([(x, f"{x:g}") for x in (0, steps[-1])], [(y, f"{y:g}") for y in (0, 0.5, 1)])
    p.text(ax.left + ax.width / 2, top - 12, title, "head-text")
    p.text(ax.left + ax.width / 2, top + 135, "steps", "note")
    for column in columns:
        for values in seeds[:, :, column]:
            ax.plot(steps, values, "line thin")
    for column, kind in columns.items():
        ax.plot(steps, seeds[:, :, column].mean(axis=0), f"line {kind}")


def learning() -> Picture:
    found = {name: curves(algorithm, "exact", 0.02) for algorithm, name in NAMES.items()}
    ends = "; ".join(f"{name}: from {x[0]:.2f} to {x[-1]:.2f}" for name, x in accuracies(found).items())
    p = Picture("Three algorithms learn to sort", f"Accuracy over steps, mean of the seeds. {ends}.", 196)
    for i, (name, seeds) in enumerate(found.items()):
        panel(p, 34 + 114 * i, 28, 92, name, seeds, {ACCURACY: "blue thick"})
    p.text(180, 187, "accuracy; gray: one seed each; blue: their mean", "note")
    return p


def hacking() -> Picture:
    found = {f"β = {beta:g}": curves("grpo", "hacked", beta) for beta in BETAS}
    ends = "; ".join(
        f"{name}: at the end the reward is {found[name][:, -1, REWARD].mean():.2f} and the accuracy {x[-1]:.2f}"
        for name, x in accuracies(found).items()
    )
    p = Picture("A flawed reward is hacked", f"Mean reward and accuracy over steps, by KL penalty. {ends}.", 386)
    for i, (name, seeds) in enumerate(found.items()):
        panel(
            p, 44 + 180 * (i % 2), 28 + 172 * (i // 2), 128, name, seeds, {REWARD: "red dashed", ACCURACY: "blue thick"}
        )
    p.text(180, 359, "dashed red: mean reward; blue: accuracy", "note")
    p.text(180, 377, "means over seeds; gray: one seed each", "note")
    return p


def distance() -> Picture:
    """Each row of the runs with the flawed reward, means over seeds, as two dots at its KL from the reference."""
    rows = np.concatenate([curves("grpo", "hacked", beta).mean(axis=0) for beta in BETAS])
    far = 4 * np.ceil(rows[:, KL].max() / 4)
    bins = [(low, rows[(low <= rows[:, KL]) & (rows[:, KL] < low + 4), ACCURACY]) for low in np.arange(0, far, 4)]
    means = "; ".join(f"from {low:g} to {low + 4:g} {values.mean():.2f}" for low, values in bins if len(values))
    p = Picture(
        "Reward and accuracy by distance", f"Over the KL from the reference. Mean accuracy by KL: {means}.", 232
    )
    ax = Axes(p, 34, 14, 312, 150, (0, far), (0, 1))
    ax.ticks([(x, f"{x:g}") for x in np.arange(0, far + 1, 4)], [(y, f"{y:g}") for y in (0, 0.5, 1)])
    for row in rows:
        p.circle(*ax.at(row[KL], row[REWARD]), 2.6, "box red open")
        p.circle(*ax.at(row[KL], row[ACCURACY]), 2.6, "dot blue")
    p.text(190, 199, "KL from the reference", "note")
    p.text(190, 221, "red rings: mean reward; blue dots: accuracy", "note")
    return p


def accuracies(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean accuracy over seeds at each row."""
    return {name: seeds[:, :, ACCURACY].mean(axis=0) for name, seeds in found.items()}


FIGURES = {"grpo-learning": learning, "grpo-hacking": hacking, "grpo-distance": distance}


if __name__ == "__main__":
    write(FIGURES)
