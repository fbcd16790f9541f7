"""Runs the notebooks and saves what they show, so that they can be read without being run.

    python docs/notebooks/execute.py                # all of them, in place
    python docs/notebooks/execute.py plotting.ipynb
    python docs/notebooks/execute.py --first-cells  # writes the cells that install, and runs nothing

It needs the extras `dev` and `video`. The kernel is this interpreter, whichever kernels are installed beside it. What
would differ the next time or on another machine is left out: times, versions, and colors for a terminal.

The first code cells install from the repository whose address is in pyproject.toml, as `urls.Repository` of
`[project]`; without an address, from the checkout that the notebook lies in.
"""

import argparse
import base64
import hashlib
import io
import os
import re
import tempfile
import tomllib
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


# Notebooks that need something else than spinup alone: the modules they look for, and what pip installs.
NEEDS = {
    "look_inside": (("spinup", "pygame"), "spinup[video]"),
    "policy_gradient": (("gymnasium", "torch"), "gymnasium matplotlib torch"),
}
FIRST = "# Installs what is missing, as in a hosted notebook; otherwise it does nothing."


def repository() -> str:
    """The repository's address, or an empty string."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def first_cell(name: str, address: str) -> str:
    """The first code cell of a notebook; address: the repository's, or an empty string."""
    modules, package = NEEDS.get(name, (("spinup",), "spinup"))
    if package.startswith("spinup"):
        package = f'"{package} @ git+{address}"' if address else f'"../..{package.removeprefix("spinup")}"'
    missing = " or ".join(f'find_spec("{module}") is None' for module in modules)
    lines = [FIRST, "from importlib.util import find_spec", "", f"if {missing}:", f"    %pip install --quiet {package}"]
    if name == "plotting" and address:  # it reads data that isn't in the package
        lines.append(f"    !git clone --quiet --depth 1 {address} checkout")
    return "\n".join(lines)


def set_first_cell(notebook: nbformat.NotebookNode, name: str) -> None:
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    if not code.source.startswith(FIRST):
        code = nbformat.v4.new_code_cell()
        notebook.cells.insert(1, code)
    code.source = first_cell(name, repository())


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def sources(notebook: nbformat.NotebookNode) -> str:
    """A digest of the code, which the saved notebook holds to tell of which code its outputs are.

    The cell that installs is left out: it has no output, and changes with the repository's address.
    """
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.source.startswith(FIRST)]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with fresh outputs. Raises nbclient's CellExecutionError, which shows the cell that failed."""
    ours = KernelSpecManager(kernel_dirs=[])  # nothing is left but ipykernel's own: the interpreter that runs this
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ours)
    where = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(notebook, km=manager, timeout=900, record_timing=False, resources=where)
    client.owns_km = True  # it ends the kernel too
    env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}  # figures go into the notebook
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # without it, what draws CartPole complains
    client.execute(env=env)
    return tidy(notebook)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what says nothing to a reader; prints in a row are one output, however they arrived."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "spinup": {"outputs_of": sources(notebook)},
    }
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = re.sub(r"\x1b\[[0-9;]*m", "", output.text)
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        else:
            output.metadata = {}
            if "image/png" in output.data:
                output.data["image/png"] = small(output.data["image/png"])
        kept.append(output)
    return kept


def small(png: str) -> str:
    """A picture in base64 with 256 colors: enough for a figure, and a third of the bytes."""
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", help="default: all")
    parser.add_argument("--first-cells", action="store_true", help="write the cells that install, and run nothing")
    args = parser.parse_args()
    for name in args.notebooks or sorted(path.name for path in FOLDER.glob("*.ipynb")):
        path = FOLDER / Path(name).name
        notebook = read(path)
        set_first_cell(notebook, path.stem)
        nbformat.write(notebook if args.first_cells else execute(notebook), path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
