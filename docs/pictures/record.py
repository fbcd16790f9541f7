"""Trained policies for the pages: `python docs/pictures/record.py` trains four short runs and records them.

It writes docs/_static/policies/<name>.webp and <name>-still.webp, for the landing page, and
docs/pictures/cartpole.json, the episodes that the widget replays. Runs go to data/recordings; one that is there is not
repeated. All of it takes some minutes on two cores, and nothing of it is needed to build the site.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from spinup import load
from spinup.analysis import play as watch
from spinup.envs import make_envs

ROOT = Path(__file__).parents[2]
RUNS, OUT = ROOT / "data" / "recordings", ROOT / "docs" / "_static" / "policies"
SIDE = 320  # pixels
GAMMA = 0.99  # of PPO, by default


class Recording(NamedTuple):
    """A moving picture: how its policy is trained, the episode, which pictures of it to keep, which part of each."""

    flags: str
    seed: int
    steps: int
    every: int
    crop: tuple[int, int, int, int]  # left, top, right, bottom


RECORDINGS = {
    "cartpole": Recording("ppo --env CartPole-v1 --epochs 40", 3, 250, 2, (110, 20, 490, 400)),
    "pendulum": Recording(
        "sac --env Pendulum-v1 --epochs 8 --steps_per_epoch 1000 --start_steps 1000 --hid 64,64 --batch_size 64",
        3,
        150,
        1,
        (50, 50, 450, 450),
    ),
    "acrobot": Recording("ppo --env Acrobot-v1 --epochs 50", 0, 90, 1, (50, 90, 450, 490)),
}
EARLY = "ppo --env CartPole-v1 --epochs 3"


def train(name: str, flags: str) -> Path:
    """The folder of a run, which is made unless it is there."""
    folder = RUNS / name / f"{name}_s0"
    if not (folder / "model.pt").exists():
        words = [*flags.split(), "--seed", "0", "--exp_name", name, "--data_dir", str(RUNS), "--quiet"]
        subprocess.run([sys.executable, "-m", "spinup.run", *words], check=True, cwd=ROOT)
    return folder


def film(name: str, recording: Recording) -> None:
    """Play one episode and write it as an animated WebP that loops, and its middle picture as a still one."""
    folder = train(name, recording.flags)
    env = json.loads((folder / "config.json").read_text())["env_fn"]
    watch.prepare_video("x.gif")  # pygame draws without a display
    canvas, frames = watch.open_canvas(env, {}, recording.steps), []
    watch.play(load(folder), canvas, 1, True, recording.seed, lambda: frames.append(watch.draw(canvas)))
    fps = canvas.envs.metadata["render_fps"]
    canvas.close()
    images = [Image.fromarray(frame) for frame in frames[:: recording.every]]
    images = [image.crop(recording.crop).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for image in images]
    OUT.mkdir(exist_ok=True)
    file, pause = OUT / f"{name}.webp", round(1000 * recording.every / fps)
    images[0].save(file, save_all=True, append_images=images[1:], duration=pause, loop=0, quality=75, method=6)
    images[len(images) // 2].save(OUT / f"{name}-still.webp", quality=80, method=6)
    print(f"{file.relative_to(ROOT)}  {len(images)} pictures  {file.stat().st_size / 1000:.0f} kB")


@torch.no_grad()
def episode(folder: Path, name: str, seed: int) -> dict:
    """An episode of CartPole by sampled actions: what the widget draws, with the critic's values in rewards."""
    policy = load(folder)
    state = torch.load(folder / "model.pt", weights_only=True)
    scale = float((state["rew_norm.var"] + 1e-8).sqrt())  # the critic's targets are rewards divided by this
    torch.manual_seed(seed)
    envs, played = make_envs("CartPole-v1", 1, seed), {"x": [], "theta": [], "action": [], "value": []}
    o = envs.reset()
    while not envs.done.all():
        a = policy.act(o)
        played["x"].append(round(float(o[0, 0]), 3))
        played["theta"].append(round(float(o[0, 2]), 3))
        played["action"].append(int(a[0]))
        played["value"].append(round(scale * float(policy.v(torch.as_tensor(o))), 2))
        o, _, terminated, _ = envs.step(a)
    envs.close()
    steps = len(played["x"])
    end = "The pole falls: a terminal state." if np.any(terminated) else "The time limit cuts the episode off."
    return {"name": name, **played, "end": f"It ends after {steps} steps. {end}"}


def main() -> None:
    for name, recording in RECORDINGS.items():
        film(name, recording)
    early = episode(train("cartpole-early", EARLY), "after 3 epochs", 0)
    late = episode(train("cartpole", RECORDINGS["cartpole"].flags), "after 40 epochs", 0)
    file = Path(__file__).with_name("cartpole.json")
    file.write_text(json.dumps({"gamma": GAMMA, "episodes": [early, late]}, separators=(",", ":")) + "\n")
    print(f"{file.relative_to(ROOT)}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
