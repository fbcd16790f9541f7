"""The notebooks in docs/notebooks: that they run, and that what they show as saved is what their code prints."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

from spinup import algorithm

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
sys.path.insert(0, str(FOLDER))  # a script, and no package
import execute  # noqa: E402

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICK = ("plotting", "vpg")  # the others run with `make test-slow`
AGAIN = "python docs/notebooks/execute.py"
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    """What the cells print, without figures and tables."""
    return ["".join(o.text for o in cell.outputs if o.output_type == "stream") for cell in code_cells(notebook)]


def kinds(notebook):
    """What sorts of output each cell has."""
    return [[sorted(o.get("data", [o.get("name")])) for o in cell.outputs] for cell in code_cells(notebook)]


def faults(notebook):
    """What is wrong with a saved notebook."""
    found = []
    if notebook.metadata.get("spinup", {}).get("outputs_of") != execute.sources(notebook):
        found.append("its outputs are those of other code")
    cells = code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("its cells were not run from top to bottom")
    for i, cell in enumerate(notebook.cells):
        if cell.metadata:
            found.append(f"cell {i} holds metadata: {', '.join(cell.metadata)}")
        for output in cell.get("outputs", []):
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {i} shows an error or a warning")
    if set(notebook.metadata) != {"kernelspec", "language_info", "spinup"} or set(notebook.metadata.language_info) != {
        "name"
    }:
        found.append("its metadata tells of one machine")
    return found


# ---- as they are saved


def test_each_algorithm_has_one():
    assert {*algorithm.files()} == {path.stem for path in NOTEBOOKS} - {"look_inside", "plotting", "policy_gradient"}


@pytest.mark.parametrize("name", algorithm.files())
def test_lesson_uses_the_algorithm(name):
    """It checks what it computes by hand, calls the algorithm, draws something, and links to the algorithm's page."""
    notebook = execute.read(FOLDER / f"{name}.ipynb")
    code = "\n".join(cell.source for cell in code_cells(notebook))
    assert "torch.testing.assert_close(" in code
    assert f"spinup.{name}(" in code or f"spinup.{name}}}" in code
    assert any("image/png" in kind for cell in kinds(notebook) for kind in cell)
    assert f"](../algorithms/{name}.md)" in notebook.cells[-1].source
    assert "## Try" in notebook.cells[-1].source


@each_notebook
def test_first_cell_installs(path):
    first = code_cells(execute.read(path))[0]
    again = "python docs/notebooks/execute.py --first-cells"
    assert first.source == execute.first_cell(path.stem, execute.repository()), again
    assert first.outputs == []


@each_notebook
def test_figures_have_alternative_texts(path):
    for cell in code_cells(execute.read(path)):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert re.search(r"^# Figure: .{20}", cell.source, re.MULTILINE), cell.source


@each_notebook
def test_saved_as_executed(path):
    assert faults(execute.read(path)) == [], AGAIN


@each_notebook
def test_small(path):
    assert path.stat().st_size < 300_000


@each_notebook
def test_tells_a_story(path):
    """Sentences between the code, and never three code cells without any."""
    types = [cell.cell_type for cell in execute.read(path).cells]
    assert types[0] == "markdown"
    assert "codecodecode" not in "".join(types)
    assert types.count("markdown") >= 5


@each_notebook
def test_links_to_existing_files(path):
    text = "\n".join(cell.source for cell in execute.read(path).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    assert links
    assert [link for link in links if "://" not in link and not (FOLDER / link).exists()] == []


def test_policy_gradient_has_60_lines():
    code = code_cells(execute.read(FOLDER / "policy_gradient.ipynb"))[1].source
    assert len([line for line in code.splitlines() if line.strip()]) <= 60
    assert "spinup" not in code


# ---- executed


def slow_unless_quick(path):
    return pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("path", [slow_unless_quick(path) for path in NOTEBOOKS])
def test_runs_and_shows_the_same(path):
    """Without an error, and with outputs of the same kinds; the plotting notebook's, of fixed data, are the same."""
    saved, fresh = execute.read(path), execute.execute(execute.read(path))
    assert faults(fresh) == []
    assert kinds(fresh) == kinds(saved), AGAIN
    if path.stem == "plotting":
        assert [re.sub(r"\d+ kB", "", text) for text in printed(fresh)] == [
            re.sub(r"\d+ kB", "", text) for text in printed(saved)
        ], AGAIN


# ---- the tool


def notebook(*code):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in code])
    made.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    return made


def test_the_kernel_is_this_interpreter(tmp_path, monkeypatch):
    for folder in ("kernels/python3", "share"):  # another python3 of the user's must not be taken
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kernels/python3/kernel.json").write_text(
        '{"argv": ["no-such-python", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "x"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    run = execute.execute(notebook("import sys; print(sys.executable)", "import spinup; print(spinup.__file__)"))
    assert printed(run) == [f"{sys.executable}\n", f"{ROOT / 'spinup' / '__init__.py'}\n"]


def test_what_is_saved_tells_no_machine_and_no_time(tmp_path):
    run = execute.execute(notebook("for i in range(3): print('\\x1b[1m', i, flush=True)"))
    assert printed(run) == [" 0\n 1\n 2\n"]
    assert len(run.cells[0].outputs) == 1
    assert faults(run) == []
    assert "3.11" not in str(run.metadata)


def test_first_cell_with_and_without_an_address():
    address = "https://github.com/someone/spinup"
    lines = {name: execute.first_cell(name, address).splitlines() for name in ("ppo", "look_inside", "plotting")}
    assert lines["ppo"][-2:] == [
        'if find_spec("spinup") is None:',
        f'    %pip install --quiet "spinup @ git+{address}"',
    ]
    assert lines["look_inside"][-1] == f'    %pip install --quiet "spinup[video] @ git+{address}"'
    assert lines["plotting"][-1] == f"    !git clone --quiet --depth 1 {address} checkout"
    assert execute.first_cell("look_inside", "").endswith('"../..[video]"')
    assert "git" not in execute.first_cell("plotting", "")


def test_first_cell_calls_pip_only_where_something_is_missing():
    fake = "get_ipython().register_magic_function(lambda line: print(line), 'line', 'pip')"
    hide = "import importlib.util\nimportlib.util.find_spec = lambda name: None"
    cell = execute.first_cell("ppo", "")
    assert printed(execute.execute(notebook(fake, cell, hide, cell))) == ["", "", "", 'install --quiet "../.."\n']


def test_new_address_keeps_the_outputs_valid():
    made = notebook(execute.first_cell("ppo", ""), "print(1)")
    before = execute.sources(made)
    made.cells[0].source = execute.first_cell("ppo", "https://github.com/someone/spinup")
    assert execute.sources(made) == before


def test_set_first_cell():
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# X"), nbformat.v4.new_code_cell("x = 1")])
    for _ in range(2):  # the second time it's there already
        execute.set_first_cell(made, "ppo")
        assert [cell.cell_type for cell in made.cells] == ["markdown", "code", "code"]
        assert made.cells[1].source == execute.first_cell("ppo", execute.repository())


def test_faults_are_found(tmp_path):
    run = execute.execute(notebook("print(1)", "print(2)"))
    assert faults(run) == []
    run.cells[1].source = "print(3)"
    assert faults(run) == ["its outputs are those of other code"]
    run = execute.execute(notebook("import sys; sys.stderr.write('w')"))
    assert faults(run) == ["cell 0 shows an error or a warning"]
    run.cells[0].execution_count = None
    run.cells[0].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    assert faults(run)[:2] == ["its cells were not run from top to bottom", "cell 0 holds metadata: execution"]
    with pytest.raises(Exception, match="ZeroDivisionError"):
        execute.execute(notebook("1 / 0"))
