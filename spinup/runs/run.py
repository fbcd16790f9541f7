"""A training run: everything around an algorithm that is not the algorithm."""

import itertools
import math
import shlex
import signal
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from torch import nn

from spinup.algorithm import Algorithm
from spinup.arguments import check_arguments, check_entries
from spinup.compute import accel, mpi
from spinup.compute.optim import set_progress
from spinup.envs import (
    as_names,
    bind,
    check_actions,
    evaluation_columns,
    make_envs,
    play_test_episodes,
    wrapper_flags,
)
from spinup.errors import Fault, UserError, user_path
from spinup.nets import check_ac_kwargs, check_makes_networks, check_takes_normalize_obs, describe
from spinup.runs import checkpoint
from spinup.runs.config import convert_json, env_flag, setup_logger_kwargs
from spinup.runs.logger import EpochLogger, logger_arguments
from spinup.runs.saved import load_policy_into
from spinup.system.files import newest_checkpoint
from spinup.system.signals import StopSignal

STEPS_BETWEEN_STOP_CHECKS = 20  # how often MPI processes agree on whether to stop
SHARED_COLUMNS = ("Epoch", "EpRet", "EpLen", "TestEpRet", "TestEpLen", "EvalTime", "TotalEnvInteracts", "Time")
STOP_ARGUMENTS = ("stop_at", "patience", "on_epoch")  # arguments that can end a run before its last epoch


def reserved_columns(algorithm: Algorithm) -> set[str]:
    """Names that a column of log_info can't have."""
    spreads = ("EpRet", "TestEpRet", *algorithm.spreads)
    statistics = (f"{statistic}{name}" for statistic in ("Average", "Std", "Max", "Min") for name in spreads)
    return {*SHARED_COLUMNS, *spreads, *statistics, *algorithm.means}


def end_by(number: int) -> NoReturn:
    """End the process as the signal of that number does, once all processes are here."""
    mpi.barrier()  # the launcher kills the other processes as soon as one has ended
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


class Run:
    """Seeds, environments, folder, table, evaluation, checkpoints and signals of one run.

        run = Run(ALGORITHM, locals())                # checks the arguments and makes run.envs
        ac = run.prepare(actor_critic(...))           # on run.device, identical on all processes
        o = run.begin(ac, buffer, pi_optimizer=...)   # the first observations, or the checkpoint's
        for epoch in run.epochs():
            for _ in range(run.steps_per_env):
                run.step()
                ...
            run.log(LossPi=loss_pi)                   # as often as you like
            run.end_epoch()                           # writes a row, evaluates and saves if due
        run.close()

    epoch: the current epoch, from 1; t: environment steps so far, of all processes; updates: gradient steps so far.
    Ctrl-C, SIGTERM or SIGHUP ends the run with a checkpoint after the step in progress, a second Ctrl-C immediately.
    """

    def __init__(self, algorithm: Algorithm, arguments: Mapping):
        config = {"algorithm": algorithm.name, **arguments}
        check_arguments(algorithm.arguments, config)
        check_makes_networks(config["actor_critic"])
        if "normalize_obs" in config and (config["normalize_obs"] or algorithm.on_policy):
            check_takes_normalize_obs(config["actor_critic"])
        check_ac_kwargs(config["actor_critic"], config["ac_kwargs"] or {})
        check_entries("logger_kwargs", config["logger_kwargs"] or {}, logger_arguments())
        config = {name: x.item() if isinstance(x, np.generic) else x for name, x in config.items()}  # for JSON
        self.algorithm, self.config = algorithm, config
        self.logger_kwargs = dict(config["logger_kwargs"] or {"exp_name": algorithm.name})
        if not self.logger_kwargs.get("output_dir"):
            name = self.logger_kwargs.get("exp_name") or algorithm.name
            self.logger_kwargs["output_dir"] = setup_logger_kwargs(str(name), config["seed"])["output_dir"]
        self.num_envs, self.procs = config["num_envs"], mpi.num_procs()
        seed = config["seed"] + 10_000 * mpi.proc_id()
        self.device = accel.setup(seed, config["device"], config["threads"], config.get("matmul_precision", "highest"))
        names = ("num_envs", "max_ep_len", "env_kwargs", "vectorization", "wrappers", "reseed", "log_info")
        self.envs = make_envs(config["env_fn"], seed=seed, **{name: config[name] for name in names})
        check_actions(algorithm, self.envs.action_space)
        for name in as_names(config["log_info"]):
            if name in reserved_columns(algorithm):
                raise UserError(f"log_info has {name!r}, which is already a column")
        self.steps_per_env = -(-config["steps_per_epoch"] // (self.num_envs * self.procs))  # in an epoch; rounded up
        self.epoch, self.t, self.updates, self.seconds = 1, 0, 0, 0.0
        self.best_return, self.without_best = -math.inf, 0
        self.best: dict | None = None  # the policy's state_dict at best_return
        self.stopped: tuple[str, Any] | None = None  # which of STOP_ARGUMENTS ended the run, and its value
        self.saved_at: int | None = None  # step of the newest checkpoint
        self.step_calls = 0
        self.notes: list[str] = []  # logged once the run's folder exists

    # ---- setup

    def prepare(self, ac: nn.Module, fixed: tuple[str, ...] = ()) -> nn.Module:
        """The networks on this run's device, initialized from init_from if given, identical on all processes.

        fixed: prefixes of entries that init_from doesn't change
        """
        ac.to(self.device)
        source, logger = self.config.get("init_from"), self.logger_kwargs
        if source is not None and not (logger.get("resume") and newest_checkpoint(user_path(logger["output_dir"]))):
            file = load_policy_into(ac, source, fixed)
            self.notes.append(f"Networks and normalizers loaded from {file}")
        mpi.sync_params(ac)
        return ac

    def begin(self, policy: nn.Module, buffer: Any, **parts: Any) -> np.ndarray:
        """Create the run's folder or continue from its checkpoint. Returns the observations to act on.

        policy: the module that is evaluated and saved
        buffer, parts: everything that changes during the run, by name: objects with state_dict and load_state_dict, and
            arrays and tensors, which are restored in place
        """
        self.policy, self.buffer = policy, buffer
        self.logger = logger = EpochLogger(**self.logger_kwargs)
        logger.save_config(self.config)
        logger.setup_pytorch_saver(policy)
        self.parts = {"envs": self.envs, "buffer": buffer, **parts, "logger": logger}
        self.folder = mpi.share(logger.output_dir)
        log_info = as_names(self.config["log_info"])
        logger.means = [*log_info, *(evaluation_columns(log_info) if self.config["eval_freq"] else ())]
        self.started = time.monotonic()
        self.stop_signal = StopSignal(self.algorithm.function.__code__, logger.quiet)
        self.stop_signal.listen()
        for note in (getattr(buffer, "memory", None), *self.notes, describe(policy)):
            if note:
                logger.log(note)
        bind(policy, self.envs, self.envs.max_ep_len)
        self.warn_about_max_ep_len()
        found = mpi.share(newest_checkpoint(self.folder) if logger.resume else None)
        if found:
            self.restore(found)
            o = self.envs.o
        else:
            if logger.resume:
                logger.clear_table()
            o = self.envs.reset()
        if logger.resume:
            logger.write_config()
        self.pass_on_progress()
        if found:
            logger.log(f"Resuming at epoch {self.epoch}, step {self.t}")
        return o

    def warn_about_max_ep_len(self) -> None:
        ours, own = self.envs.max_ep_len, self.envs.own_limit
        if ours < own < math.inf:
            self.logger.warn(
                f"max_ep_len {ours} cuts off episodes that the environment itself would end after {own} steps; "
                f"--max_ep_len {own} keeps them whole"
            )

    # ---- the loop

    def epochs(self) -> Iterator[int]:
        """The remaining epochs: from 1 unless the run was resumed, up to `epochs` unless it ends early."""
        while self.epoch <= self.config["epochs"] and not self.stopped:
            yield self.epoch

    def step(self) -> int:
        """Call it before each step of the environments: counts the step, or ends the run after a signal.

        Returns the number of steps before this one.
        """
        self.step_calls += 1
        if self.procs == 1:
            number = self.stop_signal.number
        else:  # all processes have to stop at the same step
            agree = self.step_calls % STEPS_BETWEEN_STOP_CHECKS == 0
            number = int(mpi.mpi_max(self.stop_signal.number or 0)) if agree else None
        if number:
            self.stop(number)
        before = self.t
        self.t += self.num_envs * self.procs
        self.logger.progress(self.t)
        return before

    @property
    def update_after(self) -> int:
        """For off-policy algorithms: environment steps before the first gradient steps."""
        steps = self.config["update_after"]
        return max(self.config["start_steps"], self.config["batch_size"]) if steps is None else steps

    def due_updates(self) -> Iterator[int]:
        """For off-policy algorithms: one item for each gradient step that is due after a step of the environments.

        Updates start after update_after steps and come in blocks, every update_every steps: replay_ratio gradient steps
        for each environment step.
        """
        every = self.config["update_every"]
        first_block = max(1, -(-self.update_after // every)) * every  # the step update_after, rounded up
        if self.t >= first_block and self.t % every < self.num_envs * self.procs:
            while self.updates < int(self.config["replay_ratio"] * (self.t - first_block + every)):
                self.updates += 1
                yield self.updates

    def log(self, **values: Any) -> None:
        """Add numbers, arrays or tensors to the statistics of the epoch's row, by column."""
        self.logger.store(**values)

    def end_epoch(self) -> None:
        """Evaluate, write the epoch's row, check the parameters, save if due, and decide whether the run ends."""
        self.log(**self.envs.pop_episodes())
        self.write_row(self.evaluate())
        self.check_parameters()
        if self.logger.epoch_return > self.best_return:
            self.best_return, self.best = self.logger.epoch_return, checkpoint.clone_state(self.policy.state_dict())
            self.without_best = 0
        elif not math.isnan(self.logger.epoch_return):
            self.without_best += 1
        try:
            self.stopped = self.stop_reason()
        except Exception:  # in on_epoch
            if self.procs == 1:  # saving takes all processes
                self.complete_epoch(last=True)
            raise
        self.complete_epoch(last=self.epoch == self.config["epochs"] or bool(self.stopped))

    def complete_epoch(self, last: bool) -> None:
        """Save the policy and write a checkpoint, if due or if this is the last epoch."""
        if last or self.epoch % self.config["save_freq"] == 0:
            self.save_policy()
        self.epoch += 1
        due = self.config["checkpoint_freq"] and (last or (self.epoch - 1) % self.config["checkpoint_freq"] == 0)
        if due:
            self.save()
        self.pass_on_progress()

    def pass_on_progress(self) -> None:
        """Tell layers whose layout changes how far the training is; the policy may be an average of the learned one."""
        for module in (self.policy, *self.parts.values()):
            if isinstance(module, nn.Module):
                set_progress(module, (self.epoch - 1) / self.config["epochs"])

    def evaluate(self) -> float:
        """Play the test episodes, if this epoch has any. Returns the seconds it took."""
        start = time.monotonic()
        if self.config["eval_freq"] and self.epoch % self.config["eval_freq"] == 0:
            number, at_a_time = self.config["num_test_episodes"], self.config["num_test_envs"]
            self.log(**play_test_episodes(self.policy, self.envs, number, at_a_time))
        return time.monotonic() - start

    def write_row(self, eval_time: float) -> None:
        """Write the shared columns and the algorithm's own."""
        logger, on_policy = self.logger, self.algorithm.on_policy
        logger.log_tabular("Epoch", self.epoch)
        logger.log_tabular("EpRet", with_min_and_max=True)
        logger.log_tabular("EpLen", average_only=True)
        if self.config["eval_freq"]:
            logger.log_tabular("TestEpRet", with_min_and_max=True)
            logger.log_tabular("TestEpLen", average_only=True)
            if not on_policy:
                logger.log_tabular("EvalTime", eval_time)
        if not on_policy:
            logger.log_tabular("TotalEnvInteracts", self.t)
        for column in self.algorithm.spreads:
            logger.log_tabular(column, with_min_and_max=True)
        if on_policy:
            logger.log_tabular("TotalEnvInteracts", self.t)
        for column in self.algorithm.means:
            logger.log_tabular(column, average_only=True)
        for column in logger.not_yet_logged():  # passed to `log`, but not in the algorithm's description
            logger.log_tabular(column, average_only=True)
        logger.log_tabular("Time", self.time())
        logger.dump_tabular()

    def stop_reason(self) -> tuple[str, Any] | None:
        """Which of stop_at, patience and on_epoch ends the run after this epoch, and its value; None if none does."""
        stop_at, patience, on_epoch = (self.config[name] for name in STOP_ARGUMENTS)
        answer = None
        if on_epoch:  # called on one process, whose answer counts for all
            answer = mpi.share(on_epoch(dict(self.logger.last_row)) if mpi.proc_id() == 0 else None)
        ret, epoch = self.logger.epoch_return, f"Ending after epoch {self.epoch}"
        if stop_at is not None and ret >= stop_at:
            self.logger.log(f"{epoch}: its mean return, {ret:g}, has reached stop_at, {stop_at:g}")
            return "stop_at", stop_at
        if patience is not None and self.without_best >= patience:
            self.logger.log(f"{epoch}: {patience} mean returns without a better one than {self.best_return:g}")
            return "patience", patience
        if isinstance(answer, bool | np.bool_) and answer:
            self.logger.log(f"{epoch}: on_epoch returned True")
            return "on_epoch", convert_json(on_epoch)
        return None

    def time(self) -> float:
        """Training time in seconds, including before a resume."""
        return self.seconds + time.monotonic() - self.started

    # ---- the end

    def close(self) -> None:
        """End the run; a signal since its last step then ends the process, so that a grid doesn't go on to the next."""
        self.stop_signal.restore_handlers()
        self.finish()
        if number := int(mpi.mpi_max(self.stop_signal.number or 0)):
            end_by(number)

    def finish(self) -> None:
        if not self.algorithm.on_policy and self.updates == 0:  # a short run, or replay_ratio 0
            settings = f"update_after is {self.update_after}, replay_ratio is {self.config['replay_ratio']}"
            self.logger.warn(f"the run took no gradient step in its {self.t} environment steps: {settings}")
        self.envs.close()
        self.logger.close()

    def stop(self, number: int) -> None:
        """End the run with a checkpoint, as KeyboardInterrupt or SystemExit."""
        self.save()
        self.save_policy()
        command = f"python -m spinup.run resume {shlex.quote(str(self.folder))}{env_flag(self.config['env_fn'])}"
        command += wrapper_flags(self.config.get("wrappers"))
        self.logger.log(f"To resume: {command}", color="yellow")
        self.stop_signal.ignore_until_exit()
        self.finish()
        end_by(number)

    # ---- checkpoints

    def save_policy(self) -> None:
        """Write the policy as it is now, and as it was after the epoch with the best mean return."""
        self.logger.save_state()
        if self.best is not None:
            self.logger.save_tensors("model_best.pt", self.best)

    def save(self) -> None:
        """Write a checkpoint, unless this step already has one."""
        if self.saved_at != self.t:
            self.logger.check_lock()
            checkpoint.write(self)
            self.saved_at = self.t

    def restore(self, folder: Path) -> None:
        """Restore counters, parts and random number generators from a checkpoint.

        Raises UserError if it is damaged or belongs to another run.
        """
        failed = checkpoint.read(self, folder)
        if self.stopped:
            name, value = self.stopped
            if name == "on_epoch" or convert_json(self.config.get(name)) != value:
                self.stopped = None  # the condition that ended the run has changed; a function's may have
        self.saved_at = self.t
        if failed.any():
            self.buffer.mark_episode_end(failed)
        if number := int(mpi.mpi_sum(float(failed.sum()))):
            self.logger.warn(
                f"{self.envs.name}s: {number} of {self.num_envs * self.procs} did not repeat their episodes from seed "
                "and actions and start new ones, so the run will not be bit for bit the same as without the "
                "interruption"
            )

    # ---- checks

    def check_parameters(self) -> None:
        """Raise Fault if a tensor of the policy contains NaN or infinity, or differs between MPI processes."""
        tensors = {name: x.detach() for name, x in self.policy.state_dict().items()}
        for name, x in tensors.items():
            if x.is_floating_point() and not (x < math.inf).all():  # log_alpha may be minus infinity
                saved = f"the newest checkpoint is of step {self.saved_at}" if self.saved_at else "no checkpoint yet"
                raise Fault(f"{name} contains NaN or infinity after epoch {self.epoch}, step {self.t}; {saved}")
        if self.procs > 1:
            sums = mpi.allgather({name: zlib.crc32(x.cpu().contiguous().numpy().data) for name, x in tensors.items()})
            for rank, name in itertools.product(range(1, len(sums)), tensors):
                if sums[rank][name] != sums[0][name]:
                    raise Fault(f"{name} differs between processes {rank} and 0 after epoch {self.epoch}")
