"""The tutorials are stored as they ran, in order and without complaint; slow: they run again."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MACHINE_PATH = re.compile(r"(?<![\w.)/])/(?:\w[\w.-]*/)+|\b[A-Z]:\\|~/")
DECIMAL = re.compile(r"\d+\.\d+")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def text_of(part):
    """The text of a cell or of one kind of output: a string, or its lines."""
    return part if isinstance(part, str) else "".join(part)


def texts_of(output):
    """What is written in an output: not its pictures."""
    yield text_of(output.get("text", ""))
    yield from (text_of(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


def code_of(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def words_of(notebook):
    return [text_of(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def faults(notebook):
    """What is wrong with a stored notebook, in words."""
    if notebook["metadata"] != METADATA:
        yield f"metadata {notebook['metadata']}"
    for number, cell in enumerate(code_of(notebook), start=1):
        if cell["execution_count"] != number:
            yield f"cell {number} ran as number {cell['execution_count']}"
        if set(cell["metadata"]) - {"mystnb"}:
            yield f"cell {number} has metadata {cell['metadata']}"
        kinds = {(output["output_type"], output.get("name")) for output in cell["outputs"]}
        if ("error", None) in kinds or ("stream", "stderr") in kinds:
            yield f"cell {number} complained"
        has_picture = any("image/png" in output.get("data", {}) for output in cell["outputs"])
        if has_picture and not cell["metadata"].get("mystnb", {}).get("image", {}).get("alt"):
            yield f"the picture of cell {number} has no words in its place"
    words = words_of(notebook)
    shown = [text for cell in code_of(notebook) for output in cell["outputs"] for text in texts_of(output)]
    shown += [text_of(cell["source"]) for cell in code_of(notebook)]
    for text in [*shown, *words]:
        yield from (f"a path of a machine: {found}" for found in MACHINE_PATH.findall(text))
    for number in sorted({number for text in words for number in DECIMAL.findall(text)}):
        if not any(number in text for text in shown):
            yield f"{number} is in the text alone"


@each_notebook
def test_the_notebook_is_stored_as_it_ran(path):
    assert list(faults(json.loads(path.read_text()))) == []
    assert path.stat().st_size < 300_000


@each_notebook
def test_it_is_a_valid_notebook(path):
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(json.loads(path.read_text()))


def test_the_index_lists_every_tutorial():
    index = (DOCS / "index.md").read_text()
    assert set(re.findall(r"^tutorials/(\w+)$", index, re.MULTILINE)) == {path.stem for path in NOTEBOOKS} != set()
    assert set(re.findall(r"\(tutorials/(\w+)\.ipynb\)", index)) == {path.stem for path in NOTEBOOKS}


@each_notebook
def test_links_lead_to_files(path):
    links = [
        link
        for text in words_of(json.loads(path.read_text()))
        for link in re.findall(r"\]\(([\w./]+\.\w+)(?:#[\w-]+)?\)", text)
    ]
    assert links
    assert [link for link in links if not (path.parent / link).is_file()] == []


@each_notebook
def test_only_the_public_interface_is_used(path):
    tree = ast.parse("\n".join(text_of(cell["source"]) for cell in code_of(json.loads(path.read_text()))))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").split(".")[0] == "vadd"]
    assert ours
    for node in ours:
        assert {alias.name for alias in node.names} <= set(importlib.import_module(node.module).__all__)
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in names if re.match("_[a-z]", name)} == set()


def planted(**changes):
    """A notebook of one cell, with one thing changed."""
    cell = {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [], "source": "print(0.25)"}
    words = {"cell_type": "markdown", "metadata": {}, "source": changes.pop("words", "A quarter is 0.25.")}
    metadata = changes.pop("notebook_metadata", METADATA)
    return {"cells": [words, cell | changes], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def stream(text, name="stdout"):
    return [{"output_type": "stream", "name": name, "text": text}]


def test_a_good_notebook_has_no_faults():
    assert list(faults(planted(outputs=stream("0.25\n")))) == []
    assert list(faults(planted(words="$a/b/c$, [page](../page.md), `x/y/z`", source="a / b / c"))) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"execution_count": None}, "cell 1 ran as number None"),
        ({"execution_count": 2}, "cell 1 ran as number 2"),
        ({"outputs": stream("warning", "stderr")}, "cell 1 complained"),
        ({"outputs": [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]}, "cell 1 complained"),
        ({"outputs": [{"output_type": "display_data", "data": {"image/png": "AAAA"}}]}, "the picture of cell 1"),
        ({"outputs": stream("wrote /home/me/a.png")}, "a path of a machine: /home/me/"),
        ({"outputs": stream(r"wrote C:\a.png")}, "a path of a machine: C:"),
        ({"source": "open('/data/digits/x')", "words": ""}, "a path of a machine: /data/digits/"),
        ({"metadata": {"execution": {"iopub.status.busy": "2026"}}}, "cell 1 has metadata"),
        ({"notebook_metadata": {"language_info": {"version": "3.11.7"}}}, "metadata {'language_info'"),
        ({"words": "The bound is 7.25 nats."}, "7.25 is in the text alone"),
    ],
)
def test_planted_faults_are_found(changes, expected):
    (found,) = faults(planted(**changes))
    assert found.startswith(expected)


@each_notebook
@pytest.mark.slow
def test_it_runs_from_a_fresh_kernel(path, tmp_path):
    for package in ("ipykernel", "matplotlib", "nbclient", "sklearn"):
        pytest.importorskip(package, reason="tutorials need the extras docs and examples")
    command = [sys.executable, str(DOCS / "tutorials" / "execute.py"), str(path), "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VADD_TYPECHECK": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    ran = json.loads((tmp_path / path.name).read_text())
    stored = json.loads(path.read_text())
    assert [text_of(cell["source"]) for cell in ran["cells"]] == [text_of(cell["source"]) for cell in stored["cells"]]
    assert [fault for fault in faults(ran) if "in the text alone" not in fault] == []  # figures differ a little
