"""Load a trained policy from its run's folder, play episodes with it and record them (the command test_policy).

Loading reads only JSON and tensors; code that the folder contains or names is never run.
"""

import argparse
import contextlib
import ctypes
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from spinup.envs import (
    DEFAULT_LENGTH,
    Player,
    VecEnv,
    bind,
    check_fits,
    check_numbers,
    close_or_warn,
    env_name,
    evaluate,
    longest_episode,
    make_env,
    make_envs,
    saved_wrappers,
)
from spinup.errors import UserError, first_line, install, printable, user_path
from spinup.experiments import parsers
from spinup.nets import check_ac_kwargs, check_makes_networks
from spinup.runs.config import check_env_name, fill_in, read_config
from spinup.runs.saved import (
    TRAINING_ONLY,
    build,
    check_process_count,
    check_size,
    model_file,
    network_arguments,
    network_class,
    read_policy,
)
from spinup.system.files import replacing

EnvFn = str | Callable
LogInfo = Sequence[str] | str | None
MAX_GIF_FPS, MAX_GIF_SIDE = 30, 400  # frames per second, pixels per side: GIFs compress poorly


def load(
    path: str | Path,
    itr: int | str | None = None,
    actor_critic: Callable | None = None,
    env_fn: EnvFn | None = None,
    wrappers: Sequence | None = None,
    ac_kwargs: dict | None = None,
    env_kwargs: dict | None = None,
) -> nn.Module:
    """Load the policy of the run in the folder `path`.

    policy.action(observation, deterministic=False) maps one of the environment's own observations to an action;
    policy.act(o, deterministic=False) is for batches, in VecEnv's flat format. A policy with memory takes and returns
    its state: action, state = policy.action(observation, state), with None at the first step of an episode.

    itr: load model{itr}.pt; "best": model_best.pt, from the end of the epoch with the highest mean return; default:
        model.pt, the last one saved
    actor_critic: the networks' class, required if it isn't from spinup.nets
    env_fn: the environment's id or a function that makes it, required if the run's is a function or "module:Env-v0"
    wrappers: all of the environment's wrappers, required if one of them isn't Gymnasium's or spinup's
    ac_kwargs, env_kwargs: entries that replace the run's, such as those of which config.json contains only the name

    Raises UserError if a file is missing or damaged, or doesn't match the others.
    """
    if actor_critic is not None:
        check_makes_networks(actor_critic)
    folder, config = read_config(path)
    makers = {"ac_kwargs": actor_critic, "env_kwargs": env_fn}
    config = fill_in(folder, config, {"ac_kwargs": ac_kwargs, "env_kwargs": env_kwargs}, makers)
    file = model_file(folder, itr)
    state = read_parameters(file)
    environment_arguments = {"env_kwargs": config["env_kwargs"], "wrappers": saved_wrappers(folder, config, wrappers)}
    envs = (
        spaces_of(folder, config, environment_arguments)
        if env_fn is None
        else make_envs(env_fn, **environment_arguments)
    )
    envs.close()
    spaces = (envs.observation_space, envs.action_space)
    check_ac_kwargs(actor_critic or network_class(config), ac_kwargs or {})
    if actor_critic is not None:
        policy = actor_critic(*spaces, **network_arguments(config))
    else:
        if not ac_kwargs:  # an untrusted folder determines their size
            check_size(folder / "config.json", config, file, *spaces)
        policy = build(folder / "config.json", config, *spaces)
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        why = f"({first_line(error)})"
        if env_fn is not None or wrappers is not None:
            made = f"{envs.observation_space} and {envs.action_space}"
            why = f"for observations and actions in {made}, as this environment with its wrappers has them"
        raise UserError(f"{folder}: the saved parameters do not match the networks {why}") from error
    bind(policy, envs, episode_length(config))
    return policy.float().eval()  # float32, whatever torch's default dtype is


def episode_length(config: dict) -> int:
    """The run's max_ep_len."""
    length = config.get("max_ep_len")
    return length if isinstance(length, int) and length >= 1 else DEFAULT_LENGTH


def read_parameters(file: Path) -> dict[str, torch.Tensor]:
    """The parameters in a saved policy, without those used only in training."""
    state = read_policy(file)
    return {key: value for key, value in state.items() if not str(key).startswith(TRAINING_ONLY)}


def spaces_of(folder: Path, config: dict, environment_arguments: dict) -> VecEnv:
    """Make a run's environment, to get its spaces. Raises UserError if it takes a function or an import."""
    check_env_name(folder, config)
    try:
        return make_envs(str(config.get("env_fn")), **environment_arguments)
    except UserError as error:
        raise UserError(f"{folder}: {error}; --env ID (env_fn=) names another environment") from None


# ---- test_policy


def main(argv: Sequence[str] | None = None) -> None:
    """Play episodes and print their returns. Raises UserError for a user's mistake."""
    args = parsers.test_policy(argv)
    if args.video:
        prepare_video(args.video)
    folder, config = read_config(args.path)
    policy = load(folder, args.itr, env_fn=args.env, wrappers=args.wrapper)
    env, env_kwargs = args.env or config["env_fn"], config["env_kwargs"]
    length = args.len or episode_length(config)
    wrappers, log_info = saved_wrappers(folder, config, args.wrapper), config.get("log_info")
    torch.manual_seed(args.seed)
    how = (args.episodes, args.deterministic, args.seed)
    if args.video:
        played = record(policy, env, args.video, *how, length, env_kwargs, wrappers, log_info)
    elif window := None if args.norender else open_window(env, env_kwargs, length, wrappers, log_info):
        with contextlib.closing(window):
            played = play(policy, window, *how)
    else:
        played = evaluate(policy, env, *how, length, env_kwargs, wrappers=wrappers, **as_in_training(config, args))
    actions = "the mode of the policy" if args.deterministic else "actions sampled if the policy is stochastic"
    print(f"{args.episodes} episode{'s' * (args.episodes > 1)} of {printable(str(env))}, seed {args.seed}, {actions}")
    for key, values in played.items():
        values = [value for value in values if not math.isnan(value)] or [math.nan]
        print(f"{key}  mean {np.mean(values):.2f}  std {np.std(values):.2f}  min {min(values):g}  max {max(values):g}")


def as_in_training(config: dict, args: argparse.Namespace) -> dict:
    """Arguments with which `evaluate` makes environments as the run's evaluations did, unless the flags differ."""
    how = {name: config[name] for name in ("vectorization", "reseed", "log_info") if name in config}
    number = args.num_envs
    if number is None:
        counts = {name: config.get(name) for name in ("num_test_envs", "num_envs")}
        for name, count in counts.items():
            if count is not None and not (type(count) is int and count >= 1):
                file = Path(args.path) / "config.json"
                raise UserError(f"{file}: {name} is {count!r:.80}; it must be an int from 1")
        together = config.get("vectorization") == "async"
        number = counts["num_test_envs"] or (counts["num_envs"] if together else None)
        if together:
            number = min(args.episodes, number or args.episodes)
            check_process_count(Path(args.path), number, f"--num_envs {number}, or give fewer")
    return {**how, "num_envs": number}


def open_window(
    env: EnvFn, env_kwargs: dict, max_ep_len: int, wrappers: Sequence | None, log_info: LogInfo
) -> VecEnv | None:
    """One environment that shows itself in a window. If that fails, prints why and returns None."""
    if no_display():
        print("no display: playing without a window (--norender omits this line)")
        return None
    try:
        shown = {**env_kwargs, "render_mode": "human"}
        window = make_envs(env, max_ep_len=max_ep_len, env_kwargs=shown, wrappers=wrappers, log_info=log_info)
        window.reset()
        return window
    except Exception as error:  # missing graphics libraries or drivers can raise anything, and the window is optional
        print(f"cannot open a window ({first_line(error.__cause__ or error)}): playing without one")
        return None


def no_display() -> bool:
    return sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def play(
    policy: nn.Module,
    envs: VecEnv,
    episodes: int,
    deterministic: bool,
    seed: int,
    show: Callable[[], None] = lambda: None,
) -> dict[str, list]:
    """Play one episode after another, seeded as in `evaluate`, and print a line about each. Returns the lists that
    `evaluate` does.

    envs: a single environment
    show: called at the start and after every step
    """
    check_fits(policy, envs)
    played = []
    for i in range(episodes):
        envs.seed = seed + i
        o, player = envs.reset(), Player(policy, 1)
        show()
        while not envs.done.all():
            o = envs.step(player.act(o, deterministic))[0]
            show()
        played += envs.episodes(envs.done)
        print(f"episode {i + 1}: return {played[i][0]:.2f}, length {played[i][1]}", flush=True)
    return envs.columns(played)


# ---- video


def record(
    policy: nn.Module,
    env: EnvFn,
    file: str | Path,
    episodes: int = 1,
    deterministic: bool = False,
    seed: int = 0,
    max_ep_len: int | None = None,
    env_kwargs: dict | None = None,
    wrappers: Sequence | None = None,
    log_info: LogInfo = None,
) -> dict[str, list]:
    """Play episodes as `play` does, and record them in `file`, a .gif or .mp4, replacing it. Needs no display.

    max_ep_len: maximum episode length; None: that of the policy's run
    wrappers, log_info: as in `make_envs`

    A GIF loops, with at most MAX_GIF_FPS frames per second and MAX_GIF_SIDE pixels per side. After Ctrl-C, the file
    contains what was played so far. Raises UserError if the environment can't be drawn or the file can't be written.
    """
    check_numbers(episodes=episodes, seed=seed, max_ep_len=max_ep_len)
    file = prepare_video(file)
    max_ep_len = longest_episode(policy) if max_ep_len is None else max_ep_len
    canvas = open_canvas(env, env_kwargs or {}, max_ep_len, wrappers, log_info)
    with contextlib.closing(canvas), contextlib.ExitStack() as stack:
        height, width, _ = draw(canvas).shape
        fps = float(canvas.envs.metadata.get("render_fps") or 30)
        try:
            draft = stack.enter_context(replacing(file, interrupted=True))  # fails now, not after the episodes
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror or error}") from error
        with WRITERS[file.suffix.lower()](draft, fps, (width, height)) as write:
            played = play(policy, canvas, episodes, deterministic, seed, lambda: write(draw(canvas)))
    print(f"Saved {file}")
    return played


def prepare_video(file: str | Path) -> Path:
    """Check that this type of file can be written, and make MuJoCo and pygame draw without a display if necessary.

    Must be called before the environment is made: both read their environment variables when imported.
    """
    file = user_path(file)
    if file.suffix.lower() not in WRITERS:
        raise UserError(f"cannot record '{file}'; the file's name must end in {' or '.join(WRITERS)}")
    if file.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError:
            raise UserError(f"an .mp4 needs: {install('video')}; a .gif works without it") from None
    if no_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        with contextlib.suppress(OSError):
            ctypes.CDLL("libEGL.so.1")  # if it is missing, MUJOCO_GL=egl would make importing mujoco fail
            os.environ.setdefault("MUJOCO_GL", "egl")
    return file


def open_canvas(env: EnvFn, env_kwargs: dict, max_ep_len: int, wrappers: Sequence | None, log_info: LogInfo) -> VecEnv:
    """One environment that renders to arrays, already tested by drawing it once."""
    plain = make_env(env, env_kwargs, wrappers)
    close_or_warn(plain, env_name(env))
    modes = [str(mode) for mode in plain.metadata.get("render_modes") or ()]
    if "rgb_array" not in modes:
        others = f", only {', '.join(modes)}" if modes else ""
        raise UserError(f"{env_name(env)} cannot be recorded: it has no render mode rgb_array{others}")
    with silence_cleanup_errors():
        try:
            drawn = {**env_kwargs, "render_mode": "rgb_array"}
            canvas = make_envs(env, max_ep_len=max_ep_len, env_kwargs=drawn, wrappers=wrappers, log_info=log_info)
            follow_agent(canvas.envs.envs[0], env_kwargs)
            canvas.reset()
            draw(canvas)
            return canvas
        except gym.error.DependencyNotInstalled as error:
            if "pygame" not in str(error):
                raise
            raise UserError(f"drawing {env} needs pygame: {install('video')}") from None
        except Exception as error:
            if isinstance(error, UserError) or "mujoco" not in sys.modules:
                raise
            reason = first_line(error)  # if a library or driver is missing, MuJoCo can raise anything
    hint = "on Linux without a display it needs EGL, on Debian and Ubuntu: apt-get install libegl1"
    raise UserError(f"MuJoCo cannot draw {env} ({reason}); {hint}")


def follow_agent(env: gym.Env, env_kwargs: dict) -> None:
    """Use a MuJoCo model's camera "track", unless env_kwargs choose another: Gymnasium 1.4's default doesn't move."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer and not {"camera_id", "camera_name", "default_camera_config"} & set(env_kwargs):
        cameras = [renderer.model.camera(i).name for i in range(renderer.model.ncam)]
        if "track" in cameras:
            renderer.camera_id = cameras.index("track")


@contextlib.contextmanager
def silence_cleanup_errors() -> Iterator[None]:
    """Suppress messages about objects that a failing graphics library leaves incomplete; its exception is enough."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook


def draw(canvas: VecEnv) -> np.ndarray:
    """A frame of a single environment, (height, width, 3) of uint8."""
    picture = np.asarray(canvas.envs.render()[0])
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UserError(
            f"render() returned {picture.dtype} of shape {picture.shape}; it must be uint8 of shape (height, width, 3)"
        )
    return picture


Writer = Callable[[np.ndarray], None]


@contextlib.contextmanager
def gif(file: Path, fps: float, size: tuple[int, int]) -> Iterator[Writer]:
    """Gives a function that adds a frame, with (width, height) as in `size`. The file is written at the end."""
    from PIL import Image  # comes with matplotlib

    every = math.ceil(fps / MAX_GIF_FPS)
    small = [max(1, side * MAX_GIF_SIDE // max(MAX_GIF_SIDE, *size)) for side in size]
    count, kept = 0, []

    def write(frame: np.ndarray) -> None:
        nonlocal count
        if count % every == 0:
            kept.append(Image.fromarray(frame).resize(small).quantize(method=Image.Quantize.FASTOCTREE))
        count += 1

    try:
        yield write
    finally:
        if kept:
            # A GIF measures time in hundredths of a second: frames of 3, 3 and 4 give 30 per second.
            ends = np.rint(np.arange(len(kept) + 1) * (100 * every / fps)).astype(int)
            milliseconds = (10 * np.diff(ends)).tolist()
            kept[0].save(file, save_all=True, append_images=kept[1:], duration=milliseconds, loop=0)


@contextlib.contextmanager
def mp4(file: Path, fps: float, size: tuple[int, int]) -> Iterator[Writer]:
    """Gives a function that adds a frame, with (width, height) as in `size`."""
    import imageio_ffmpeg

    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]  # most players need even sides
    video = imageio_ffmpeg.write_frames(str(file), size, fps=fps, macro_block_size=1, output_params=even)
    video.send(None)
    try:
        yield lambda frame: video.send(np.ascontiguousarray(frame))
    finally:
        video.close()


WRITERS = {".gif": gif, ".mp4": mp4}
