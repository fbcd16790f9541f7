"""Edits to the algorithms' files, as readers make them: with capture, each must act as it does in plain Python.

An edit is applied to a copy of the file, which trains with and without `capture`. Both runs must agree bit for bit, and
the captured one must print the expected line, or none if the edit can be captured.
"""

import importlib.util
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from probes import Mixed, Target, parameters, without_time

import spinup.algos
from spinup.compute.capture import front

PPO = dict(
    epochs=4,
    steps_per_epoch=32,
    num_envs=2,
    minibatch_size=16,
    train_pi_iters=2,
    train_v_iters=2,
    ac_kwargs=dict(hidden_sizes=(8,)),
)
OFF = dict(
    epochs=3,
    steps_per_epoch=20,
    start_steps=5,
    update_after=5,
    batch_size=5,
    replay_size=100,
    eval_freq=0,
    ac_kwargs=dict(hidden_sizes=(8,)),
)

# Places for edits: lines of the algorithm's file, found by their text.
PI = "        loss = policy_loss(logp, logp_old, adv, clip_ratio)\n"  # in PPO's update_pi, before the step
V = "        vf_optimizer.minimize(value_loss(ac.v(o), ret, v_old, vf_clip))\n"  # PPO's update_v
EPOCH = "        o, a, r, o2, terminated, done = buffer.get(device)  # (T, N, ...)\n"  # per epoch, outside updates
SETUP = "    # ---- updates\n"
STEP = "                    keep_updating = update_pi((b_o, b_a, b_adv, b_logp_old))\n"  # each call of update_pi
ROW = "        run.log(KL=approx_kl(logp, logp_old), ClipFrac=clipped.float(), StopIter=pi_iters)\n"  # once per epoch

SCALE = "class Scale:\n    coef = 1.0\n    def of(self, x, by=1.0):\n        return x * by\nscale = Scale()"


class Edit(NamedTuple):
    """after: lines to insert after existing ones; message: a pattern of the line on stderr, or None."""

    after: dict[str, str]
    message: str | None = None
    algo: str = "ppo"


PYTHON = r"runs as Python from here on: "
NEW_EACH_CALL = PYTHON + r"edited_\w+\.py:\d+ `.*` reads something new in each call; make it a tensor"
CHANGES = PYTHON + r".*changes objects that outlive it, "
VALUE = PYTHON + r"(edited_\w+\.py:\d+ `.*`|it) reads a tensor's value in Python; return the tensor"
MOVE = PYTHON + r"edited_\w+\.py:\d+ `.*` can't be replayed \(.*\); move it outside"

EDITS = {
    # ---- effects besides those on tensors
    "storing a metric": Edit({PI: "run.log(Mine=loss)"}, CHANGES),
    "print": Edit({PI: "print('a step')"}, MOVE),
    "counter": Edit({SETUP: "count = [0]", PI: "count[0] += 1", ROW: "run.log(N=count[0])"}, CHANGES),
    "appending to a list": Edit(
        {SETUP: "seen = []", PI: "seen.append(loss.detach())", ROW: "run.log(N=sum(seen).item())"},
        CHANGES,
    ),
    "item": Edit({SETUP: "seen = []", PI: "seen.append(loss.item())", ROW: "run.log(N=sum(seen))"}, PYTHON),
    "an attribute of the network": Edit(
        {SETUP: "ac.last = 0.0", PI: "ac.last = loss.detach()", ROW: "run.log(N=float(ac.last))"}, PYTHON
    ),
    "a file": Edit({PI: "with open(run.folder / 'log', 'a') as file:\n    file.write('step')"}, PYTHON),
    "a warning": Edit({PI: "import warnings\nwarnings.warn('step') if o.shape[0] == 0 else None"}),
    "try and except": Edit({PI: "try:\n    loss = loss + missing\nexcept NameError:\n    loss = loss * 2"}, PYTHON),
    # ---- what Dynamo would read without a guard
    "an entry that comes later": Edit(
        {
            SETUP: "conf = {}",
            PI: "try:\n    loss = loss * conf['c']\nexcept KeyError:\n    pass",
            EPOCH: "conf.update(c=0.5) if epoch == 3 else None",
        },
        PYTHON + r"edited_\w+\.py:\d+ `update_pi` handles KeyError, and what is missing now may exist later",
    ),
    "an entry that comes later, and a bare except": Edit(
        {
            SETUP: "conf = {}",
            PI: "try:\n    loss = loss * conf['c']\nexcept:\n    pass",
            EPOCH: "conf.update(c=0.5) if epoch == 3 else None",
        },
        PYTHON + r"edited_\w+\.py:\d+ `update_pi` handles BaseException",
    ),
    "an entry that comes later, and suppress": Edit(
        {
            SETUP: "import contextlib\nconf = {}",
            PI: "with contextlib.suppress(KeyError):\n    loss = loss * conf['c']",
            EPOCH: "conf.update(c=0.5) if epoch == 3 else None",
        },
        PYTHON + "it uses `suppress`",
    ),
    "a cached function": Edit(
        {
            SETUP: "from functools import cache\n@cache\ndef drawn():\n    return torch.rand(())",
            PI: "loss = loss * drawn()",
        },
        PYTHON + r"it calls `drawn`, whose results are cached",
    ),
    "an object made inside": Edit(
        {
            SETUP: "scale = [1.0]\nclass Scaled:\n    def __init__(self, x):\n        self.x = x * scale[0]",
            PI: "loss = Scaled(loss).x",
            EPOCH: "scale[0] = 1.0 if epoch < 3 else 0.5",
        },
        PYTHON
        + r".* `__init__` belongs to an object made in the update, and reads scale from outside; pass it instead",
    ),
    "an object made inside, with a list as default": Edit(
        {
            SETUP: "class Scaled:\n    def __init__(self, x, scale=[1.0]):\n        self.x = x * scale[0]",
            PI: "loss = Scaled(loss).x",
            EPOCH: "Scaled.__init__.__defaults__[0][0] = 1.0 if epoch < 3 else 0.5",
        },
        PYTHON + r".* `__init__` belongs to an object made in the update, and has a list as default argument",
    ),
    "a product": Edit({PI: "loss = loss * (1 + 0.01 * logp).prod()"}, PYTHON + r"it calls aten\.prod"),
    "an activation that draws": Edit({SETUP: "ac.critic[1][1] = nn.RReLU()"}, PYTHON + r"it calls aten\.rrelu"),
    # ---- what Dynamo would compute differently
    "Python's max of a tensor": Edit(
        {PI: "loss = loss + max(0.0, (logp_old - logp).mean())"},
        PYTHON + r"it compares tensors by Python's `min` or `max`",
    ),
    "Python's min of tensors in a list": Edit(
        {PI: "loss = loss + min([loss, loss.detach()])"}, PYTHON + r"it compares tensors by Python's `min` or `max`"
    ),
    "Python's random numbers": Edit({SETUP: "import random", PI: "loss = loss * random.uniform(0.5, 1.5)"}, PYTHON),
    "Python's random choice": Edit(
        {SETUP: "import random", PI: "loss = loss * [0.5, 1.0, 2.0][random.randrange(3)]"}, PYTHON
    ),
    "RMSprop, written out": Edit(
        {
            SETUP: "squares = [torch.zeros_like(p) for p in ac.critic.parameters()]",
            V: "gradients = torch.autograd.grad(value_loss(ac.v(o), ret, v_old, vf_clip), [*ac.critic.parameters()])\n"
            "with torch.no_grad():\n"
            "    for p, g, s in zip(ac.critic.parameters(), gradients, squares):\n"
            "        s.mul_(0.9).addcmul_(g, g, value=0.1)\n"
            "        p.addcdiv_(g, s.sqrt().add_(1e-8), value=-1e-3)",
        }
    ),
    "a factor while compiling": Edit(
        {PI: "loss = loss * (2 if torch.compiler.is_compiling() else 1)"}, PYTHON + r"it calls `is_compiling`"
    ),
    # ---- errors of operations
    "an error that is handled": Edit(
        {
            SETUP: "table, offset = torch.ones(2), torch.zeros((), dtype=torch.long)",
            PI: "try:\n    loss = loss * table[offset + 0 * a.long()].mean()\nexcept IndexError:\n    pass",
            EPOCH: "offset.fill_(5 if epoch == 3 else 0)",
        },
        PYTHON
        + r"edited_\w+\.py:\d+ `update_pi` handles IndexError, and a replayed operation's error wouldn't get there",
    ),
    "code after errors": Edit(
        {PI: "try:\n    loss = loss * 2\nfinally:\n    loss = loss / 2"},
        PYTHON + r"edited_\w+\.py:\d+ `update_pi` runs code after errors \(finally\)",
    ),
    "an exit of one's own": Edit(
        {
            SETUP: "class Halved:\n    def __enter__(self):\n        pass\n    def __exit__(self, *e):\n        pass",
            PI: "with Halved():\n    loss = loss / 2",
        },
        PYTHON + r"edited_\w+\.py:\d+ `__exit__` wouldn't be called after a replayed operation's error",
    ),
    # ---- changes that Dynamo wouldn't notice
    "a method replaced on its class": Edit(
        {SETUP: SCALE, PI: "loss = scale.of(loss)", EPOCH: "if epoch == 3:\n    Scale.of = lambda self, x: x * 0.5"}
    ),
    "a method's default": Edit(
        {SETUP: SCALE, PI: "loss = scale.of(loss)", EPOCH: "Scale.of.__defaults__ = (1.0 if epoch < 3 else 0.5,)"}
    ),
    "a method's keyword default": Edit(
        {
            SETUP: "class Scale:\n    def of(self, x, *, by=1.0):\n        return x * by\nscale = Scale()",
            PI: "loss = scale.of(loss)",
            EPOCH: "Scale.of.__kwdefaults__['by'] = 1.0 if epoch < 3 else 0.5",
        }
    ),
    "a method of torch's replaced": Edit(
        {
            SETUP: "forward = nn.Tanh.forward",
            EPOCH: "nn.Tanh.forward = (lambda self, x: x.sin()) if epoch == 3 else forward",
        }
    ),
    "an attribute that hides its class's": Edit(
        {SETUP: SCALE, PI: "loss = loss * scale.coef", EPOCH: "if epoch == 3:\n    scale.coef = 0.5"}
    ),
    "an attribute that hides a base class's": Edit(
        {
            SETUP: SCALE + "\nclass Mine(Scale):\n    pass\nmine = Mine()",
            PI: "loss = loss * mine.coef",
            EPOCH: "if epoch == 3:\n    Mine.coef = 0.5",
        }
    ),
    "another base class": Edit(
        {
            SETUP: SCALE + "\nclass Half(Scale):\n    coef = 0.5\nclass Mine(Scale):\n    pass\nmine = Mine()",
            PI: "loss = loss * mine.coef",
            EPOCH: "if epoch == 3:\n    Mine.__bases__ = (Half,)",
        }
    ),
    "an operator added to a class": Edit(
        {
            SETUP: SCALE,
            PI: "loss = loss * 2 if scale else loss",
            EPOCH: "if epoch == 3:\n    Scale.__bool__ = lambda self: False",
        }
    ),
    "a class attribute annealed for long": Edit(
        {SETUP: SCALE, PI: "loss = loss * scale.coef", STEP: "Scale.coef *= 0.5"},
        PYTHON + r"(Scale\.coef changed again and again|.* reads something new in each call)",
    ),
    "a name that a module lacks at first": Edit(
        {
            SETUP: "import types\nconf = types.ModuleType('conf')",
            PI: "loss = loss * getattr(conf, 'coef', 1.0)",
            EPOCH: "if epoch == 3:\n    conf.coef = 0.5",
        }
    ),
    "a global that hides a builtin": Edit(
        {PI: "loss = loss * max(0.5, 1.0)", EPOCH: "if epoch == 3:\n    globals()['max'] = min"}
    ),
    "a class registered with an ABC": Edit(
        {
            SETUP: SCALE + "\nimport abc\nclass Doubled(abc.ABC):\n    pass",
            PI: "loss = loss * 2 if isinstance(scale, Doubled) else loss",
            EPOCH: "if epoch == 3:\n    Doubled.register(Scale)",
        }
    ),
    "a hook put in by hand": Edit(
        {EPOCH: "if epoch == 3:\n    ac.critic._forward_hooks[0] = lambda module, args, out: out * 2"}
    ),
    "a class with a metaclass that decides": Edit(
        {
            SETUP: "class Meta(type):\n    def __instancecheck__(cls, x):\n        return True\n"
            "class Doubled(metaclass=Meta):\n    pass",
            PI: "loss = loss * 2 if isinstance(3, Doubled) else loss",
        },
        PYTHON + "it uses `Doubled`, which decides by itself what its instances are",
    ),
    "an object that acts when deleted": Edit(
        {
            SETUP: "gone = []\nclass Gone:\n    def __del__(self):\n        gone.append(1)",
            PI: "Gone()",
            ROW: "run.log(N=len(gone))",
        },
        PYTHON + "it uses `Gone`, whose objects do something when deleted",
    ),
    # ---- random numbers
    "numpy's noise": Edit({PI: "import numpy as np\nloss = loss * (1 + float(np.random.rand()))"}, MOVE),
    "numpy's noise as a tensor": Edit(
        {PI: "import numpy as np\nloss = loss * torch.as_tensor(np.random.rand(1)).float().sum()"}, MOVE
    ),
    "Python's random": Edit({PI: "import random\nloss = loss * (1 + random.random())"}, PYTHON),
    "torch's noise": Edit({PI: "loss = loss * (1 + torch.rand(()))"}),
    "a seed set inside": Edit({PI: "torch.manual_seed(3)\nloss = loss * torch.rand(())"}, MOVE),
    "a generator of its own": Edit(
        {SETUP: "own = torch.Generator().manual_seed(3)", PI: "loss = loss * torch.rand((), generator=own)"}, PYTHON
    ),
    # ---- coefficients that change outside the update
    "a closure annealed": Edit({SETUP: "coef = 1.0", PI: "loss = loss * coef", EPOCH: "coef *= 0.5"}, NEW_EACH_CALL),
    "a closure changed once": Edit(
        {SETUP: "coef = 1.0", PI: "loss = loss * coef", EPOCH: "coef = 1.0 if epoch < 3 else 0.5"}
    ),
    "a tensor annealed in place": Edit(
        {SETUP: "coef = torch.ones(())", PI: "loss = loss * coef", EPOCH: "coef.mul_(0.5)"}
    ),
    "a tensor created again": Edit(
        {SETUP: "coef = torch.ones(())", PI: "loss = loss * coef", STEP: "coef = coef * 0.9"},
        PYTHON + r"it reads tensors that are created again for each call",
    ),
    "a global": Edit(
        {SETUP: "globals()['COEF'] = 1.0", PI: "loss = loss * COEF", EPOCH: "globals()['COEF'] *= 0.5"}, NEW_EACH_CALL
    ),
    "an entry of a dict": Edit(
        {SETUP: "conf = {'c': 1.0}", PI: "loss = loss * conf['c']", EPOCH: "conf['c'] *= 0.5"}, NEW_EACH_CALL
    ),
    "an element of a list": Edit(
        {SETUP: "conf = [1.0]", PI: "loss = loss * conf[0]", EPOCH: "conf[0] *= 0.5"}, NEW_EACH_CALL
    ),
    "an attribute of a module": Edit(
        {SETUP: "ac.actor.coef = 1.0", PI: "loss = loss * ac.actor.coef", EPOCH: "ac.actor.coef *= 0.5"}, NEW_EACH_CALL
    ),
    "a torch function that calls the one it replaces": Edit(
        {
            SETUP: "import torch.nn.functional as F\nmse = F.mse_loss",
            PI: "loss = loss + F.mse_loss(logp, logp_old)",
            EPOCH: "F.mse_loss = (lambda x, y: mse(x, y) * 0.5) if epoch == 3 else mse",
        }
    ),
    "a numpy array": Edit(
        {SETUP: "import numpy as np\nconf = np.ones(1)", PI: "loss = loss * float(conf[0])", EPOCH: "conf[0] *= 0.5"},
        PYTHON,
    ),
    "an environment variable": Edit(
        {
            SETUP: "import os",
            PI: "loss = loss * float(os.environ.get('COEF', 1))",
            EPOCH: "os.environ['COEF'] = str(0.5**epoch)",
        },
        PYTHON,
    ),
    "an argument bound by partial": Edit(
        {
            SETUP: "from functools import partial\nscale = partial(torch.mul, 1.0)",
            PI: "loss = scale(loss)",
            EPOCH: "scale = partial(torch.mul, 0.5**epoch)",
        },
        PYTHON,
    ),
    # ---- decisions
    "a schedule by epoch": Edit({PI: "loss = loss * 2 if epoch > 2 else loss"}, NEW_EACH_CALL),
    "another loss every third step": Edit(
        {SETUP: "k = 0", PI: "loss = loss + (loss**2 if k % 3 == 0 else 0)", STEP: "k += 1"}, NEW_EACH_CALL
    ),
    "an early stop on a tensor": Edit({PI: "if loss > -0.01:\n    return False"}, VALUE),
    "an assertion on a tensor": Edit({PI: "assert loss < 1e9"}, PYTHON + "it asserts something of a tensor"),
    "a choice by mask": Edit({PI: "loss = loss + logp[adv > 0].sum() * 0.1"}, VALUE),
    "a loop on a tensor": Edit({PI: "while loss > 1e9:\n    loss = loss / 2"}, VALUE),
    "dropout switched off": Edit(
        {PI: "loss = loss + nn.functional.dropout(logp, 0.5, ac.training).mean()", EPOCH: "ac.train(epoch < 3)"}
    ),
    # ---- other tensors
    "to numpy and back": Edit({PI: "loss = loss * torch.from_numpy(adv.numpy() ** 2).mean()"}, PYTHON),
    "a batch changed in place": Edit({V: "ret.add_(1)"}, PYTHON + "it changes its arguments in place"),
    "a buffer changed from outside": Edit(
        {
            SETUP: "ac.critic.register_buffer('scale', torch.ones(()))",
            PI: "loss = loss * ac.critic.scale",
            EPOCH: "ac.critic.scale.fill_(epoch)",
        }
    ),
    "a gradient clipped otherwise": Edit({EPOCH: "pi_optimizer.max_grad_norm = 0.5 if epoch < 3 else 1e-4"}),
    "another learning rate": Edit({EPOCH: "pi_optimizer.lr = 0.1 / epoch"}),
    "a learning rate set inside": Edit({PI: "pi_optimizer.lr = 0.01"}),
    "a learning rate read inside": Edit({PI: "loss = loss * pi_optimizer.lr"}, VALUE),
    # ---- other parts
    "a hook on a module": Edit(
        {EPOCH: "if epoch == 3:\n    ac.critic.register_forward_hook(lambda module, args, out: out * 2)"}
    ),
    "a hook on a module that prints": Edit(
        {EPOCH: "if epoch == 3:\n    ac.critic.register_forward_hook(lambda module, args, out: print('v'))"}, MOVE
    ),
    "a hook removed": Edit(
        {
            SETUP: "hook = ac.critic.register_forward_hook(lambda module, args, out: out * 2)",
            EPOCH: "hook.remove() if epoch == 3 else None",
        }
    ),
    "a hook on the loss": Edit({PI: "loss.register_hook(lambda grad: grad * 2)"}, PYTHON),
    "a new optimizer": Edit({EPOCH: "if epoch == 3:\n    vf_optimizer = FlatAdam(ac.critic, vf_lr, 0.01)"}),
    "another activation": Edit({EPOCH: "if epoch == 3:\n    ac.critic[1][1] = nn.ReLU()"}),
    "weights in other memory": Edit(
        {EPOCH: "if epoch == 3:\n    for p in ac.critic.parameters():\n        p.data = p.data.clone()"}
    ),
    "another forward of one module": Edit(
        {EPOCH: "if epoch == 3:\n    ac.critic.forward = lambda o: ac.critic[1](o) * 2"}
    ),
    "another function": Edit(
        {EPOCH: "if epoch == 3:\n    globals()['value_loss'] = lambda v, ret, *_: (v - ret).abs().mean()"}
    ),
    # ---- the off-policy algorithms
    "SAC, target entropy annealed": Edit({"        run.end_epoch()\n": "target_entropy -= 0.1"}, None, "sac"),
    "SAC, a metric": Edit({"        loss_pi = -v.mean()  # sac-5\n": "run.log(Mine=v)"}, CHANGES, "sac"),
}


def indented_like(line: str, text: str) -> str:
    indent = re.match(" *", line)[0]
    return "".join(f"{indent}{x}\n" for x in text.split("\n"))


def edited(edit: Edit, name: str, folder: Path):
    """The algorithm, from a copy of its file with the edit applied and `nn` imported."""
    source = Path(spinup.algos.__file__).with_name(f"{edit.algo}.py").read_text(encoding="utf-8")
    for line, text in edit.after.items():
        assert source.count(line) == 1, line
        source = source.replace(line, line + indented_like(line, text))
    path = folder / f"{name}.py"
    path.write_text(source.replace("from torch import Tensor\n", "from torch import Tensor, nn\n"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where Dynamo looks for its globals
    spec.loader.exec_module(module)
    return getattr(module, edit.algo)


def run_edit(edit: Edit, folder: Path, capture: bool, capfd) -> tuple:
    """Rows, parameters, stdout and stderr of a run."""
    name = f"edited_{folder.name.replace('-', '_')}_{capture}"
    algorithm = edited(edit, name, folder)
    options = PPO if edit.algo == "ppo" else OFF
    capfd.readouterr()
    env = Target if edit.algo == "ppo" else Mixed
    ac = algorithm(env, **options, capture=capture, logger_kwargs=dict(output_dir=folder / str(capture), quiet=True))
    output = capfd.readouterr()
    return without_time(folder / str(capture)), parameters(ac), output.out, output.err


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_acts_as_in_python(name, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(front, "PATIENCE", 0.0)
    monkeypatch.setenv("COEF", "1")
    edit = EDITS[name]
    rows, theta, out, err = run_edit(edit, tmp_path, True, capfd)
    plain_rows, plain_theta, plain_out, plain_err = run_edit(edit, tmp_path, False, capfd)
    assert rows == plain_rows
    assert torch.equal(theta, plain_theta)
    assert out == plain_out
    lines = [line for line in err.splitlines() if line.startswith("capture: ")]
    assert len(lines) == (1 if edit.message else 0), err
    assert edit.message is None or re.search(edit.message, lines[0]), lines[0]
    assert "capture: " not in plain_err
