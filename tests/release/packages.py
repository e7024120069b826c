"""Builds the wheel and the sdist, checks what they hold, and runs the README's code where the checkout is out of sight.

As a program, ``make package``: in an empty environment with the versions of ``constraints.txt``, first from the wheel,
then from the sdist. That downloads PyTorch and takes several GB of the folder for temporary files (``TMPDIR``) while it
runs. It needs nothing but Python, so that it can be the first thing that happens in the environment of the tests.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from doc_pages import blocks, fewer_steps  # noqa: E402

# Tracked files that are of use in a checkout alone. Everything else is in the sdist, the tests and what they read
# included: whoever packages the library for others tests what they built.
CHECKOUT_ONLY = {".ci/run", ".pre-commit-config.yaml"}

# Where the packages of the environment are that runs this.
TESTED = tuple(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))

# Precedes the README's code. The path of a virtual environment may lead through links.
_IDENTITY = """
import importlib.metadata
import pathlib
import sys

import vadd

where = pathlib.Path(vadd.__file__).resolve()
assert where.is_relative_to(pathlib.Path(sys.prefix).resolve()), f"vadd is imported from {{where}}"
versions = vadd.__version__, importlib.metadata.version("vadd")
assert versions == ({version!r},) * 2, f"vadd says version {{versions[0]}}, its metadata {{versions[1]}}, not {version}"
"""


class Built(NamedTuple):
    """Files that were built from the same tree."""

    wheel: Path
    sdist: Path


def version() -> str:
    """The version in ``pyproject.toml``."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def build(folder: Path, builder: Path | None = None) -> Built:
    """Build both from the checkout, by an interpreter that has ``build`` alone and downloads the build system.

    None takes this interpreter, and the build system that is installed for it.
    """
    _build(ROOT, folder, "--wheel", "--sdist", builder=builder)
    return Built(_only(folder, "*.whl"), _only(folder, "*.tar.gz"))


def rebuild(sdist: Path, folder: Path, builder: Path | None = None) -> Path:
    """The wheel that the unpacked sdist gives."""
    _build(unpack(sdist, folder), folder, "--wheel", builder=builder)
    return _only(folder, "*.whl")


def unpack(sdist: Path, folder: Path) -> Path:
    """The sdist's tree, in a folder of its own below this one."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"vadd-{version()}"


def _build(source: Path, folder: Path, *kinds: str, builder: Path | None) -> None:
    python = [sys.executable, "-m", "build", "--no-isolation"] if builder is None else [str(builder), "-m", "build"]
    _run([*python, *kinds, "--outdir", str(folder), str(source)], folder)


def _only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def _run(command: list[str], folder: Path) -> str:
    """Output of a command that knows nothing of the checkout; an error shows all that it said."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VADD_TYPECHECK")}
    environment.setdefault("OMP_NUM_THREADS", "1")  # for so small a network more wait for each other
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def wheel_problems(wheel: Path, package: Path = ROOT / "vadd") -> list[str]:
    """What a wheel lacks or has too much: it is the package, its marker of types, the licence and metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"vadd-{version()}.dist-info"
    expected = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")} | {"vadd/py.typed"}
    sources = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    expected |= {path.relative_to(package.parent).as_posix() for path in sources}
    return _differences(wheel.name, names, expected)


def sdist_problems(sdist: Path, tree: Iterable[str]) -> list[str]:
    """What an sdist lacks or has too much: it is the files of the tree (paths from its root) and metadata."""
    with tarfile.open(sdist) as archive:
        paths = [PurePosixPath(entry.name) for entry in archive.getmembers() if entry.isfile()]
    top = f"vadd-{version()}"
    outside = [f"{sdist.name} has {path} outside of {top}" for path in paths if path.parts[0] != top]
    names = {path.relative_to(top).as_posix() for path in paths if path.parts[0] == top}
    return outside + _differences(sdist.name, names, ({*tree} - CHECKOUT_ONLY) | {"PKG-INFO"})


def _differences(where: str, names: set[str], expected: set[str]) -> list[str]:
    return [f"{where} lacks {name}" for name in sorted(expected - names)] + [
        f"{where} has {name}" for name in sorted(names - expected)
    ]


def tree() -> list[str] | None:
    """Files of the checkout that git does not ignore; None where the folder is no checkout, as an unpacked sdist is."""
    if not (ROOT / ".git").exists():
        return None
    listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    return [name for name in listed.split("\0") if (ROOT / name).is_file()]


def rebuilt_problems(wheel: Path, rebuilt: Path) -> list[str]:
    """Files that two wheels do not both have, or with another content."""
    checksums = []
    for path in (wheel, rebuilt):
        with zipfile.ZipFile(path) as archive:
            checksums.append({entry.filename: entry.CRC for entry in archive.infolist()})
    from_tree, from_sdist = checksums
    changed = sorted(name for name in from_tree.keys() & from_sdist if from_tree[name] != from_sdist[name])
    return _differences("the sdist's wheel", {*from_sdist}, {*from_tree}) + [
        f"the sdist's wheel has another {name}" for name in changed
    ]


def problems(built: Built, folder: Path, builder: Path | None = None) -> list[str]:
    """Everything that is wrong with the files; ``folder`` is an empty one to work in."""
    files = tree()
    return (
        wheel_problems(built.wheel)
        + ([] if files is None else sdist_problems(built.sdist, files))
        + rebuilt_problems(built.wheel, rebuild(built.sdist, folder, builder))
    )


def layered_environment(folder: Path, wheel: Path | None, seen: Iterable[str | Path] = TESTED) -> Path:
    """Python of a fresh environment that has the wheel, and takes all else from the folders ``seen``."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    python = folder / "bin" / "python"
    if wheel is not None:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile"]
        _run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)], folder.parent)
    # They come last on the path, and their own .pth files, that of an editable vadd among them, are not read.
    (packages_of(python) / "seen.pth").write_text("".join(f"{path}\n" for path in seen))
    return python


def packages_of(python: Path) -> Path:
    """The folder that an interpreter's packages are installed into."""
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(_run([str(python), "-I", "-c", program], ROOT).strip())


def try_out(python: Path, code: str, folder: Path) -> str:
    """What the code prints there, after a check that vadd is the installed one and of the right version.

    Isolated (``-I``): neither the current folder nor ``PYTHONPATH`` is looked at.
    """
    script = folder / "example.py"
    script.write_text(_IDENTITY.format(version=version()) + code)
    return _run([str(python), "-I", str(script)], folder)


def readme_code() -> str:
    """The Python of the README in one piece."""
    return "\n".join(code for language, code in blocks((ROOT / "README.md").read_text()) if language == "python")


def environment(folder: Path, interpreter: str = sys.executable) -> Path:
    """Python of a new environment that has pip alone."""
    _run([interpreter, "-m", "venv", str(folder)], ROOT)
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path, constraints: Path = ROOT / "constraints.txt") -> None:
    """Install in the versions of a file."""
    options = ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "-c", str(constraints)]
    _run([str(python), "-m", "pip", "install", *options, *map(str, what)], ROOT)


@contextmanager
def removed_on_error(folder: Path | None) -> Iterator[None]:
    """An environment that did not become whole would be taken for one that did."""
    try:
        yield
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def main(argv: list[str] | None = None) -> int:
    """Build, check, and try out in an empty environment; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="folder to make it in, and to leave it; default one that goes")
    args = parser.parse_args(argv)
    if args.environment is not None and args.environment.exists():
        parser.error(f"--environment {args.environment}: exists, and may not be empty. Name a folder that does not")
    with TemporaryDirectory(prefix="vadd-package-") as name, removed_on_error(args.environment):
        folder = Path(name)
        files, work = folder / "files", folder / "work"
        files.mkdir()
        work.mkdir()
        builder = environment(folder / "builder")
        install(builder, "build")
        built = build(files, builder)
        for path in built:
            print(f"built {path.name}: {path.stat().st_size / 1e3:,.0f} kB", flush=True)
        found = problems(built, work, builder)
        if found:
            print("\n".join(found), file=sys.stderr)
            return 1
        print("they hold what they should, and the sdist gives the same wheel", flush=True)

        python = environment((args.environment or folder / "venv").absolute())
        install(python, built.wheel)
        printed = try_out(python, readme_code(), folder)
        print(f"the README's code, from {built.wheel.name}:\n{printed}", flush=True)
        install(python, "--no-deps", "--force-reinstall", built.sdist)
        printed = try_out(python, fewer_steps(readme_code()), folder)
        print(f"the same after three updates, from {built.sdist.name}:\n{printed}", flush=True)
        _run([str(python), "-m", "pip", "check"], folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
