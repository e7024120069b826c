"""Run the tutorials, each from a fresh kernel, and store them with what their cells show.

``python docs/tutorials/execute.py`` runs all of them in place; arguments name some, ``--out`` another folder.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(path: Path, out: Path) -> None:
    """Run one notebook from top to bottom, and write it without times and versions, which differ from run to run.

    Raises:
        CellExecutionError: if a cell fails.
        RuntimeError: if a cell writes to the error stream, as warnings do.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "mystnb"}  # words of pictures
    options = {"kernel_name": "python3", "timeout": 3600, "record_timing": False, "coalesce_streams": True}
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, resources={"metadata": {"path": folder}}, **options).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"a cell of {path.name} wrote to the error stream:\n{output['text']}")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, out / path.name)


def main() -> None:
    """Run the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all tutorials")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to; default: in place")
    args = parser.parse_args()
    # Kernels warn of what no tutorial needs: Pyro's progress bars of ipywidgets, the debugger of frozen modules.
    os.environ |= {"PYTHONWARNINGS": "ignore:IProgress not found", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    for path in args.notebooks or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        execute(path, args.out)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
