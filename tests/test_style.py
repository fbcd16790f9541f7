"""The project's own rules, read from the source: imports, equation labels, forbidden calls, lengths, docstrings.

Each rule is a function from a source tree to a list of complaints. It must find nothing in this repository, and find
the fault in a small bad example.
"""

import ast
import io
import re
import shutil
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Folders and modules of spinup/, from the lowest; each imports only from those before it, and from inside itself.
# "" is spinup/__init__.py, the lazy public face.
ORDER = (
    *("errors", "arguments", "algorithm", "system", "compute", "sparse", "observations", "frames", "examples"),
    *("wrappers", "envs", "buffers", "hindsight", "nets", "runs", "algos", "probes", "experiments", "analysis"),
    *("exercises", "run", ""),
)
LAYERS = {name: layer for layer, name in enumerate(ORDER)}
APART = ("algos", "examples")  # whose files never import each other
MAX_FUNCTION = 60


# ---- reading


def sources(root: Path) -> dict[str, ast.Module]:
    """Module name -> syntax tree, for all of root/spinup."""
    modules = {}
    for path in sorted((root / "spinup").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = ast.parse(path.read_text(encoding="utf-8"))
    return modules


def algorithms(root: Path) -> list[Path]:
    return sorted(p for p in (root / "spinup" / "algos").glob("*.py") if p.stem != "__init__")


def layer_name(module: str) -> str:
    """spinup.algos.ppo -> algos, spinup -> ""."""
    return module.partition(".")[2].partition(".")[0]


def is_main_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def imported(name: str, tree: ast.Module, modules: dict, skip_main: bool = False) -> list[str]:
    """Full names of what a module imports, anywhere in it; "*" for an import by a name that is computed."""
    body = [node for node in tree.body if not (skip_main and is_main_block(node))]
    is_package = any(other.startswith(f"{name}.") for other in modules)
    found = []
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: None if is_package else -1]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            constant = node.args and isinstance(node.args[0], ast.Constant)
            found.append(node.args[0].value if constant else "*")
    return found


def our_module(target: str, modules: dict) -> str | None:
    """The module of ours that holds an imported name: itself, or the longest prefix; None for others' names."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target or None


# ---- the rules


def import_rule(root: Path) -> list[str]:
    """Imports go to lower layers; algorithms never import each other; nobody imports run."""
    modules, faults = sources(root), []
    for name, tree in modules.items():
        layer = layer_name(name)
        if layer not in LAYERS:
            faults.append(f"{name}: has no layer; give it one in {Path(__file__).name}")
            continue
        for target in imported(name, tree, modules, skip_main=layer == "algos"):
            if target == "*" and LAYERS[layer] < LAYERS["probes"] and layer not in ("envs", "algorithm"):
                faults.append(f"{name}: imports a module by a computed name")
            ours = our_module(target, modules)
            if ours is None or target == "spinup.__version__":
                continue
            inside = layer == layer_name(ours) and layer not in APART
            if LAYERS.get(layer_name(ours), 0) >= LAYERS[layer] and not inside:
                faults.append(f"{name} imports {target}, which does not come before it")
    return faults


def plot_is_light(root: Path) -> list[str]:
    """Nothing that plot imports, directly or through our modules, imports torch or an algorithm."""
    modules, faults = sources(root), []
    assert "spinup.analysis.plot" in modules
    todo, seen = ["spinup.analysis.plot"], set()
    while todo:
        name = todo.pop()
        if name in seen or name not in modules:
            continue
        seen.add(name)
        for target in imported(name, modules[name], modules):
            ours = our_module(target, modules)
            if target.split(".")[0] == "torch" or layer_name(ours or "") == "algos":
                faults.append(f"spinup.analysis.plot needs {target}, by way of {name}")
            elif ours != "spinup":
                todo.append(ours)
    return faults


def labelled(root: Path) -> dict[str, Path]:
    """The files whose equations are on a page of their name in docs/algorithms; hindsight.py has HER's."""
    files = {path.stem: path for path in algorithms(root)}
    hindsight = root / "spinup" / "hindsight.py"
    return files | ({"her": hindsight} if hindsight.exists() else {})


def labels_of(path: Path) -> set[str]:
    """The equation labels in a file's comments."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    comments = " ".join(token.string for token in tokens if token.type == tokenize.COMMENT)
    names = "|".join(labelled(ROOT))
    return set(re.findall(rf"\b(?:{names})-\d+\b", comments))


def equation_labels(root: Path) -> list[str]:
    """The labels in an algorithm's comments are those of its page, and a page's labels count from 1.

    Those in the files that algorithms share, where some equations are computed, stand on some page too.
    """
    faults, all_labels = [], set()
    pages = {p.stem: p.read_text(encoding="utf-8") for p in sorted((root / "docs" / "algorithms").glob("*.md"))}
    for stem, path in labelled(root).items():
        labels = re.findall(r"^:label: *(\S+)$", pages.get(stem, ""), re.MULTILINE)
        used = labels_of(path)
        faults += [f"{path.name}: {label} is not on its page" for label in sorted(used - set(labels))]
        faults += [f"{stem}.md: {label} is not in the code" for label in sorted(set(labels) - used)]
        if labels != [f"{stem}-{i + 1}" for i in range(len(labels))] or not labels:
            faults.append(f"{stem}.md: labels are {labels}")
        all_labels.update(labels)
    for path in (root / "spinup" / "buffers.py", *sorted((root / "spinup" / "nets").glob("*.py"))):
        known = labels_of(path) if path.exists() else set()
        faults += [f"{path.name}: {label} is on no page" for label in sorted(known - all_labels)]
    for stem, page in pages.items():
        references = re.findall(r"\{eq\}`([^`]+)`", page)
        faults += [f"{stem}.md: refers to {label}" for label in references if label not in all_labels]
    return faults


def shape_comments(root: Path) -> list[str]:
    """A function of tensors in an algorithm's file, such as a loss, begins with a comment that gives their shapes."""
    faults = []
    for path in algorithms(root):
        lines = [*path.read_text(encoding="utf-8").splitlines(), ""]
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.FunctionDef):
                tensors = [x.arg for x in node.args.args if x.annotation and ast.unparse(x.annotation) == "Tensor"]
                comment = lines[node.body[0].end_lineno].strip()  # the line below the docstring
                named = re.findall(r"(\w+)(?=(?:, \w+)*: \()", comment) if comment.startswith("# ") else []
                faults += [f"{path.name}: {node.name}: no shape of {x}" for x in tensors if x not in named]
    return faults


def forbidden_calls(root: Path) -> list[str]:
    """Nothing that runs code from a file or a string, and no bare except."""
    forbidden = {"eval", "exec", "builtins.eval", "builtins.exec"}
    unpicklers = {"load", "loads", "Unpickler"}
    faults = []
    for name, tree in sources(root).items():
        for node in ast.walk(tree):
            what = None
            if isinstance(node, ast.Call):
                function = ast.unparse(node.func)
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                module, _, attribute = function.rpartition(".")
                if function in forbidden or (module.endswith("pickle") and attribute in unpicklers):
                    what = function
                elif function == "torch.load" and keywords.get("weights_only") != "True":
                    what = "torch.load without weights_only=True"
                elif keywords.get("weights_only") == "False" or keywords.get("allow_pickle") == "True":
                    what = f"{function} that unpickles"
            elif isinstance(node, ast.ImportFrom) and (node.module or "").endswith("pickle"):
                what = f"from {node.module} import"
            elif isinstance(node, ast.ExceptHandler) and node.type is None:
                what = "bare except"
            if what:
                faults.append(f"{name}:{node.lineno}: {what}")
    return faults


def lengths(root: Path) -> list[str]:
    """Every function but an algorithm's own fits one screen."""
    faults = []
    for name, tree in sources(root).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and f"spinup.algos.{node.name}" != name:
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION:
                    faults.append(f"{name}.{node.name}: {lines} lines, at most {MAX_FUNCTION}")
    return faults


def docstrings(root: Path) -> list[str]:
    """Every module says what it is."""
    return [f"{name}: no docstring" for name, tree in sources(root).items() if not ast.get_docstring(tree)]


def machine_paths(root: Path, files: list[str]) -> list[str]:
    """No text names a folder of the machine that it was written on."""
    pattern = re.compile(r"(?<![\w.-])/(?:home|root|tmp|work|Users)/\w")
    faults = []
    for file in files:
        try:
            text = (root / file).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a picture; a file removed and not yet committed
            continue
        lines = enumerate(text.splitlines(), 1)
        faults += [f"{file}:{i}: {line.strip()[:80]}" for i, line in lines if pattern.search(line)]
    return faults


# ---- the repository keeps them


RULES = (import_rule, plot_is_light, equation_labels, shape_comments, forbidden_calls, lengths, docstrings)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_repository_keeps(rule):
    assert algorithms(ROOT), "no algorithms found"
    assert rule(ROOT) == []


def test_repository_names_no_machine_paths():
    git = shutil.which("git")
    listing = git and subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if not listing or listing.returncode or not listing.stdout:
        pytest.skip("not a git checkout")
    assert machine_paths(ROOT, listing.stdout.rstrip("\0").split("\0")) == []


# ---- each rule can fail


def write(root: Path, files: dict[str, str]) -> Path:
    """A small source tree: every file named by its path, modules with a docstring put first."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Doc."""\n{text}' if name.endswith(".py") else text, encoding="utf-8")
    return root


MODULES = {f"spinup/{name}.py": "" for name in ("__init__", "errors", "nets", "envs", "analysis/plot", "run")}
MODULES |= {
    "spinup/algos/__init__.py": "",
    "spinup/analysis/__init__.py": "",
    "spinup/algos/vpg.py": "",
    "spinup/algos/ppo.py": "",
}


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("errors", "from spinup import nets", "spinup.errors imports spinup.nets"),
        ("envs", "from spinup.nets import f", "spinup.envs imports spinup.nets.f"),
        ("nets", "def f():\n    from .algos import ppo", "spinup.nets imports spinup.algos.ppo"),
        ("nets", "import importlib\nimportlib.import_module('spinup.run')", "spinup.nets imports spinup.run"),
        ("nets", "from importlib import import_module\nimport_module(name)", "spinup.nets: imports a module by a comp"),
        ("nets", "from spinup import ppo", "spinup.nets imports spinup.ppo"),
        ("algos/ppo", "from spinup.algos.vpg import f", "spinup.algos.ppo imports spinup.algos.vpg.f"),
        ("algos/ppo", "from . import vpg", "spinup.algos.ppo imports spinup.algos.vpg"),
        ("algos/ppo", "from ..run import main", "spinup.algos.ppo imports spinup.run.main"),
        ("algos/ppo", "import spinup.run", "spinup.algos.ppo imports spinup.run"),
        ("analysis/plot", "from spinup.run import main", "spinup.analysis.plot imports spinup.run.main"),
        ("nets", "if __name__ == '__main__':\n    import spinup.run", "spinup.nets imports spinup.run"),
        ("helpers", "", "spinup.helpers: has no layer"),
    ],
)
def test_import_rule_finds(tmp_path, file, text, fault):
    faults = import_rule(write(tmp_path, MODULES | {f"spinup/{file}.py": text}))
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def test_import_rule_allows(tmp_path):
    allowed = {
        "nets": "from spinup import __version__, envs\nfrom .errors import UserError\nimport torch",
        "algos/ppo": "from spinup.nets import mlp\nif __name__ == '__main__':\n    from spinup.run import main",
        "run": "from spinup.analysis import plot\nfrom spinup.algos import ppo",
        "__init__": "def __getattr__(name):\n    from spinup.run import main",
        "sparse/__init__": "from spinup.sparse.linear import Linear",
        "sparse/linear": "from . import layout",
        "sparse/layout": "",
    }
    assert import_rule(write(tmp_path, MODULES | {f"spinup/{k}.py": v for k, v in allowed.items()})) == []


def test_plot_is_light_finds_torch_and_algorithms(tmp_path):
    assert plot_is_light(write(tmp_path, MODULES | {"spinup/analysis/plot.py": "import matplotlib"})) == []
    write(
        tmp_path,
        {"spinup/analysis/plot.py": "from spinup.compute import mpi", "spinup/compute/mpi.py": "import torch.nn"},
    )
    assert plot_is_light(tmp_path) == ["spinup.analysis.plot needs torch.nn, by way of spinup.compute.mpi"]
    write(tmp_path, {"spinup/analysis/plot.py": "def f():\n    from spinup.algos import ppo"})
    assert plot_is_light(tmp_path) == ["spinup.analysis.plot needs spinup.algos.ppo, by way of spinup.analysis.plot"]


@pytest.mark.parametrize(
    ("code", "page", "faults"),
    [
        ("x = 1  # ppo-1: r\n# ppo-2", ":label: ppo-1\n:label: ppo-2\n{eq}`ppo-2`", []),
        ("x = 1  # ppo-1, ppo-2", ":label: ppo-1", ["ppo.py: ppo-2 is not on its page"]),
        ("x = 1  # ppo-1", ":label: ppo-1\n:label: ppo-2", ["ppo.md: ppo-2 is not in the code"]),
        ("x = 1  # ppo-1, vpg-1", ":label: ppo-1", ["ppo.py: vpg-1 is not on its page"]),
        ("x = '# ppo-1'", ":label: ppo-1", ["ppo.md: ppo-1 is not in the code"]),
        ("x = 1  # ppo-2", ":label: ppo-2", ["ppo.md: labels are ['ppo-2']"]),
        ("x = 1  # ppo-1", ":label: ppo-1\n:label: ppo-1", ["ppo.md: labels are ['ppo-1', 'ppo-1']"]),
        ("x = 1  # ppo-1", ":label: ppo-1\n{eq}`ppo-9`", ["ppo.md: refers to ppo-9"]),
        ("", "no equations", ["ppo.md: labels are []"]),
    ],
)
def test_equation_labels_finds(tmp_path, code, page, faults):
    assert equation_labels(write(tmp_path, {"spinup/algos/ppo.py": code, "docs/algorithms/ppo.md": page})) == faults


def test_equation_labels_in_shared_files(tmp_path):
    code = {"spinup/algos/ppo.py": "x = 1  # ppo-1", "docs/algorithms/ppo.md": ":label: ppo-1"}
    assert equation_labels(write(tmp_path, code | {"spinup/buffers.py": "y = 1  # ppo-1"})) == []
    faults = equation_labels(write(tmp_path, code | {"spinup/nets/layers.py": "y = 1  # ppo-1, sac-9"}))
    assert faults == ["layers.py: sac-9 is on no page"]


def test_shape_comments_finds(tmp_path):
    losses = '''
def loss(q: Tensor, y: Tensor, clip: float) -> Tensor:
    """The loss."""
    {}
    return q - y


def ppo(env_fn):
    return 1
'''
    for comment, missing in {
        "# q: (2, B); y: (B,)": "",
        "# q, y: (B,)": "",
        "# q: (2, B)": "y",
        "x = 1": "qy",
        "# q and y": "qy",
    }.items():
        faults = shape_comments(write(tmp_path, {"spinup/algos/ppo.py": losses.format(comment)}))
        assert faults == [f"ppo.py: loss: no shape of {x}" for x in missing]


def test_equations_are_labelled_where_they_are_computed():
    """A label on a call alone would not show the line that computes anything."""
    labels = {name: labels_of(ROOT / "spinup" / name) for name in ("buffers.py", "nets/distributions.py")}
    assert labels["buffers.py"] == {"vpg-2", "trpo-6", "ppo-3", "ppo_rnn-4", "ddpg-1", "td3-2", "sac-1"}
    assert labels["nets/distributions.py"] == {"sac-3", "sac-4"}


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "exec('1')",
        "import builtins\nbuiltins.eval('1')",
        "import pickle\npickle.load(f)",
        "import cloudpickle\ncloudpickle.loads(f)",
        "from pickle import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "try:\n    pass\nexcept:\n    pass",
    ],
)
def test_forbidden_calls_finds(tmp_path, code):
    assert len(forbidden_calls(write(tmp_path, {"spinup/nets.py": code}))) == 1


def test_forbidden_calls_allows(tmp_path):
    code = "ac.eval()\nre.compile('x')\njson.load(f)\ntorch.load(f, weights_only=True)\nast.literal_eval('1')"
    code += "\ntry:\n    pass\nexcept Exception:\n    raise\n"
    assert forbidden_calls(write(tmp_path, {"spinup/nets.py": code})) == []


def test_lengths_finds_long_functions(tmp_path):
    function = "def {}():\n" + "    x = 1\n" * MAX_FUNCTION
    write(tmp_path, {"spinup/algos/ppo.py": function.format("ppo")})
    assert lengths(tmp_path) == []
    write(tmp_path, {"spinup/algos/ppo.py": function.format("loss")})
    assert lengths(tmp_path) == [f"spinup.algos.ppo.loss: {MAX_FUNCTION + 1} lines, at most {MAX_FUNCTION}"]


def test_docstrings_finds_modules_without(tmp_path):
    write(tmp_path, {"spinup/algos/ppo.py": "x = 1"})
    (tmp_path / "spinup/nets.py").write_text("x = 1\n")
    assert docstrings(tmp_path) == ["spinup.nets: no docstring"]


def test_machine_paths_finds(tmp_path):
    text = "\n".join(f"see /{folder}" for folder in ("home/me", "root/x", "tmp/x", "work/x", "Users/me"))
    write(tmp_path, {"a.md": text, "b.md": "https://x.org/home/x data/tmp/x"})
    (tmp_path / "c.png").write_bytes(b"\x89PNG\xff\xfe")
    faults = machine_paths(tmp_path, ["a.md", "b.md", "c.png", "gone.md"])
    assert [fault.split(" ")[0] for fault in faults] == [f"a.md:{i}:" for i in range(1, 6)]
