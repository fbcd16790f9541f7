"""Runs the notebooks and saves what they show, so that they can be read without being run.

    python docs/notebooks/execute.py                # all of them, in place
    python docs/notebooks/execute.py plotting.ipynb

It needs the extras `dev` and `video`. The kernel is this interpreter, whichever kernels are installed beside it. What
would differ the next time or on another machine is left out: times, versions, and colours for a terminal.
"""

import argparse
import base64
import hashlib
import io
import os
import re
import tempfile
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def sources(notebook: nbformat.NotebookNode) -> str:
    """A digest of the code, which the saved notebook holds to tell of which code its outputs are."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs. Raises nbclient's CellExecutionError, which shows the cell that failed."""
    notebook = read(path)
    ours = KernelSpecManager(kernel_dirs=[])  # nothing is left but ipykernel's own: the interpreter that runs this
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ours)
    where = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(notebook, km=manager, timeout=900, record_timing=False, resources=where)
    client.owns_km = True  # it ends the kernel too
    env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}  # figures belong into the notebook
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
    """A picture in base64 with 256 colours: enough for a figure, and a third of the bytes."""
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", help="default: all")
    names = parser.parse_args().notebooks or sorted(path.name for path in FOLDER.glob("*.ipynb"))
    for name in names:
        path = FOLDER / Path(name).name
        nbformat.write(execute(path), path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
