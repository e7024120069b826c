"""The comparison of models of images: what is granted alike, and how bounds are compared."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "image_models.py"
SPEED = {"mdm": 100.0, "paper": 50.0, "default": 80.0}


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("image_models", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(calls, is_finished=True):
    """Stands in for an example: a report of the form of its own, made up."""

    def main(argv):
        calls.append(argv)
        model = "mdm" if "--baseline" in argv else argv[argv.index("--recipe") + 1]
        updates = int(argv[argv.index("--num-updates") + 1]) if "--num-updates" in argv else 1000
        nats = [10.0, 12.0, 14.0] if model != "default" else [9.0, 10.5, 13.5]
        rows = [{"name": f"T={t}", "steps": t, "nats": 1.0, "stderr": 0.1, "of_each_image": nats} for t in (1, 2)]
        return {
            "model": model,
            "updates": updates,
            "is_finished": is_finished,
            "training": {"images_per_second": SPEED[model]},
            "bounds": [*rows, {"name": "marginal", "nats": 1.0, "stderr": 0.1}],
            "distances": {"rows": [{"steps": None, "Fréchet": 0.1}, {"steps": 1, "Fréchet": 2.0}]},
        }

    return SimpleNamespace(main=main, PRESETS={"smoke": None})


def test_all_models_get_the_same_updates_and_then_the_time_of_the_mdm(benchmark, tmp_path):
    calls = []
    benchmark.compare(example(calls), "noise", ["--preset", "smoke", "--out", str(tmp_path), "--data-root", "here"])
    results = json.loads((tmp_path / "noise.json").read_text())["results"]
    made = {(run["equal"], run["model"]): run["updates"] for run in results["runs"]}
    assert made == {
        **{("updates", model): 1000 for model in SPEED},
        **{("time", model): 10 * SPEED[model] for model in SPEED},
    }
    assert all(argv[:2] == ["--data-root", "here"] for argv in calls)
    assert (tmp_path / "noise.png").stat().st_size > 10_000


def test_time_is_not_granted_alike_where_it_was_not_measured_to_the_end(benchmark, tmp_path):
    given = ["--preset", "smoke", "--out", str(tmp_path)]
    benchmark.compare(example([], is_finished=False), "noise", given)
    results = json.loads((tmp_path / "noise.json").read_text())["results"]
    assert {run["equal"] for run in results["runs"]} == {"updates"}


def test_bounds_are_compared_image_by_image(benchmark, tmp_path):
    benchmark.compare(example([]), "noise", ["--preset", "smoke", "--out", str(tmp_path), "--equal", "updates"])
    results = json.loads((tmp_path / "noise.json").read_text())["results"]
    gaps = results["default_minus_others"]
    assert {(gap["against"], gap["steps"]) for gap in gaps} == {(m, t) for m in ("mdm", "paper") for t in (1, 2)}
    # Differences -1, -1.5, -0.5.
    assert all(gap["nats"] == pytest.approx(-1) and gap["stderr"] == pytest.approx(0.5 / 3**0.5) for gap in gaps)
    assert all("of_each_image" not in row for run in results["runs"] for row in run["bounds"])
