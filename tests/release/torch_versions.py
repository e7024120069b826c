"""Runs the tests of the core under the oldest PyTorch, torchvision and Pyro that are supported, and under the newest.

``make torch-versions``. The oldest are the lower bounds of ``pyproject.toml``, in their latest patch; the newest are
those of ``constraints.txt``, which has all other packages of both. Each is a fresh environment in the folder for
temporary files (``TMPDIR``): a download of PyTorch, and some 7 GB while the tests run. Package and tests are those of
an unpacked sdist, so that the checkout may change meanwhile.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).resolve().parent))
import packages  # noqa: E402

ROOT = packages.ROOT
VARIED = ("torch", "torchvision", "pyro-ppl")
# Packages whose versions PyTorch chooses.
OF_TORCH = re.compile(r"(triton|nvidia-.*|cuda-.*)")
TESTS = ("laws", "distributions", "priors", "backbones", "objectives", "samplers", "evaluation", "storage", "training")
TESTS = tuple(f"tests/{name}" for name in (*TESTS, "test_model.py", "test_guide.py", "test_readme.py"))

_IDENTITY = """
import importlib.metadata, pathlib, platform, sys
import vadd
assert pathlib.Path(vadd.__file__).resolve().is_relative_to(pathlib.Path(sys.prefix).resolve()), vadd.__file__
names = [f"{name} {importlib.metadata.version(name)}" for name in sys.argv[1:]]
print(", ".join([*names, f"Python {platform.python_version()}"]))
"""


def lower_bounds(project: dict) -> dict[str, str]:
    """For each varied package the versions that begin like the lowest one that the project's metadata allow."""
    found = {}
    for text in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
        requirement = Requirement(text)
        if requirement.name in VARIED:
            (bound,) = requirement.specifier
            assert bound.operator == ">=", f"expected a lower bound alone, got {text}"
            found[requirement.name] = f"=={bound.version}.*"
    return {name: found[name] for name in VARIED}


def constraints(lines: list[str], pins: dict[str, str]) -> list[str]:
    """The lines of ``constraints.txt`` with other versions of some packages, and none of those that PyTorch chooses."""
    if not pins:
        return lines
    kept = [line for line in lines if line.partition("==")[0] not in pins and not OF_TORCH.match(line)]
    return [*kept, *(f"{name}{versions}" for name, versions in pins.items())]


def run(pins: dict[str, str], tests: list[str], workers: int, interpreter: str) -> tuple[str, bool]:
    """Install, test and remove; the result in a line, and whether all passed."""
    with TemporaryDirectory(prefix="vadd-torch-") as name:
        folder = Path(name)
        builder = packages.environment(folder / "builder")
        packages.install(builder, "build")
        source = packages.unpack(packages.build(folder, builder).sdist, folder)
        lines = constraints((source / "constraints.txt").read_text().splitlines(), pins)
        (folder / "constraints.txt").write_text("\n".join(lines) + "\n")
        python = str(packages.environment(folder / "venv", interpreter))
        packages.install(Path(python), f"{source}[dev]", constraints=folder / "constraints.txt")
        identity = [python, "-P", "-c", _IDENTITY, *VARIED]  # -P: not from the current folder
        versions = subprocess.run(identity, cwd=source, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        print(versions, flush=True)
        command = [python, "-P", "-m", "pytest", "-q", "-n", str(workers), "-p", "no:cacheprovider", *tests]
        with subprocess.Popen(command, cwd=source, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                print(line, end="", flush=True)
                last = line.strip() or last
        return f"{versions}: {last}", process.returncode == 0


def main() -> int:
    """Run what is asked for; 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("oldest", "newest"), help="one of the two")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument("--workers", type=int, default=2, help="processes that run tests")
    parser.add_argument("tests", nargs="*", default=TESTS, help="default: the tests of the core")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {"oldest": lower_bounds(project), "newest": {}}
    chosen = [versions[name] for name in versions if options.only in (None, name)]
    results = [run(pins, options.tests, options.workers, options.python) for pins in chosen]
    print("\n".join(line for line, _ in results))
    return 0 if all(passed for _, passed in results) else 1


if __name__ == "__main__":
    sys.exit(main())
