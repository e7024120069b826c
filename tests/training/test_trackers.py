"""Metrics on file: whole lines, exact values, and after a resume no row of the future."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from parts import make_trainer  # noqa: E402

from vadd.errors import CheckpointError, ConfigError, DataError, DomainError  # noqa: E402
from vadd.training import trackers as trackers_module  # noqa: E402
from vadd.training.trackers import (  # noqa: E402
    csv_tracker,
    drop_later_rows,
    read_metrics,
    resolve_trackers,
    start_trackers,
)

accelerate = pytest.importorskip("accelerate")


@pytest.fixture
def make_accelerator(tmp_path):
    """Accelerators with these trackers, as the Trainer makes them; finished after the test."""
    made = []

    def make(*names):
        log_with = resolve_trackers(names, tmp_path)
        made.append(accelerate.Accelerator(cpu=True, log_with=log_with, project_dir=tmp_path))
        return made[-1]

    yield make
    for accelerator in made:
        for tracker in accelerator.trackers:
            tracker.finish()


def test_what_is_logged_is_read_back_exactly(make_accelerator, tmp_path):
    accelerator = make_accelerator("csv")
    start_trackers(accelerator)
    accelerator.log({"loss": 0.1 + 0.2, "skipped": 3}, step=10)
    accelerator.log({"loss": math.inf, "kl, per token": math.nan, 'a "name"': -1e-300}, step=20)
    metrics = read_metrics(tmp_path)
    assert metrics["loss"] == {"step": [10, 20], "value": [0.1 + 0.2, math.inf]}
    assert metrics["skipped"] == {"step": [10], "value": [3.0]}
    assert metrics['a "name"'] == {"step": [20], "value": [-1e-300]}
    assert math.isnan(metrics["kl, per token"]["value"][0])
    assert (tmp_path / "metrics.csv").read_text().startswith("step,name,value\n10,loss,0.30000000000000004\n")


def test_every_log_is_on_file_when_it_returns(make_accelerator, tmp_path):
    accelerator = make_accelerator("csv")
    start_trackers(accelerator)
    for step in (1, 2):
        accelerator.log({"loss": 1.0}, step=step)
        assert read_metrics(tmp_path)["loss"]["step"][-1] == step


def test_a_resume_drops_later_rows_and_goes_on(make_accelerator, tmp_path):
    accelerator = make_accelerator("csv")
    start_trackers(accelerator)
    for step in (10, 20, 30):
        accelerator.log({"loss": float(step), "kl": -float(step)}, step=step)
    accelerator = make_accelerator("csv")
    start_trackers(accelerator, 20)
    assert read_metrics(tmp_path)["loss"] == {"step": [10, 20], "value": [10.0, 20.0]}
    accelerator.log({"loss": 31.0, "new": 0.0}, step=30)
    metrics = read_metrics(tmp_path)
    assert metrics["loss"] == {"step": [10, 20, 30], "value": [10.0, 20.0, 31.0]}
    assert metrics["kl"]["step"] == [10, 20]
    assert metrics["new"]["step"] == [30]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]


def test_a_run_from_the_start_keeps_nothing(make_accelerator, tmp_path):
    accelerator = make_accelerator("csv")
    start_trackers(accelerator)
    accelerator.log({"loss": 1.0}, step=0)
    start_trackers(make_accelerator("csv"))
    assert read_metrics(tmp_path) == {}


def test_starting_again_in_one_process_writes_nothing_twice(make_accelerator, tmp_path):
    accelerator = make_accelerator("csv")
    start_trackers(accelerator)
    accelerator.log({"loss": 1.0}, step=1)
    start_trackers(accelerator, 1)
    accelerator.log({"loss": 2.0}, step=2)
    assert read_metrics(tmp_path)["loss"] == {"step": [1, 2], "value": [1.0, 2.0]}


def test_names_in_any_script_survive_a_kill_within_a_character(tmp_path):
    tracker = csv_tracker(tmp_path)
    for name in ("κλ", "a\u2028b\x0c"):
        tracker.log({name: 1.0}, step=1)
    path = tmp_path / "metrics.csv"
    assert list(read_metrics(tmp_path)) == ["κλ", "a\u2028b\x0c"]
    path.write_bytes(path.read_bytes() + "2,κ".encode()[:-1])
    assert list(read_metrics(tmp_path)) == ["κλ", "a\u2028b\x0c"]


@pytest.mark.parametrize("cut", range(1, len("20,loss,1.25\n") + 1))
def test_a_kill_within_a_line_loses_that_line_alone(cut, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n10,loss,1.5\n" + "20,loss,1.25\n"[:-cut])
    assert read_metrics(tmp_path)["loss"] == {"step": [10], "value": [1.5]}
    drop_later_rows(tmp_path, 20)
    assert path.read_text() == "step,name,value\n10,loss,1.5\n"
    csv_tracker(tmp_path).log({"loss": 1.25}, step=20)
    assert read_metrics(tmp_path)["loss"] == {"step": [10, 20], "value": [1.5, 1.25]}


@pytest.mark.parametrize("cut", range(1, len("step,name,value\n") + 1))
def test_a_kill_within_the_header_leaves_a_file_that_goes_on(cut, tmp_path):
    (tmp_path / "metrics.csv").write_text("step,name,value\n"[:-cut])
    assert read_metrics(tmp_path) == {}
    drop_later_rows(tmp_path, 5)
    csv_tracker(tmp_path).log({"loss": 1.0}, step=6)
    assert read_metrics(tmp_path)["loss"] == {"step": [6], "value": [1.0]}


def test_dropping_is_one_step(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    text = "step,name,value\n10,loss,1.5\n20,loss,1.25\n"
    path.write_text(text)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        drop_later_rows(tmp_path, 10)
    assert path.read_text() == text


@pytest.mark.parametrize("line", ["1,loss", "x,loss,1.0", "1,loss,high", "1,loss,1.0,2.0", ""])
def test_damaged_files_are_named_with_their_line(line, tmp_path):
    (tmp_path / "metrics.csv").write_text(f"step,name,value\n1,loss,1.0\n{line}\n2,loss,1.0\n")
    with pytest.raises(DataError, match=r"metrics.csv, line 3, is no row step,name,value"):
        read_metrics(tmp_path)
    with pytest.raises(DataError, match="line 3"):
        drop_later_rows(tmp_path, 1)


def test_missing_metrics_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no metrics in .*metrics.csv"):
        read_metrics(tmp_path)
    drop_later_rows(tmp_path, 3)  # nothing to drop
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_metric_is_refused_and_not_written(tmp_path):
    tracker = csv_tracker(tmp_path)
    with pytest.raises(DomainError, match="metric 'loss' must be a number, got 'high'"):
        tracker.log({"kl": 1.0, "loss": "high"}, step=1)
    with pytest.raises(DomainError, match="step must be an integer"):
        tracker.log({"loss": 1.0})
    with pytest.raises(ConfigError, match="text in one line"):
        tracker.log({"a\nb": 1.0}, step=1)
    assert list(tmp_path.iterdir()) == []


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers_module, "_is_main_process", lambda: False)
    csv_tracker(tmp_path).log({"loss": 1.0}, step=1)
    assert list(tmp_path.iterdir()) == []


def test_names_become_what_accelerate_takes(tmp_path):
    own = csv_tracker(tmp_path / "own")
    resolved = resolve_trackers(["csv", own], tmp_path)
    assert resolved[0].name == "csv"
    assert resolved[0].tracker == tmp_path / "metrics.csv"
    assert resolved[1] is own
    assert resolve_trackers([], None) == []


def test_the_default_is_the_file_of_a_run_with_a_folder(tmp_path):
    assert [tracker.name for tracker in resolve_trackers(None, tmp_path)] == ["csv"]
    assert resolve_trackers(None, None) == []


def test_a_trainer_without_a_folder_takes_trackers_that_need_none(tmp_path):
    own = csv_tracker(tmp_path)
    make_trainer(2, log_every=1, trackers=[own]).fit()
    assert read_metrics(tmp_path)["loss"]["step"] == [1, 2]
    with pytest.raises(ConfigError, match="got 'nonsense'"):
        make_trainer(trackers=("nonsense",))
    with pytest.raises(ConfigError, match="'csv' writes to the folder of the run"):
        make_trainer(trackers=("csv",))


def test_an_accelerator_brings_its_trackers_along(make_accelerator, tmp_path):
    make_trainer(2, log_every=1, accelerator=make_accelerator("csv")).fit()
    assert read_metrics(tmp_path)["loss"]["step"] == [1, 2]
    with pytest.raises(ConfigError, match=r"come with the accelerator, Accelerator\(log_with="):
        make_trainer(trackers=("csv",), folder=tmp_path, accelerator=accelerate.Accelerator(cpu=True))


def test_trackers_that_cannot_be_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"trackers are 'csv', 'tensorboard', 'wandb' or .*, got 'cvs'"):
        resolve_trackers(["csv", "cvs"], tmp_path)
    with pytest.raises(ConfigError, match="names 'csv' more than once"):
        resolve_trackers(["csv", "csv"], tmp_path)
    with pytest.raises(ConfigError, match="'csv' writes to the folder of the run"):
        resolve_trackers(["csv"], None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="'wandb' needs the package wandb: pip install wandb"):
        resolve_trackers(["wandb"], tmp_path)
    with pytest.raises(ConfigError, match=r"needs the package tensorboard: pip install 'vadd\[tensorboard\]'"):
        resolve_trackers(["tensorboard"], tmp_path)


def test_accelerate_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate.tracking", None)
    with pytest.raises(ConfigError, match=r"pip install 'vadd\[training\]'"):
        resolve_trackers(["csv"], tmp_path)


def test_tensorboard_shows_what_was_logged_and_after_a_resume_no_row_of_the_future(make_accelerator, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = make_accelerator("csv", "tensorboard")
    start_trackers(accelerator, config={"batch_size": 4, "betas": (0.9, 0.99), "minutes": None})
    for step in (10, 20, 30):
        accelerator.log({"loss": step / 4}, step=step)
    start_trackers(accelerator, 20)
    accelerator.log({"loss": 0.5, "validation/nats@4": 2.0}, step=30)
    for tracker in accelerator.trackers:
        tracker.finish()
    events = EventAccumulator(str(tmp_path / "vadd")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 2.5), (20, 5.0), (30, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("validation/nats@4")] == [(30, 2.0)]
    assert read_metrics(tmp_path)["loss"]["value"] == [2.5, 5.0, 0.5]


def test_metrics_that_cannot_be_written_are_an_error_that_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write the metrics to .*file/run/metrics.csv: .*Not a directory"):
        csv_tracker(tmp_path / "file" / "run").log({"loss": 1.0}, step=1)
    csv_tracker(tmp_path).log({"loss": 1.0}, step=1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers_module, "write_text", full)
    with pytest.raises(CheckpointError, match="No space left on device. Make room"):
        drop_later_rows(tmp_path, 1)
    assert read_metrics(tmp_path)["loss"]["value"] == [1.0]
