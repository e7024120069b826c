"""The dependency directions of the package, the size of its files, and that every module can be imported."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("vadd").origin).parent

# What each part may import of the package, besides itself.
_BASE = {"errors", "registry", "types", "_checks", "_modes", "_naming", "_protocols", "_seeds", "_version"}
_PROCESS = _BASE | {"schedules", "process"}
_SAMPLERS = _PROCESS | {"distributions", "samplers"}
_MODEL = _SAMPLERS | {"priors", "backbones", "storage", "model", "guide"}
_EVALUATION = _MODEL | {"objectives", "evaluation"}
ALLOWED = {
    "errors": set(),
    "_typecheck": {"errors"},
    "_checks": {"errors"},
    "_modes": _BASE,
    "_naming": _BASE,
    "_protocols": set(),
    "_seeds": _BASE,
    "_version": set(),
    "registry": _BASE,
    "types": _BASE,
    "schedules": _BASE,
    "streams": set(),
    "process": _PROCESS,
    "distributions": {"errors"},
    "priors": _BASE | {"backbones"},
    "backbones": _BASE | {"distributions"},
    "samplers": _SAMPLERS,
    "model": _MODEL,
    "guide": _MODEL,
    "objectives": _MODEL,
    "evaluation": _EVALUATION | {"text"},  # windows of long documents
    # What a model needs to store itself: everything but the model.
    "storage": _SAMPLERS | {"priors", "backbones"},
    "training": _EVALUATION | {"storage", "streams"},
    "recipes": _EVALUATION | {"storage", "training"},
    "metrics": {"_checks", "errors", "types", "storage", "_seeds", "distributions"},
    "data": {"_checks", "errors", "types"},
    "text": {"_checks", "errors", "registry", "types", "data", "streams"},
    "plotting": {"errors", "types"},
    "reporting": {"_version", "errors", "storage"},
}
ALLOWED["testing"] = ALLOWED.keys() | {"__init__"}
ALLOWED["__init__"] = ALLOWED.keys() - {"testing"}

MAX_LINES = 300
#: A model's methods are one interface; a benchmark is one experiment, read from top to bottom; the options, the
#: training and the report that examples share belong to one run.
LONGER = {
    "vadd/model.py": 330,
    "benchmarks/sampler.py": 380,
    "examples/runs.py": 440,
}


def unit_of(module: str, root: Path) -> str | None:
    """Part of the package that a dotted name belongs to: ``vadd.model.f`` to ``model``."""
    package, *names = module.split(".")
    if package != root.name:
        return None
    if names and ((root / names[0]).is_dir() or (root / f"{names[0]}.py").is_file()):
        return names[0]
    return "__init__"


def imported_units(path: Path, root: Path) -> set[str]:
    """Parts of the package that a file imports when it runs, also inside functions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    package = ".".join((root.name, *path.relative_to(root).parent.parts))
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            source = importlib.util.resolve_name(name, package) if node.level else name
            modules += [f"{source}.{alias.name}" for alias in node.names]
    return {unit for module in modules if (unit := unit_of(module, root)) is not None}


def violations(root: Path) -> list[str]:
    """Imports that go against the dependency directions."""
    found = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        unit = inside.with_suffix("").parts[0]
        if unit not in ALLOWED:
            found.append(f"{inside}: {unit!r} has no place in the dependency directions; give it one")
            continue
        forbidden = imported_units(path, root) - ALLOWED[unit] - {unit}
        found += [f"{inside}: {unit} must not import {other}" for other in sorted(forbidden)]
    return found


def test_imports_follow_the_dependency_directions():
    assert (PACKAGE / "model.py").is_file()
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("distributions/a.py", "from vadd.types import Tokens", "distributions must not import types"),
        ("distributions/a.py", "from vadd import types", "distributions must not import types"),
        ("priors/a.py", "import torch\nimport vadd.model as m", "priors must not import model"),
        ("priors/deep/a.py", "from ...model import VADDModel", "priors must not import model"),
        ("process.py", "def f():\n    from vadd.model import VADDModel", "process must not import model"),
        ("model.py", "from vadd import DELBO", "model must not import __init__"),
        ("model.py", "import vadd.testing.oracle", "model must not import testing"),
        ("__init__.py", "from vadd.testing import oracle", "__init__ must not import testing"),
        ("novelty.py", "", "'novelty' has no place"),
        ("distributions/a.py", "from vadd.errors import ShapeError\nimport torch.types", None),
        ("priors/a.py", "if TYPE_CHECKING:\n    from vadd.model import VADDModel", None),
        ("priors/a.py", "from vadd.priors.b import f\nfrom . import b", None),
        ("testing/a.py", "import vadd\nfrom vadd.model import VADDModel\nfrom vadd import DELBO", None),
    ],
)
def test_checker_finds_planted_violations(tmp_path, file, code, expected):
    root = tmp_path / "vadd"
    for name in ("distributions", "priors", "priors/deep", "testing"):
        (root / name).mkdir(parents=True)
    for name in ("__init__", "types", "errors", "model", "process"):
        (root / f"{name}.py").touch()
    (root / file).write_text(code)
    found = violations(root)
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(f"{file}: {expected}")


def test_no_file_is_long():
    root = PACKAGE.parent
    files = [path for folder in ("vadd", "benchmarks", "examples") for path in (root / folder).rglob("*.py")]
    lengths = {path.relative_to(root).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: n for name, n in lengths.items() if n > LONGER.get(name, MAX_LINES)} == {}


IMPORT_EACH_FIRST = """
import importlib, pkgutil, sys, warnings

warnings.simplefilter("error")
import vadd

OPTIONAL = ("accelerate", "beartype", "datasets", "huggingface_hub", "hypothesis", "matplotlib", "scipy", "sklearn",
            "tensorboard", "tokenizers", "torchmetrics", "torchvision", "wandb", "zuko")
def refuse_optional(name):
    loaded = [package for package in OPTIONAL if package in sys.modules]
    assert not loaded, f"importing {name} imports {loaded}, which a plain installation may lack"

names = ["vadd", *(m.name for m in pkgutil.walk_packages(vadd.__path__, "vadd.") if ".testing" not in m.name)]
tested = [m.name for m in pkgutil.walk_packages(vadd.__path__, "vadd.") if ".testing" in m.name]
refuse_optional("vadd")
own = set(sys.modules)  # what the package itself imports comes in its order, whichever is asked for first
for name in [*names, *tested]:
    if name in own:
        continue
    for loaded in [m for m in sys.modules if m == "vadd" or m.startswith("vadd.")]:
        del sys.modules[loaded]
    importlib.import_module(name)
    if name in names:
        refuse_optional(name)
print(len(names) + len(tested))
"""


def test_every_module_can_be_imported_first_and_without_the_extras():
    environment = {name: value for name, value in os.environ.items() if name != "VADD_TYPECHECK"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH_FIRST],
        cwd=PACKAGE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(list(PACKAGE.rglob("*.py"))) - 1


def test_texts_are_written_and_read_in_a_named_encoding():
    found = []
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "examples").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("read_text", "write_text"):
                if "encoding" not in [keyword.arg for keyword in node.keywords]:
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []
