"""Settings that change what is kept, read, said and when: each is seen to do what it names."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parts import make_trainer, tokens  # noqa: E402

from vadd.training import BoundValidation, Callback, Snapshots, TrainerConfig, read_metrics  # noqa: E402


def steps_kept(folder):
    return sorted(int(path.name.split("-")[1]) for path in (folder / "snapshots").iterdir())


def scored(*scores):
    """A validation with given scores, one after the other."""
    left = iter(scores)
    return lambda model, guide: {"validation/score": next(left)}


@pytest.mark.parametrize("keep_last", [1, 3])
def test_the_latest_snapshots_are_kept(tmp_path, keep_last):
    make_trainer(8, save_every=2, keep_last=keep_last, folder=tmp_path).fit()
    assert steps_kept(tmp_path) == [2, 4, 6, 8][-keep_last:]


@pytest.mark.parametrize(("keep_best", "expected"), [(True, [4, 8]), (False, [8])])
def test_the_best_snapshot_is_kept(tmp_path, keep_best, expected):
    settings = {"validate_every": 2, "keep_last": 1, "keep_best": keep_best, "save_every": 2}
    make_trainer(8, **settings, validation=scored(3.0, 1.0, 2.0, 2.0), folder=tmp_path).fit()
    assert steps_kept(tmp_path) == expected
    if keep_best:
        assert Snapshots(tmp_path / "snapshots").best.name.endswith("4")


def test_the_best_is_saved_when_it_is_found_and_known_after_a_resume(tmp_path):
    settings = {"validate_every": 2, "keep_last": 1}
    make_trainer(4, **settings, validation=scored(1.0, 2.0), folder=tmp_path).fit()
    assert steps_kept(tmp_path) == [2, 4]
    make_trainer(8, **settings, validation=scored(1.5, 1.5), folder=tmp_path).fit()
    assert steps_kept(tmp_path) == [2, 8]


def test_a_bound_is_a_validation(tmp_path):
    validation = BoundValidation(tokens(12, seed=3), num_steps=(1, 2), num_latents=2)
    trainer = make_trainer(4, validate_every=2, validation=validation, folder=tmp_path)
    trainer.fit()
    found = read_metrics(tmp_path)
    assert found["validation/nats@1"]["step"] == [2, 4]
    again = validation.reduce(None, validation(*trainer.averaged))
    assert found["validation/nats@2"]["value"][-1] == pytest.approx(again["validation/nats@2"], rel=1e-6)


@pytest.mark.parametrize("log_every", [1, 3])
def test_metrics_are_logged_as_often_as_asked(tmp_path, log_every):
    make_trainer(6, log_every=log_every, folder=tmp_path).fit()
    assert read_metrics(tmp_path)["loss"]["step"] == list(range(log_every, 7, log_every))


class Readers(torch.utils.data.Dataset):
    """Rows that say which process read them."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return {"x_0": tokens()[index], "condition": torch.tensor(os.getpid())}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_read_the_data(num_workers):
    readers = set()
    trainer = make_trainer(4, num_workers=num_workers, data=Readers())
    draw = trainer.objective.draw

    def watch(model, x_0, **options):
        readers.update(options.pop("condition").tolist())
        return draw(model, x_0, **options)

    trainer.objective.draw = watch
    trainer.fit()
    assert (os.getpid() in readers) == (num_workers == 0)
    assert len(readers) == max(1, num_workers)


def test_minutes_end_training_at_the_time():
    seen = []

    class Watch(Callback):
        def on_step(self, trainer):
            seen.append(trainer.step)

    result = make_trainer(100_000, minutes=0.01, callbacks=[Watch()]).fit()
    assert result.stopped == "time"
    assert result.seconds < 30
    assert seen[-1] == result.step < 100_000


def test_every_setting_is_in_a_test():
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    names = TrainerConfig.__dataclass_fields__
    untested = [name for name in names if f"{name}=" not in source and f'"{name}"' not in source]
    assert untested == []


def test_a_snapshot_says_what_it_is(tmp_path):
    make_trainer(6, 10, log_every=2, folder=tmp_path, validation=scored(1.5)).fit()
    found = Snapshots(tmp_path / "snapshots").load_latest()
    assert found.metadata["config"] == TrainerConfig(6, 10, log_every=2).to_json()
    assert (found.step, found.metadata["sequences_read"], found.metadata["epoch"]) == (6, 60, 60 / 50)
    assert found.metadata["metrics"]["validation/score"] == 1.5
    assert found.metadata["metrics"]["kl"] == read_metrics(tmp_path)["kl"]["value"][-1]
