"""The wheel and the sdist hold what they should, and work without the checkout."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import packages  # noqa: E402
from doc_pages import fewer_steps  # noqa: E402

TOP = f"vadd-{packages.version()}"
METADATA = [f"{TOP}.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return packages.build(tmp_path_factory.mktemp("built"))


def test_the_files_hold_what_they_should(built, tmp_path):
    assert packages.problems(built, tmp_path) == []


def test_the_readme_runs_from_the_wheel(built, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(packages.ROOT))
    python = packages.layered_environment(tmp_path / "venv", built.wheel)
    printed = packages.try_out(python, fewer_steps(packages.readme_code()), tmp_path)
    assert "ancestral sampling in 1 step" in printed


@pytest.mark.slow
def test_both_work_in_an_empty_environment():
    subprocess.run([sys.executable, packages.__file__], check=True)


def test_an_environment_that_exists_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        packages.main(["--environment", str(tmp_path)])
    assert f"--environment {tmp_path}: exists, and may not be empty" in capsys.readouterr().err


def test_an_environment_that_did_not_become_whole_goes(tmp_path, monkeypatch):
    folder = tmp_path / "environment"

    def fail(*arguments):
        folder.mkdir()
        raise OSError("full")

    monkeypatch.setattr(packages, "environment", fail)
    with pytest.raises(OSError, match="full"):
        packages.main(["--environment", str(folder)])
    assert not folder.exists()


def zipped(path, names, content="x"):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("lost", "added", "expected"),
    [
        (None, None, []),
        ("vadd/py.typed", None, ["v.whl lacks vadd/py.typed"]),
        ("vadd/part/a.py", None, ["v.whl lacks vadd/part/a.py"]),
        (METADATA[-1], None, [f"v.whl lacks {METADATA[-1]}"]),
        (None, "tests/a.py", ["v.whl has tests/a.py"]),
    ],
)
def test_faults_of_a_wheel_are_found(lost, added, expected, tmp_path):
    package = tmp_path / "vadd"
    names = {"vadd/__init__.py", "vadd/py.typed", "vadd/part/a.py"}
    (package / "part" / "__pycache__").mkdir(parents=True)
    (package / "part" / "__pycache__" / "a.pyc").touch()
    for name in names:
        (tmp_path / name).touch()
    wheel = zipped(tmp_path / "v.whl", ({*names, *METADATA} | {added}) - {lost, None})
    assert packages.wheel_problems(wheel, package) == expected


@pytest.mark.parametrize(
    ("lost", "added", "expected"),
    [
        (None, None, []),
        ("Makefile", None, ["v.tar.gz lacks Makefile"]),
        ("PKG-INFO", None, ["v.tar.gz lacks PKG-INFO"]),
        (None, f"{TOP}/.ci/run", ["v.tar.gz has .ci/run"]),
        (None, "elsewhere/a", [f"v.tar.gz has elsewhere/a outside of {TOP}"]),
    ],
)
def test_faults_of_an_sdist_are_found(lost, added, expected, tmp_path):
    names = {"Makefile", "vadd/a.py", "PKG-INFO"} - {lost}
    with tarfile.open(tmp_path / "v.tar.gz", "w:gz") as archive:
        for name in [f"{TOP}/{name}" for name in names] + [added] * (added is not None):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    tree = ["Makefile", "vadd/a.py", ".ci/run"]
    assert packages.sdist_problems(tmp_path / "v.tar.gz", tree) == expected


def test_another_wheel_from_the_sdist_is_found(tmp_path):
    wheels = [
        zipped(tmp_path / f"{content}.whl", names, content)
        for content, names in (("x", ["same", "tree"]), ("y", ["same", "sdist"]))
    ]
    assert packages.rebuilt_problems(wheels[0], wheels[0]) == []
    assert packages.rebuilt_problems(*wheels) == [
        "the sdist's wheel lacks tree",
        "the sdist's wheel has sdist",
        "the sdist's wheel has another same",
    ]


@pytest.mark.parametrize(
    ("is_seen", "number", "message"), [(True, "0.0", "vadd is imported from"), (False, "0.0", "vadd says version 0.0")]
)
def test_what_is_not_the_built_package_is_found(is_seen, number, message, tmp_path):
    python = packages.layered_environment(tmp_path / "venv", None, seen=[tmp_path] if is_seen else [])
    folder = tmp_path if is_seen else packages.packages_of(python)
    for name, content in (
        ("vadd/__init__.py", f'__version__ = "{number}"'),
        ("vadd-0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: vadd\nVersion: 0.0\n"),
    ):
        (folder / name).parent.mkdir()
        (folder / name).write_text(content)
    with pytest.raises(RuntimeError, match=message):
        packages.try_out(python, "", tmp_path)
