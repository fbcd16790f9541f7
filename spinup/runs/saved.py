"""Loading saved networks and tensors, possibly from an untrusted folder: no code in it runs, and loading takes no more
memory than the file's size, whatever size its content claims.
"""

import contextlib
import itertools
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from spinup import nets
from spinup.compute import accel
from spinup.errors import UserError, first_line
from spinup.system.files import check_file

MOST_PROCESSES = 4 * (os.cpu_count() or 1)  # an untrusted folder could ask for any number
TRAINING_ONLY = ("rew_norm.", "temperature.")  # saved with a policy, which doesn't need them
# Globals in a pickle of tensors. torch allows others, such as bytearray, which can allocate any amount of memory.
ALLOWED_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|tensor_v3|parameter)|torch\.storage UntypedStorage|"
    r"torch [A-Z]\w*Storage|torch [a-z]\w*"
)


def load_tensors(file: Path, digest_checked: bool = False) -> Any:
    """Load a file written by torch.save, to the CPU.

    digest_checked: the file is known to be intact; otherwise the archive's checksums are verified

    Raises UserError if the file is damaged, contains more than tensors and plain data, or would take more memory than
    its size.
    """
    try:
        check_archive(file, digest_checked)
        content = torch.load(file, map_location="cpu", weights_only=True)
        check_views(content)
        return content
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} is damaged or contains more than tensors; it is not loaded") from error
    except Exception as error:  # on a damaged file, torch can raise anything
        raise UserError(f"{file} is damaged ({first_line(error)})") from error


def check_archive(file: Path, digest_checked: bool) -> None:
    """Raise for an archive that torch.save did not write: compressed, or with members larger than the file."""
    size, free_bytes = check_file(file), accel.free_memory("cpu")
    if free_bytes is not None and size > free_bytes:
        raise UserError(f"{file} has {size / 2**30:.3g} GiB, but only {free_bytes / 2**30:.3g} GiB of memory are free")
    if not zipfile.is_zipfile(file):
        raise pickle.UnpicklingError("it is not an archive")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members):
            raise UserError(f"{file} is compressed, so spinup didn't write it; it is not loaded")
        # torch and zipfile see the same members only if nothing precedes the first or follows the directory
        if sum(m.file_size for m in members) > size or min(m.header_offset for m in members) or archive.comment:
            raise zipfile.BadZipFile("its members are not those of a file written by torch.save")
        for member in members:
            if member.filename.lower().endswith("data.pkl"):
                check_pickle(archive.read(member))
        if not digest_checked and (broken := archive.testzip()):  # torch ignores checksums
            raise zipfile.BadZipFile(f"the checksum of {broken} does not match")


def check_pickle(data: bytes) -> None:
    """Raise UnpicklingError if a pickle names anything but tensors and dicts."""
    for operation, name, _ in pickletools.genops(data):
        if operation.name == "GLOBAL" and not ALLOWED_GLOBALS.fullmatch(str(name)):
            raise pickle.UnpicklingError(f"it names {name}")


def check_views(content: Any) -> None:
    """Raise ValueError for a tensor larger than its storage, such as one number expanded to many."""
    todo, seen = [content], set()
    while todo:
        x = todo.pop()
        if isinstance(x, torch.Tensor) and x.nbytes > x.untyped_storage().nbytes():
            raise ValueError(f"a tensor of shape {tuple(x.shape)} has only {x.untyped_storage().nbytes()} bytes")
        if isinstance(x, dict | list | tuple) and id(x) not in seen:
            seen.add(id(x))
            todo += [y for pair in x.items() for y in pair] if isinstance(x, dict) else x


def model_file(folder: Path, itr: int | str | None = None) -> Path:
    """model.pt, model{itr}.pt or model_best.pt in a run's folder. Raises UserError if it doesn't exist."""
    file = folder / f"model{'' if itr is None else '_best' if itr == 'best' else itr}.pt"
    if not file.exists():
        saved = ", ".join(sorted(p.name for p in folder.glob("model*.pt"))) or "nothing; did the run save yet?"
        raise UserError(f"{file} doesn't exist; saved there: {saved}")
    return file


def read_policy(file: Path) -> dict[str, torch.Tensor]:
    """The state_dict in a file. Raises UserError as `load_tensors` does, and if it isn't a state_dict."""
    state = load_tensors(file)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{file} doesn't contain a state_dict")
    return state


# ---- networks


def network_class(config: dict) -> type[nn.Module]:
    """The class in spinup.nets that config.json names."""
    name = str(config.get("actor_critic"))
    module, _, attribute = name.rpartition(".")
    found = getattr(nets, attribute, None) if module.startswith("spinup.nets") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"the networks are {name}; in Python: spinup.load(..., actor_critic=that class)")
    return found


def build(source: Path, config: dict, observation_space: spaces.Box, action_space: spaces.Space) -> nn.Module:
    """Build the networks that config.json (`source`) names, for VecEnv's spaces. Raises UserError if that fails."""
    networks = network_class(config)
    with build_errors(source):
        return networks(observation_space, action_space, **network_arguments(config))


@contextlib.contextmanager
def build_errors(source: Path) -> Iterator[None]:
    """Turn exceptions caused by the networks' arguments into a UserError."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = error if isinstance(error, UserError) else first_line(error)
        raise UserError(
            f"{source}: cannot build the networks from ac_kwargs ({reason}); in Python, "
            "spinup.load(..., actor_critic=...) takes a class or function that can"
        ) from error


def network_arguments(config: dict) -> dict:
    """normalize_obs and ac_kwargs. A user's off-policy networks need to accept normalize_obs only if it is True."""
    on = config.get("normalize_obs")
    on_policy = "lam" in config
    norm = {"normalize_obs": on} if on or (on is False and on_policy) else {}
    return {**norm, **former_defaults(config), **config["ac_kwargs"]}


def former_defaults(config: dict) -> dict:
    """The networks' arguments whose defaults have changed since the run, with their former values."""
    changed = (
        config["run"].get("spinup") == "1.0.0.dev0" and config.get("actor_critic") == "spinup.nets.SoftActorCritic"
    )
    return {"layer_norm": False} if changed else {}


def check_size(
    source: Path, config: dict, file: Path | None, observation_space: spaces.Box, action_space: spaces.Space
) -> None:
    """Raise UserError if the networks that config.json (`source`) names can't be built, or need more bytes than their
    parameter file has (without a file, than are free). Doesn't build them.
    """
    try:
        size = check_file(file) if file else accel.free_memory("cpu")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    networks = network_class(config)
    with build_errors(source):
        needed = least_bytes(size, networks, observation_space, action_space, network_arguments(config))
    if size is not None and needed > size:
        available = f"{file.name} has {size / 2**20:.3g}" if file else f"{size / 2**20:.3g} are free"
        what = f"the networks need at least {needed / 2**20:.3g} MiB, but {available}"
        raise UserError(f"{source}: {what}; they are not built")


def least_bytes(
    size: int | None, make: Callable, observation_space: spaces.Box, action_space: spaces.Space, arguments: dict
) -> int:
    """A lower bound on the bytes in these networks' file, without building them. Stops once it exceeds `size`."""
    sizes, linear = nets.as_sizes(arguments.get("hidden_sizes", ())), arguments.get("linear")
    dense = 4 * sum(a * b for a, b in itertools.pairwise(sizes))
    least = sum(sizes) + 100 * len(sizes)  # each unit has a bias, each layer a header in the archive
    if not isinstance(linear, dict):
        least += dense
    elif (free_bytes := accel.free_memory("cpu")) is not None and 3 * dense > free_bytes:  # policy, critics; unpruned
        return 3 * dense
    else:
        least += int(0.5 * (1 - linear.get("sparsity", 0.9)) * dense)
        arguments = {**arguments, "hidden_sizes": sizes[:1], "linear": nn.Linear}  # the other layers have been counted
    if size is not None and least > size:
        return least
    with torch.device("meta"):  # only shapes, no data
        state = make(observation_space, action_space, **arguments).state_dict()
    needed = sum(x.numel() * (4 if x.is_floating_point() else x.element_size()) for x in state.values())
    return max(least, needed)  # saved as float32, whatever torch's default dtype is here


# ---- a warm start


def check_process_count(folder: Path, number: int, how: str) -> None:
    """Raise UserError if a folder asks for many more environment processes than there are cores.

    how: the flags that allow it
    """
    if number > MOST_PROCESSES:
        what = f"{folder} asks for {number} environments in a process each, many more than there are cores"
        raise UserError(f"{what}; allow it with {how}")


def load_policy_into(ac: nn.Module, source: str, fixed: tuple[str, ...] = ()) -> Path:
    """Load the parameters and statistics of the run or .pt file that init_from names into networks; returns the file.

    fixed: prefixes of entries that are not loaded

    Raises UserError for the first entry that is missing on one side or differs in shape.
    """
    path = Path(source).expanduser()
    file = path if path.suffix == ".pt" else model_file(path)
    copy_parameters(ac, read_policy(file), f"init_from {source}", fixed)
    return file


def copy_parameters(module: torch.nn.Module, state: Mapping, source: str, fixed: tuple[str, ...] = ()) -> None:
    """Load a state_dict into a module. Raises UserError for the first entry that is missing on one side or differs in
    shape.

    fixed: prefixes of entries that are not loaded
    """
    ours = {name: x for name, x in module.state_dict().items() if not name.startswith(fixed)}
    theirs = {name: x for name, x in state.items() if not name.startswith(fixed)}
    advice = "; both runs need the same networks and normalizers (ac_kwargs, normalize_obs, the environment's spaces)"
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours:
            verb = "lacks" if name not in theirs else "has"
            other = "has" if name not in theirs else "lacks"
            raise UserError(f"{source} {verb} {name}, which this run {other}{advice}")
        if ours[name].shape != theirs[name].shape:
            shapes = f"{tuple(theirs[name].shape)}, but {tuple(ours[name].shape)} in this run"
            raise UserError(f"{source}: {name} has the shape {shapes}{advice}")
    try:
        module.load_state_dict({**module.state_dict(), **theirs})
    except RuntimeError as error:
        raise UserError(f"{source} does not match this run's networks ({first_line(error)})") from error
