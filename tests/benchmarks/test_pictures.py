"""The curves of the pages are those of the result files."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pictures():
    import pictures

    return pictures


@pytest.fixture
def copied(pictures, tmp_path, monkeypatch):
    """Folders of results and pictures that a test may change."""
    import tables_shared

    results = shutil.copytree(tables_shared.RESULTS, tmp_path / "results")
    monkeypatch.setattr(tables_shared, "RESULTS", results)
    monkeypatch.setattr(pictures, "FIGURES", shutil.copytree(pictures.FIGURES, tmp_path / "figures"))
    return tmp_path


def change(path):
    """Add a little to the last figure of a result file's first curve."""
    report = json.loads(path.read_text())
    report["results"]["digits"]["models"]["MDM"]["bounds"]["finite-step, T=64"]["nats"] += 1e-6
    path.write_text(json.dumps(report))


def test_pictures_agree_with_result_files(pictures, capsys):
    assert pictures.main(["--check"]) == 0, capsys.readouterr().out


def test_every_picture_is_drawn_or_has_its_command_named(pictures):
    found = {path.name for path in pictures.FIGURES.iterdir()}
    drawn = {f"{name}.png" for name in pictures.PICTURES}
    assert drawn <= found
    assert [name for name in sorted(found - drawn) if f"``{name}``" not in pictures.__doc__] == []


def test_a_changed_result_file_is_noticed_and_its_pictures_are_drawn_anew(pictures, copied, monkeypatch, capsys):
    names = ["bound_by_steps", "conditional_by_ratio"]
    change(copied / "results" / "likelihoods.json")
    before = [(copied / "figures" / f"{name}.png").read_bytes() for name in names]
    assert pictures.main(["--check"]) == 2
    out = capsys.readouterr().out
    assert [line.split(".png")[0] for line in out.splitlines()] == names
    assert [(copied / "figures" / f"{name}.png").read_bytes() for name in names] == before

    monkeypatch.setattr(pictures, "PICTURES", {name: pictures.PICTURES[name] for name in names})
    assert pictures.main([]) == 0
    assert pictures.main(["--check"]) == 0
    assert all((copied / "figures" / f"{n}.png").read_bytes() != old for n, old in zip(names, before, strict=True))


def test_what_does_not_change_the_results_makes_no_picture_stale(pictures, copied):
    path = copied / "results" / "likelihoods.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "date": "another"}, indent=8))
    assert pictures.main(["--check"]) == 0


@pytest.mark.parametrize("damage", ["missing", "unmarked"])
def test_a_picture_that_is_missing_or_not_marked_is_noticed(damage, pictures, copied, capsys):
    path = copied / "figures" / "latent_design.png"
    path.unlink()
    if damage == "unmarked":
        shutil.copy(copied / "figures" / "digits.png", path)
    assert pictures.main(["--check"]) == 1
    assert capsys.readouterr().out.startswith("latent_design.png is out of date")


def test_results_have_the_mark_of_the_file_that_they_are_written_to(pictures, tmp_path):
    from vadd.reporting import write_report

    results = {"b": {10: (0.1, 1e-300), 9: None}, "a": "Fréchet"}
    written = json.loads(write_report("some", results, seed=0, folder=tmp_path).read_text())["results"]
    assert pictures.stamp("some", written) == pictures.stamp("some", results)
