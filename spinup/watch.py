"""Trained policies: load one from its run's folder, and play episodes with it (command name: test_policy).

Loading reads JSON and tensors; no code that a run's folder names or holds is ever run.
"""

import argparse
import json
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spinup import nets
from spinup.envs import VecEnv, evaluate, make_envs
from spinup.errors import UserError, closest

EnvFn = str | Callable
ONLY_TRAINING = ("rew_norm.", "temperature.")  # saved with a policy that can do without


def load(
    path: str | Path, itr: int | None = None, actor_critic: Callable | None = None, env_fn: EnvFn | None = None
) -> nn.Module:
    """The policy of the run in the folder `path`: policy.act(o, deterministic=False) gives numpy actions.

    itr: load model{itr}.pt; default: model.pt, the last one saved
    actor_critic: class of the networks, where they are not those of spinup.nets
    env_fn: environment's id or a function that makes it, where the run's own is a function or a "module:Env-v0"

    Raises UserError where a file is missing or damaged, or does not fit the others.
    """
    folder, config = read_config(path)
    state = read_state(folder, itr)
    envs = spaces_of(folder, config) if env_fn is None else make_envs(env_fn, env_kwargs=config["env_kwargs"])
    envs.close()
    normalize = {"normalize_obs": config["normalize_obs"]} if "normalize_obs" in config else {}
    spaces = (envs.observation_space, envs.action_space)
    if actor_critic is not None:
        policy = actor_critic(*spaces, **normalize, **config["ac_kwargs"])
    else:
        ours = network_class(config)
        try:
            policy = ours(*spaces, **normalize, **config["ac_kwargs"])
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{folder / 'config.json'}: cannot build the networks from ac_kwargs ({first_line(error)}); in Python, "
                "spinup.load(..., actor_critic=...) takes a class or function that can"
            ) from error
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{folder}: the saved parameters do not fit the networks ({first_line(error)})") from error
    return policy.eval()


def read_config(path: str | Path) -> tuple[Path, dict]:
    """A run's folder and its config.json, with env_kwargs and ac_kwargs as dicts."""
    folder = Path(path).expanduser()
    file = folder / "config.json"
    if not folder.is_dir():
        names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"there is no folder '{folder}'{closest(folder.name, names)}")
    if not file.exists():
        below = sorted(str(p.parent) for p in folder.glob("**/config.json"))
        raise UserError(f"'{folder}' holds no run (no config.json); runs below it: {', '.join(below[:5]) or 'none'}")
    try:
        config = json.loads(file.read_text("utf-8"))
        return folder, {**config, **{key: dict(config.get(key) or {}) for key in ("env_kwargs", "ac_kwargs")}}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a config.json that spinup wrote ({first_line(error)})") from error


def read_state(folder: Path, itr: int | None) -> dict[str, torch.Tensor]:
    """The parameters in model.pt or model{itr}.pt, without those that only training uses."""
    file = folder / f"model{'' if itr is None else itr}.pt"
    if not file.exists():
        there = ", ".join(sorted(p.name for p in folder.glob("model*.pt"))) or "nothing; did the run save yet?"
        raise UserError(f"there is no {file}; saved there: {there}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} is damaged, or holds more than tensors and is not loaded") from error
    except Exception as error:  # what a damaged file makes torch raise is anything
        raise UserError(f"{file} is damaged ({first_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{file} holds no state_dict")
    return {key: value for key, value in state.items() if not str(key).startswith(ONLY_TRAINING)}


def spaces_of(folder: Path, config: dict) -> VecEnv:
    """The environment of a run; refuses one whose module would have to be imported."""
    env_id = str(config.get("env_fn"))
    module = env_id.rpartition(":")[0]
    if module and module not in sys.modules:
        raise UserError(
            f"{folder}: its environment '{env_id}' imports {module}; allow it with --env {env_id} (env_fn=)"
        )
    try:
        return make_envs(env_id, env_kwargs=config["env_kwargs"])
    except UserError as error:
        raise UserError(f"{folder}: {error}; --env ID (env_fn=) names another environment") from None


def network_class(config: dict) -> type[nn.Module]:
    """The class in spinup.nets that config.json names."""
    name = str(config.get("actor_critic"))
    module, _, attribute = name.rpartition(".")
    found = getattr(nets, attribute, None) if module == "spinup.nets" else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"the networks are {name}; in Python: spinup.load(..., actor_critic=that class)")
    return found


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"


# ---- test_policy


def main(argv: Sequence[str] | None = None) -> None:
    """Play episodes and print their returns. Raises UserError for what the user got wrong."""
    args = parse(argv)
    folder, config = read_config(args.path)
    policy = load(folder, args.itr, env_fn=args.env)
    env = args.env or config["env_fn"]
    torch.manual_seed(args.seed)
    window = None if args.norender else open_window(env, config["env_kwargs"], args.len)
    if window:
        played = play(policy, window, args.episodes, args.deterministic, args.seed)
    else:
        played = evaluate(
            policy, env, args.episodes, args.deterministic, args.seed, args.len, env_kwargs=config["env_kwargs"]
        )
    how = "the mode of the policy" if args.deterministic else "actions sampled"
    print(f"{args.episodes} episodes of {env}, seed {args.seed}, {how}")
    for key, values in played.items():
        print(f"{key}  mean {np.mean(values):.2f}  std {np.std(values):.2f}  min {min(values):g}  max {max(values):g}")


class Parser(argparse.ArgumentParser):
    """Raises its complaints, so that the command line shows them like all others."""

    def error(self, message: str) -> None:
        raise UserError(f"test_policy: {message}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m spinup.run test_policy",
        description="Play episodes and print their returns.",
        allow_abbrev=False,
    )
    parser.add_argument("path", help="folder of a run, as data/cmd_ppo/cmd_ppo_s0")
    parser.add_argument("-l", "--len", type=int, default=0, help="longest episode; 0: the environment's own limit")
    parser.add_argument("-n", "--episodes", type=int, default=100, help="how many (%(default)s)")
    parser.add_argument("-nr", "--norender", action="store_true", help="open no window; all episodes at once")
    parser.add_argument("-i", "--itr", type=int, default=-1, help="play model{ITR}.pt; -1: the last one saved")
    parser.add_argument("-d", "--deterministic", action="store_true", help="take the mode of the policy")
    parser.add_argument("-s", "--seed", type=int, default=0, help="of environments and sampled actions (%(default)s)")
    parser.add_argument("--env", help="play in this environment; module:Env-v0 imports module")
    args, rest = parser.parse_known_args(argv)
    if rest:
        options = [name for action in parser._actions for name in action.option_strings]
        parser.error(f"unknown argument '{rest[0]}'{closest(rest[0], options)}")
    if args.episodes < 1 or args.len < 0 or args.itr < -1 or not 0 <= args.seed < 2**31:
        parser.error("episodes must be at least 1, len at least 0, itr at least -1, and seed in 0 to 2147483647")
    args.len = args.len or sys.maxsize
    args.itr = None if args.itr == -1 else args.itr
    return args


def open_window(env: EnvFn, env_kwargs: dict, max_ep_len: int) -> VecEnv | None:
    """One environment that shows itself in a window, or None, after a line that says why."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        print("no display: playing without a window (--norender leaves out this line)")
        return None
    try:
        window = make_envs(env, max_ep_len=max_ep_len, env_kwargs={**env_kwargs, "render_mode": "human"})
        window.reset()
        return window
    except Exception as error:  # a missing graphics library or driver raises anything; the episodes need no window
        print(f"cannot open a window ({first_line(error)}): playing without")
        return None


def play(policy: nn.Module, window: VecEnv, episodes: int, deterministic: bool, seed: int) -> dict[str, list]:
    """Play one episode after another, seeded as in `evaluate`, with a line about each; returns EpRet and EpLen."""
    played = {"EpRet": [], "EpLen": []}
    for i in range(episodes):
        window.seed = seed + i
        o = window.reset()
        while not window.done.all():
            o = window.step(policy.act(o, deterministic))[0]
        played["EpRet"].append(window.ep_ret.item())
        played["EpLen"].append(window.ep_len.item())
        print(f"episode {i + 1}: return {played['EpRet'][-1]:.2f}, length {played['EpLen'][-1]}", flush=True)
    window.close()
    return played
