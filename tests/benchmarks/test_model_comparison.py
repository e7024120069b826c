"""The comparison of models of images: what is granted alike, and how bounds are compared."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vadd.errors import DataError

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "model_comparison.py"
SECONDS = {"mdm": 1.0, "paper": 2.0, "default": 1.25}


SHARED = SimpleNamespace(run_folder=lambda data, preset, args: args.out)


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("model_comparison", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "time_updates", lambda example, shared, options: {m: SECONDS[m] for m in options})
    return module


def example(calls):
    """Stands in for an example: a report of the form of its own, made up."""

    def parse(argv):
        value = {name: argv[argv.index(name) + 1] for name in ("--num-updates", "--out") if name in argv}
        num_updates = int(value.get("--num-updates", 0))
        model = "mdm" if "--baseline" in argv else argv[argv.index("--recipe") + 1]
        head = "logistic" if "--head" in argv else None
        folder = Path(value["--out"]) / f"{model}-{num_updates}"
        return SimpleNamespace(num_updates=num_updates, out=folder, preset="smoke", model=model, head=head)

    def main(argv):
        calls.append(argv)
        args = parse(argv)
        model, folder = args.model, args.out
        (folder / "training").mkdir(parents=True, exist_ok=True)
        with (folder / "training" / "history").open("a") as file:
            file.write(f"{args.num_updates} ")
        nats = [10.0, 12.0, 14.0] if model != "default" else [9.0, 10.5, 13.5]
        titles = ["finite-step, "] + ["shared-latent, "] * (model == "paper")
        row = {"nats": 1.0, "stderr": 0.1, "of_each_sequence": nats}
        rows = [{"name": f"{title}T={t}", "steps": t, **row} for title in titles for t in (1, 2)]
        report = {
            "model": model,
            "updates": args.num_updates,
            "is_finished": True,
            "options": sys.modules["runs"].options_of(args),
            "bounds": [*rows, {"name": "marginal", "nats": 1.0, "stderr": 0.1}],
            "distances": {"rows": [{"steps": None, "Fréchet": 0.1}, {"steps": 1, "Fréchet": 2.0}]},
        }
        (folder / "report.json").write_text(json.dumps({"command": " ".join(argv), "results": report}))

    preset = SimpleNamespace(num_updates=1000)
    return SimpleNamespace(main=main, parse=parse, load=lambda args, preset: None, PRESETS={"smoke": preset})


def results_of(benchmark, tmp_path, calls, *options):
    given = ["--preset", "smoke", "--out", str(tmp_path), "--runs", str(tmp_path / "runs"), *options]
    benchmark.compare(example(calls), SHARED, "noise", given)
    return json.loads((tmp_path / "noise.json").read_text())["results"]


def test_all_models_get_the_same_updates_and_the_mdm_the_time_of_each_of_them(benchmark, tmp_path):
    import pictures_shared

    calls = []
    results = results_of(benchmark, tmp_path, calls, "--data-root", "here")
    made = [(run["model"], run["updates"], run["as_long_as"]) for run in results["runs"]]
    assert made == [
        *((model, 1000, None) for model in SECONDS),
        ("mdm", 1250, "default"),
        ("mdm", 2000, "paper"),
    ]
    assert all(argv[:2] == ["--data-root", "here"] for argv in calls)
    assert (tmp_path / "noise.png").stat().st_size > 10_000
    with Image.open(tmp_path / "noise.png") as picture:
        assert picture.info.items() >= pictures_shared.stamp("noise", results).items()


def test_the_mdm_gets_no_options_of_a_latent(benchmark, tmp_path):
    calls = []
    given = ("--latents", "patches", "--kl-warmup=0.8", "--data-root", "here")
    results_of(benchmark, tmp_path, calls, *given, "--models", "mdm", "default", "--no-equal-time")
    of_mdm, of_default = calls
    assert of_mdm[:2] == ["--data-root", "here"]
    assert "--baseline" in of_mdm
    assert of_default[:5] == list(given)


def test_the_longer_runs_go_on_from_the_end_of_the_shorter_one(benchmark, tmp_path):
    results_of(benchmark, tmp_path, [])
    runs = tmp_path / "runs"
    for run, history in (("mdm-2000", "1000 1250 2000 "), ("mdm-1250", "1000 1250 "), ("mdm-1000", "1000 ")):
        assert (runs / run / "training" / "history").read_text() == history


def test_runs_that_have_reported_their_end_are_taken_as_they_are(benchmark, tmp_path):
    calls = []
    first = results_of(benchmark, tmp_path, calls, "--models", "default")
    assert len(calls) == 1
    assert results_of(benchmark, tmp_path, calls, "--models", "default") == first
    assert len(calls) == 1
    results_of(benchmark, tmp_path, calls, "--models", "default", "--anew")
    assert len(calls) == 2
    path = tmp_path / "runs" / "default-1000" / "report.json"
    path.write_text(path.read_text().replace('"is_finished": true', '"is_finished": false'))
    results_of(benchmark, tmp_path, calls, "--models", "default")
    assert len(calls) == 3
    assert "--recipe default" in first["runs"][0]["command"]
    results_of(benchmark, tmp_path, calls, "--models", "default", "--head", "logistic")  # what it says is another thing
    assert len(calls) == 4


def test_updates_are_timed_in_turns():
    spec = importlib.util.spec_from_file_location("model_comparison", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    order = []
    updates = {"mdm": 0.0, "paper": 0.02}

    def updates_of(data, preset, args):
        def update():
            order.append(args.model)
            start = time.process_time()
            while time.process_time() - start < updates[args.model]:
                pass

        return update

    fake = SimpleNamespace(
        parse=lambda argv: SimpleNamespace(model=argv[0], preset="smoke"), load=lambda *_: None, PRESETS={"smoke": None}
    )
    seconds = module.time_updates(fake, SimpleNamespace(updates_of=updates_of), {model: [model] for model in updates})
    assert order == ["mdm", "paper"] * (module.TURNS + 1)
    assert seconds["paper"] >= 0.02 > seconds["mdm"]


def test_bounds_are_compared_image_by_image(benchmark, tmp_path):
    results = results_of(benchmark, tmp_path, [])
    compared = {(gap["model"], gap["against"], gap["equal"]) for gap in results["differences"]}
    assert compared == {
        ("default", "mdm", "updates"),
        ("default", "paper", "updates"),
        ("paper", "mdm", "updates"),
        ("default", "mdm", "time"),
        ("paper", "mdm", "time"),
    }
    assert {gap["model"] for gap in results["differences"] if gap["latents"] == "shared"} == {"paper"}
    # Differences -1, -1.5, -0.5.
    gaps = [gap for gap in results["differences"] if gap["model"] == "default"]
    assert [gap["steps"] for gap in gaps] == [1, 2] * 3
    assert all(gap["nats"] == pytest.approx(-1) and gap["stderr"] == pytest.approx(0.5 / 3**0.5) for gap in gaps)
    assert all("of_each_sequence" not in row for run in results["runs"] for row in run["bounds"])


@pytest.mark.parametrize("change", [{"is_finished": False}, {"updates": 999}])
def test_unfinished_and_unequal_runs_are_not_compared(benchmark, tmp_path, change):
    runs = [
        {"model": model, "seed": 0, "as_long_as": None, "is_finished": True, "updates": 1000, "bounds": []}
        for model in ("mdm", "default")
    ]
    for run in runs:
        run["bounds"] = [{"name": "finite-step, T=1", "steps": 1, "of_each_sequence": [1.0, 2.0]}]
    assert len(benchmark.gaps(runs)) == 1
    runs[0] |= change
    assert benchmark.gaps(runs) == []


def test_times_of_an_update_are_those_of_the_same_settings(benchmark, tmp_path):
    args = SimpleNamespace(runs=tmp_path, anew=False)
    measured = iter([{"mdm": 1.0}, {"mdm": 2.0}])
    for settings, seconds in (("a", 1.0), ("b", 2.0), ("a", 1.0)):
        assert benchmark._timed(args, {"mdm": settings}, lambda: next(measured)) == {"mdm": seconds}
    for path in tmp_path.iterdir():
        path.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        benchmark._timed(args, {"mdm": "a"}, lambda: next(measured))


def test_the_benchmark_of_text_wants_a_name_and_passes_the_rest_on(monkeypatch):
    spec = importlib.util.spec_from_file_location("text_benchmark", SCRIPT.parent / "text.py")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = []
    monkeypatch.setattr(module.model_comparison, "compare", lambda *args: given.append(args))
    module.main(["wiki27", "--data", "file.txt", "--seeds", "0", "1"])
    assert given[0][2:] == ("text_wiki27", ["--data", "file.txt", "--seeds", "0", "1"])
    with pytest.raises(SystemExit, match="error: the first argument"):
        module.main(["../wiki27", "--data", "file.txt"])
