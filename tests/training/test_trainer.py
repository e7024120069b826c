"""One update is the SVI step; every setting changes what it names."""

import copy
import gc
import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch.optim.lr_scheduler import LambdaLR

sys.path.insert(0, str(Path(__file__).parent))
from parts import averaged_weights, make_pair, make_trainer, tokens, weights  # noqa: E402

from vadd import VADDModel  # noqa: E402
from vadd.backbones import MLPRecognition  # noqa: E402
from vadd.errors import CheckpointError, ConfigError, DataError, DomainError, NonFiniteError  # noqa: E402
from vadd.objectives import DELBO, MixedELBO, NullLatentELBO, SharedLatentELBO, StepLaw  # noqa: E402
from vadd.priors import ConditionalPrior, VampPrior  # noqa: E402
from vadd.recipes import get_recipe  # noqa: E402
from vadd.training import (  # noqa: E402
    Callback,
    Trainer,
    TrainerConfig,
    load_checkpoint,
    warmup_constant,
    warmup_cosine,
)
from vadd.training.compiling import compile_networks  # noqa: E402
from vadd.training.noise import RowNoise, keyed_generator  # noqa: E402
from vadd.training.weights import moving_average  # noqa: E402


class Recorder(Callback):
    def __init__(self):
        self.events, self.metrics, self.grad_norms = [], [], []

    def on_start(self, trainer):
        self.events.append(("start", trainer.step))

    def on_step(self, trainer):
        self.events.append(("step", trainer.step))
        self.grad_norms.append(float(trainer.grad_norm))

    def on_log(self, trainer, metrics):
        self.metrics.append({"step": trainer.step, **metrics})

    def on_validation(self, trainer, metrics):
        self.events.append(("validation", trainer.step))

    def on_save(self, trainer, folder):
        self.events.append(("save", trainer.step))

    def on_end(self, trainer, stopped):
        self.events.append(("end", stopped))

    def of(self, event):
        return [value for name, value in self.events if name == event]


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def trained(*args, **options):
    trainer = make_trainer(*args, **options)
    trainer.fit()
    return trainer


def test_an_update_is_the_step_of_svi():
    trainer = make_trainer(1, recipe="paper", optimizer=sgd, clip_norm=None, ema_decay=None, kl_schedule=None)
    model, guide = make_pair("paper")
    objective = DELBO(model.process, generator=keyed_generator("cpu", 0, "masks", 0))
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.1}), loss=objective)
    rows = torch.tensor(trainer.feed.order.rows(0))
    with RowNoise(0, 8, 8, keyed_generator("cpu", 0, "latents", 0)):
        svi.step(tokens()[rows])
    trainer.fit()
    expected = torch.cat([p.detach().flatten() for p in [*model.parameters(), *guide.parameters()]])
    torch.testing.assert_close(weights(trainer), expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(weights(trainer), weights(make_trainer(1, recipe="paper")))


def test_training_learns():
    recorder = Recorder()
    trained(300, 32, learning_rate=1e-2, log_every=50, callbacks=[recorder])
    first, last = recorder.metrics[0], recorder.metrics[-1]
    assert last["reconstruction"] < first["reconstruction"] - 0.2
    assert last["sequences_per_second"] > 0


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_make_the_same_update(parts):
    torch.set_default_dtype(torch.float64)
    try:
        whole, split = (trained(4, accumulate=k) for k in (1, parts))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(weights(split), weights(whole), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 10},
        {"learning_rate": 2e-3},
        {"betas": (0.5, 0.5)},
        {"weight_decay": 1.0},
        {"clip_norm": 1e-3},
        {"precision": "bf16"},
        {"num_updates": 7},
        {"schedule": warmup_constant(3)},
        {"kl_schedule": lambda step: 3.0},
        {"optimizer": sgd},
        {"dropout": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_of_the_update_change_the_weights(change):
    settings = {"num_updates": 6, "batch_size": 8}
    reference = weights(trained(**settings))
    assert torch.equal(weights(trained(**settings)), reference)
    assert not torch.equal(weights(trained(**{**settings, **change})), reference)


def test_the_gradient_is_clipped_to_the_norm():
    recorder, free = Recorder(), Recorder()
    start = weights(make_trainer())
    clipped = trained(1, clip_norm=1e-2, optimizer=sgd, callbacks=[recorder])
    trained(1, clip_norm=None, optimizer=sgd, callbacks=[free])
    assert recorder.grad_norms == free.grad_norms  # the norm before clipping is reported
    assert free.grad_norms[0] > 1e-2
    assert float((weights(clipped) - start).norm()) == pytest.approx(0.1 * 1e-2, rel=1e-3)


def test_the_average_is_that_of_the_weights():
    seen = []

    class Watch(Callback):
        def on_step(self, trainer):
            seen.append(weights(trainer))

    trainer = trained(6, ema_decay=0.3, callbacks=[Watch()])
    average = seen[0]
    for decay, value in zip((2 / 11, 3 / 12, 0.3, 0.3, 0.3), seen[1:], strict=True):  # it rises to its value
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(averaged_weights(trainer), average)
    plain = make_trainer(2, ema_decay=None)
    assert plain.averaged == (plain.model, plain.guide)


@pytest.mark.parametrize(("n", "decay"), [(1, 2 / 11), (3, 4 / 13), (8, 0.5), (1000, 0.5)])
def test_the_decay_of_the_average_rises_to_its_value(n, decay):
    average = torch.ones(2)
    moving_average(0.5)([average], [torch.zeros(2)], n)
    torch.testing.assert_close(average, torch.full((2,), decay))


def test_the_result_is_the_average_in_evaluation_mode():
    trainer = make_trainer(3)
    result = trainer.fit()
    assert result.model is trainer.averaged[0]
    assert not result.model.training
    assert trainer.model.training
    assert (result.stopped, result.step, result.skipped, result.exit_code) == ("finished", 3, 0, 0)
    assert result.model.sample(2, num_steps=2).shape == (2, 4)


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_result_can_be_trained_on(ema_decay):
    model, guide = make_pair()
    model.denoiser.head.requires_grad_(False)
    result = make_trainer(3, pair=(model, guide), ema_decay=ema_decay).fit()
    flags = [
        [p.requires_grad for part in pair for p in part.parameters()]
        for pair in ((model, guide), (result.model, result.guide))
    ]
    assert flags[0] == flags[1]
    assert set(flags[0]) == {True, False}
    trainer = make_trainer(3, pair=(result.model, result.guide))
    before = weights(trainer)
    trainer.fit()
    assert not torch.equal(weights(trainer), before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_are_float32_under_low_precision(precision):
    seen = []
    trainer = make_trainer(2, precision=precision)
    forward = trainer.loss.forward
    trainer.loss.forward = lambda drawn: seen.append(forward(drawn)) or seen[-1]
    linear = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: linear.append(output.dtype) if isinstance(module, torch.nn.Linear) else None
    )
    trainer.fit()
    hook.remove()
    assert {loss.dtype for loss in seen} == {torch.float32}
    assert {torch.bfloat16 if precision == "bf16" else torch.float16} <= set(linear)
    assert all(p.dtype == torch.float32 for p in trainer.pair.parameters())


def test_the_schedule_is_stepped_once_an_update():
    recorder = Recorder()
    schedule = warmup_cosine(8, 2, floor=0.1)
    trainer = trained(8, learning_rate=1.0, log_every=1, schedule=schedule, optimizer=None, callbacks=[recorder])
    factors = schedule(torch.optim.SGD([torch.zeros(1)], 1.0)).lr_lambdas[0]
    assert [m["learning_rate"] for m in recorder.metrics] == pytest.approx([factors(k) for k in range(1, 9)])
    assert isinstance(trainer.scheduler, LambdaLR)
    assert [factors(k) for k in (0, 1, 2, 8, 100)] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.1, 0.1])


def test_the_kl_weight_follows_its_schedule():
    recorder = Recorder()
    trained(4, log_every=1, kl_schedule=lambda step: step / 10, callbacks=[recorder])
    assert [m["kl_weight"] for m in recorder.metrics] == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("fails_at", [0, 3])
def test_the_objective_is_left_as_it_was(fails_at):
    generator = torch.Generator().manual_seed(1)
    trainer = make_trainer(4, kl_schedule=lambda step: step / 10, callbacks=[FailAt(fails_at)])
    trainer.objective.generator, trainer.objective.kl_weight = generator, 0.7
    before = generator.get_state()
    with pytest.raises(OSError) if fails_at else nullcontext():
        trainer.fit()
    assert trainer.objective.generator is generator
    assert torch.equal(generator.get_state(), before)
    assert trainer.objective.kl_weight == 0.7


def test_callbacks_hear_of_everything_in_order(tmp_path):
    recorder = Recorder()
    judged = []

    def judge(model, guide):
        judged.append(model.training)
        return {"validation/score": -len(judged)}

    trained(
        6,
        log_every=2,
        validate_every=3,
        save_every=2,
        keep_best=False,
        validation=judge,
        folder=tmp_path,
        callbacks=[recorder],
    )
    assert recorder.of("start") == [0]
    assert recorder.of("step") == [1, 2, 3, 4, 5, 6]
    assert recorder.of("validation") == [3, 6]
    assert recorder.of("save") == [2, 4, 6, 6]  # before the last validation, and with its score
    assert recorder.of("end") == ["finished"]
    assert [m["step"] for m in recorder.metrics] == [2, 4, 6]
    assert judged == [False, False]


def test_metrics_average_over_updates_and_parts():
    every, pairs = Recorder(), Recorder()
    trained(4, log_every=1, callbacks=[every])
    trained(4, log_every=2, accumulate=2, callbacks=[pairs])
    for name in ("loss", "reconstruction", "kl"):
        expected = [sum(m[name] for m in every.metrics[k : k + 2]) / 2 for k in (0, 2)]
        assert [m[name] for m in pairs.metrics] == pytest.approx(expected, rel=1e-4)


class Poison(Callback):
    """Makes the gradients of chosen updates NaN."""

    def __init__(self, trainer, *steps):
        self.trainer, self.steps = trainer, steps
        self.parameter = next(iter(trainer.pair.parameters()))
        self.parameter.register_hook(lambda g: g * torch.nan if trainer.step in steps else g)


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    trainer = make_trainer(5, on_nonfinite="skip")
    Poison(trainer, 2, 3)
    seen = [weights(trainer)]

    class Watch(Callback):
        def on_step(self, trainer):
            seen.append(weights(trainer))

    trainer.callbacks.append(Watch())
    result = trainer.fit()
    assert result.skipped == 2
    assert result.step == 5
    moved = [not torch.equal(a, b) for a, b in zip(seen[:-1], seen[1:], strict=True)]
    assert moved == [True, True, False, False, True]
    assert bool(averaged_weights(trainer).isfinite().all())


def test_too_many_skipped_in_a_row_stop_training():
    trainer = make_trainer(9, on_nonfinite="skip", max_skipped=2)
    Poison(trainer, *range(2, 9))
    with pytest.raises(NonFiniteError, match=r"after 3 skipped updates in a row.*\. Start in another folder"):
        trainer.fit()
    assert trainer.step == 4


def test_otherwise_training_stops_and_keeps_the_batch(tmp_path):
    trainer = make_trainer(5, folder=tmp_path)
    Poison(trainer, 2)
    before = []

    class Watch(Callback):
        def on_step(self, trainer):
            before.append(weights(trainer))

    trainer.callbacks.append(Watch())
    with pytest.raises(NonFiniteError, match="update 3 stopped: with latents drawn again the loss is finite") as caught:
        trainer.fit()
    assert torch.equal(weights(trainer), before[-1])
    from safetensors.torch import load_file

    batch = load_file(tmp_path / "nonfinite-3.safetensors")
    assert str(tmp_path / "nonfinite-3.safetensors") in str(caught.value)
    assert torch.equal(batch["x_0"], tokens()[torch.tensor(trainer.feed.order.rows(2))])
    assert {"x_t", "t", "is_masked"} <= batch.keys()


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_loss_that_is_not_finite_is_explained():
    trainer = make_trainer(3)
    with torch.no_grad():
        trainer.model.denoiser.head.weight[0] = torch.nan
    with pytest.raises(NonFiniteError, match="log-likelihood of 'x_0' in .* rows, at t ="):
        trainer.fit()


def test_time_ends_training_and_it_goes_on(tmp_path):
    first = make_trainer(10_000, minutes=0.003, folder=tmp_path)
    result = first.fit()
    assert (result.stopped, result.exit_code) == ("time", 0)
    assert 0 < result.step < 10_000
    second = make_trainer(result.step + 2, folder=tmp_path)
    assert second.fit().step == result.step + 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_with_a_clear_word(tmp_path, capsys, number):
    class Kill(Callback):
        def on_step(self, trainer):
            if trainer.step == 3:
                os.kill(os.getpid(), number)

    result = make_trainer(50, folder=tmp_path, callbacks=[Kill()]).fit()
    assert result.stopped == "signal"
    assert result.exit_code == 128 + number
    assert result.step in (3, 4)
    said = capsys.readouterr().err
    assert f"interrupted by signal {int(number)} at update {result.step} of 50: saved to {tmp_path}" in said
    assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_data_that_cannot_be_read_end_training_saved(tmp_path):
    class Rows(torch.utils.data.Dataset):
        reads = 0

        def __len__(self):
            return 50

        def __getitem__(self, index):
            Rows.reads += 1
            if Rows.reads > 20:
                raise OSError("the disk is gone")
            return tokens()[index]

    trainer = make_trainer(9, data=Rows(), folder=tmp_path)
    with pytest.raises(DataError, match="the disk is gone") as caught:
        trainer.fit()
    assert "training ended after update 2: saved to" in caught.value.__notes__[0]
    assert make_trainer(9, folder=tmp_path).fit().step == 9


def snapshots(folder):
    return sorted(path.name for path in folder.glob("snapshots/*"))


def test_a_run_that_stopped_at_a_gradient_goes_on_by_skipping_it(tmp_path):
    whole = make_trainer(6, on_nonfinite="skip")
    Poison(whole, 3)
    assert whole.fit().skipped == 1
    first = make_trainer(6, folder=tmp_path)
    Poison(first, 3)
    with pytest.raises(NonFiniteError) as caught:
        first.fit()
    assert "training ended after update 3: saved to" in caught.value.__notes__[0]
    second = make_trainer(6, folder=tmp_path, on_nonfinite="skip")
    Poison(second, 3)
    assert second.fit().skipped == 1
    assert torch.equal(weights(second), weights(whole))
    assert torch.equal(averaged_weights(second), averaged_weights(whole))


class FailAt(Callback):
    def __init__(self, step, error=OSError):
        self.step, self.error = step, error

    def on_step(self, trainer):
        if trainer.step == self.step:
            raise self.error("the disk is full")


def test_what_was_done_before_a_callback_failed_is_saved(tmp_path):
    with pytest.raises(OSError, match="the disk is full") as caught:
        trained(6, folder=tmp_path, callbacks=[FailAt(4)])
    assert caught.value.__notes__ == [f"training ended after update 4: saved to {tmp_path}/snapshots/step-0000000004."]
    assert torch.equal(weights(trained(6, folder=tmp_path)), weights(trained(6)))


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({}, "there is no folder"),
        ({"processes": 2}, "other processes may go on"),
        ({"is_full": True}, "failed, too: no"),
    ],
)
def test_an_error_says_why_nothing_was_saved(tmp_path, monkeypatch, options, note):
    trainer = make_trainer(6, callbacks=[FailAt(4)], folder=tmp_path if options else None)

    def on_step(trainer):
        if "processes" in options:
            trainer.processes.num = 2
        raise OSError("the disk is full")

    def save(*args, **kwargs):
        raise CheckpointError("no room")

    trainer.callbacks[0].on_step = on_step
    if "is_full" in options:
        monkeypatch.setattr(trainer.run.snapshots, "save", save)
    with pytest.raises(OSError, match="the disk is full") as caught:
        trainer.fit()
    assert f"training ended after update 1: not saved, as {note}" in caught.value.__notes__[0].replace("that ", "")
    assert snapshots(tmp_path) == []


def test_an_update_that_is_half_made_is_not_saved(tmp_path):
    trainer = make_trainer(6, folder=tmp_path)
    step = trainer.optimizer.step

    def fail(*args, **options):
        if trainer.step == 2:
            with torch.no_grad():
                next(iter(trainer.pair.parameters())).add_(1.0)
            raise RuntimeError("out of memory")
        return step(*args, **options)

    trainer.optimizer.step = fail
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        trainer.fit()
    assert caught.value.__notes__ == ["training ended after update 2: not saved, as update 3 is half made."]
    assert snapshots(tmp_path) == []


@pytest.mark.parametrize("at", [0, 2])
def test_nothing_is_saved_where_nothing_was_done_or_the_user_wants_out(tmp_path, at):
    trainer = make_trainer(6, folder=tmp_path, callbacks=[FailAt(at, KeyboardInterrupt)])
    if at == 0:
        trainer.loss.forward = None
    with pytest.raises((KeyboardInterrupt, TypeError)) as caught:
        trainer.fit()
    assert not hasattr(caught.value, "__notes__")
    assert snapshots(tmp_path) == []


def test_the_last_validation_may_fail(tmp_path):
    def broken(model, guide):
        assert snapshots(tmp_path) == ["step-0000000003"]  # should this process be killed now
        raise ValueError("no such metric")

    def judge(model, guide):
        judged.append(1)
        return {"validation/score": 1.5}

    with pytest.raises(ValueError, match="no such metric") as caught:
        trained(3, folder=tmp_path, validation=broken)
    assert "saved to" in caught.value.__notes__[0]
    judged = []
    for _ in range(2):  # what was not judged is judged once
        trainer = trained(3, folder=tmp_path, validation=judge)
        found = trainer.run.snapshots.load_latest()
        assert (found.step, found.score, found.metadata["metrics"]["validation/score"]) == (3, 1.5, 1.5)
    assert judged == [1]
    trained(5, folder=tmp_path, validation=judge)
    assert judged == [1, 1]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"num_updates": 0}, DomainError),
        ({"batch_size": -1}, DomainError),
        ({"accumulate": 3}, ConfigError),
        ({"learning_rate": 0.0}, DomainError),
        ({"learning_rate": "high"}, DomainError),
        ({"weight_decay": -1.0}, DomainError),
        ({"weight_decay": float("inf")}, DomainError),
        ({"ema_decay": 1.0}, DomainError),
        ({"clip_norm": 0.0}, DomainError),
        ({"minutes": float("nan")}, DomainError),
        ({"log_every": 0}, DomainError),
        ({"betas": (0.9, 1.0)}, DomainError),
        ({"betas": ("a", 0.9)}, DomainError),
        ({"betas": 0.9}, DomainError),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_wrong_settings_are_named(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        TrainerConfig(**{"num_updates": 5, "batch_size": 8, **settings})


@pytest.mark.usefixtures("_unchecked")
def test_ends_that_are_left_out_are_shown():
    with pytest.raises(DomainError, match=r"^learning_rate must be a finite number in \(0, inf\), got 0\.$"):
        TrainerConfig(5, 8, learning_rate=0)
    with pytest.raises(DomainError, match=r"^ema_decay must be a finite number in \[0, 1\), got 1\.$"):
        TrainerConfig(5, 8, ema_decay=1)


ADAM = torch.optim.Adam([torch.zeros(1)])


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", None, "model must be a VADDModel.*, got NoneType"),
        ("guide", "guide", "guide must be a RecognitionGuide.*, got str"),
        ("model", torch.nn.Linear(2, 2), "model must be a VADDModel, got Linear"),
        ("objective", "x", r"objective must be a DiffusionELBO, got str; for example DELBO\(model.process\)"),
        ("objective", DELBO, "objective must be a DiffusionELBO, got the class DELBO"),
        ("config", {"num_updates": 5}, "config must be a TrainerConfig, got dict"),
        ("callbacks", [Callback], "callbacks must be of subclasses of Callback, got type"),
        ("optimizer", ADAM, "optimizer must be a function of the parameters, got Adam; for example lambda"),
        (
            "schedule",
            torch.optim.lr_scheduler.StepLR,
            "schedule must be a function of the optimizer, got the class Ste",
        ),
        ("kl_schedule", 3, "kl_schedule must be a function of the number of the update, got int; .*recipe"),
        ("validation", 3, "validation must be a function of model and guide, got int; .*BoundValidation"),
        ("validation", lambda model: {}, "validation must be a function of model and guide, got function"),
    ],
)
def test_a_part_of_another_type_is_named(name, value, message):
    model, guide = make_pair()
    parts = {"model": model, "guide": guide, "objective": DELBO(model.process), "config": TrainerConfig(5, 8)}
    with pytest.raises(ConfigError, match=message):
        Trainer(**{**parts, "data": tokens(), name: value})


@pytest.mark.usefixtures("_unchecked")
def test_a_swapped_pair_is_not_trained():
    model, guide = make_pair()
    with pytest.raises(ConfigError, match="swapped"):
        Trainer(guide, model, DELBO(model.process), tokens(), TrainerConfig(5, 8))


def test_parts_that_do_not_fit():
    with pytest.raises(ConfigError, match="validate needs a validation"):
        make_trainer().validate()
    pair = make_pair()
    for part in pair:
        part.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"):
        make_trainer(pair=pair)
    with pytest.raises(ConfigError, match="one length"):
        make_trainer(data={"x_0": tokens(), "condition": torch.zeros(3)})
    for data in ({"x_0": tokens(), "label": torch.zeros(50)}, {"condition": torch.zeros(50)}, {}):
        with pytest.raises(ConfigError, match="data must be tokens, or mappings of x_0 and any of is_frozen"):
            make_trainer(data=data)


def test_functions_that_fit_are_taken():
    model, guide = make_pair()
    parts = (model, guide, DELBO(model.process), tokens(), TrainerConfig(5, 8))
    scheduler = torch.optim.lr_scheduler.ConstantLR  # classes that need no more than they are given
    trainer = Trainer(*parts, optimizer=torch.optim.Adam, schedule=scheduler, validation=dict, progress=False)
    assert isinstance(trainer.scheduler, scheduler)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("score", [1.5, None, [1.5]], ids=repr)
def test_a_validation_must_name_its_metrics(score):
    with pytest.raises(
        ConfigError, match=f"what validation returns must be a Mapping, got {type(score).__name__}; for"
    ):
        make_trainer(validation=lambda model, guide: score).validate()


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 0.0), "num_updates must be an integer of at least 1, got 0"),
        ((10, -1, 0.0), "warmup must be an integer of at least 0"),
        ((10, 2, 1.5), r"floor must be a finite number in \[0, 1\]"),
        ((10, 2, "0"), "floor must be a finite number"),
    ],
    ids=str,
)
def test_learning_rates_of_no_run_are_refused(arguments, message):
    num_updates, warmup, floor = arguments
    with pytest.raises(DomainError, match=message):
        warmup_cosine(num_updates, warmup, floor=floor)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    trained(3, folder=tmp_path)
    with pytest.raises(ConfigError, match="holds a run at update 3"):
        make_trainer(3, folder=tmp_path).fit(resume=False)
    with pytest.raises(CheckpointError, match="batch_size 8, now 10"):
        make_trainer(6, 10, folder=tmp_path).fit()
    with pytest.raises(CheckpointError, match="another model"):
        make_trainer(6, folder=tmp_path, recipe="paper", objective=get_recipe("default").objective).fit()


@pytest.mark.slow
def test_memory_does_not_grow():
    psutil = pytest.importorskip("psutil")
    trainer = make_trainer(2000, 4, log_every=100, recipe="paper")
    used = []

    class Watch(Callback):
        def on_step(self, trainer):
            if trainer.step in (500, 2000):
                gc.collect()
                used.append((psutil.Process().memory_info().rss, len(gc.get_objects())))

    trainer.callbacks.append(Watch())
    trainer.fit()
    (bytes_before, objects_before), (bytes_after, objects_after) = used
    assert bytes_after - bytes_before < 8 * 2**20
    assert objects_after - objects_before < 500


def test_tokens_out_of_range_are_noticed_whenever_they_come():
    data = tokens()
    trainer = make_trainer(6, data=data)
    data[trainer.feed.order.rows(3)[0], 0] = 3  # the mask token, in the fourth batch
    with pytest.raises(DomainError, match="x_0"):
        trainer.fit()
    assert trainer.step == 3


def test_settings_that_would_do_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="save_every needs folder"):
        make_trainer(6, save_every=2)
    with pytest.raises(ConfigError, match="validate_every needs validation"):
        make_trainer(6, validate_every=2, folder=tmp_path)


def test_a_run_does_not_go_back(tmp_path):
    trained(5, folder=tmp_path)
    with pytest.raises(CheckpointError, match="at update 5, beyond num_updates=4"):
        make_trainer(4, folder=tmp_path).fit()


@pytest.mark.parametrize("policy", ["skip", "stop"])
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_the_first_update_is_no_exception(tmp_path, policy):
    trainer = make_trainer(3, on_nonfinite=policy, folder=tmp_path)
    Poison(trainer, 0)
    loss = trainer.loss.forward
    trainer.loss.forward = lambda part: loss(part) * (torch.nan if trainer.step == 0 else 1.0)
    if policy == "skip":
        assert trainer.fit().skipped == 1
    else:
        with pytest.raises(NonFiniteError, match="update 1 stopped"):
            trainer.fit()
        assert (tmp_path / "nonfinite-1.safetensors").exists()


def test_a_resumed_run_keeps_its_optimizer_and_its_data(tmp_path):
    trained(3, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"learning_rate 0.001, now 0.01; betas \[0.9, 0.99\], now"):
        make_trainer(6, folder=tmp_path, learning_rate=0.01, betas=(0.5, 0.5)).fit()
    with pytest.raises(CheckpointError, match="50 rows of data, now 49"):
        make_trainer(6, folder=tmp_path, data=tokens(49)).fit()
    with pytest.raises(CheckpointError, match="clip_norm 1.0, now None"):
        make_trainer(6, folder=tmp_path, clip_norm=None).fit()


def mixed(share, **options):
    def make(process):
        parts = [(SharedLatentELBO(process, StepLaw.uniform([1, 2])), share), (NullLatentELBO(process), 1 - share)]
        return MixedELBO(parts, **options)

    return make


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (DELBO, NullLatentELBO, "an objective of class DELBO, now NullLatentELBO"),
        (partial(DELBO, free_bits=1.0), DELBO, "an objective of free_bits 1.0, now 0.0"),
        (DELBO, partial(DELBO, times="uniform"), "an objective of times count, now uniform"),
        (mixed(0.5), mixed(0.25), r"an objective of shares \(0.5, 0.5\), now \(0.25, 0.75\)"),
        (mixed(0.5), DELBO, "an objective of class MixedELBO, now DELBO"),
    ],
)
def test_a_resumed_run_keeps_its_objective(tmp_path, before, now, message):
    trained(2, folder=tmp_path, objective=before)
    with pytest.raises(CheckpointError, match=message):
        make_trainer(4, folder=tmp_path, objective=now).fit()
    assert make_trainer(4, folder=tmp_path, objective=before, kl_schedule=lambda step: 0.5).fit().step == 4


def test_snapshots_of_early_versions_do_not_tell_their_objective(tmp_path):
    trainer = make_trainer(2, folder=tmp_path)
    noted = trainer.run._metadata
    trainer.run._metadata = lambda: {k: v for k, v in noted().items() if k not in ("objective", "judged_at")}
    trainer.fit()
    assert make_trainer(4, folder=tmp_path, objective=DELBO).fit().step == 4


def test_a_snapshot_of_something_else_is_named(tmp_path):
    trainer = make_trainer(2, folder=tmp_path)
    trainer.run._metadata = dict
    trainer.fit()
    with pytest.raises(CheckpointError, match="not of a Trainer: it lacks 'config'"):
        make_trainer(4, folder=tmp_path).fit()


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (warmup_constant(3), None, "a schedule, now without one"),
        (None, warmup_constant(3), "no schedule, now with one"),
    ],
    ids=["with", "without"],
)
def test_a_resumed_run_keeps_its_schedule(tmp_path, before, now, message):
    trained(3, folder=tmp_path, schedule=before)
    with pytest.raises(CheckpointError, match=message):
        make_trainer(6, folder=tmp_path, schedule=now).fit()


def test_a_scheduler_that_counts_goes_on(tmp_path):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4, 4], gamma=0.1)

    options = {"schedule": schedule, "kl_schedule": None}
    whole = trained(6, **options)
    trained(3, **options, folder=tmp_path)
    resumed = trained(6, **options, folder=tmp_path)
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)
    assert torch.equal(weights(resumed), weights(whole))


def test_what_cannot_be_stored_is_known_before_training(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"seen": {1, 2}}

    trainer = make_trainer(3, callbacks=[Odd()], folder=tmp_path)
    with pytest.raises(ConfigError, match="of type set, which cannot be stored"):
        trainer.fit()
    assert trainer.step == 0


def test_a_pair_that_cannot_be_stored_is_known_before_training(tmp_path):
    model, guide = make_pair()
    other = copy.deepcopy(guide.recognition)
    model = VADDModel(model.denoiser, VampPrior.from_data(other, tokens(), 3), model.process)
    trainer = make_trainer(3, pair=(model, guide), folder=tmp_path)
    with pytest.raises(ConfigError, match="VampPrior shares another recognition network"):
        trainer.fit()
    assert trainer.step == 0


def test_a_run_with_a_part_that_is_not_registered_is_stored(tmp_path):
    class Plain(MLPRecognition):
        pass

    def prior():
        return ConditionalPrior(Plain(3, 4, 2, hidden_size=4, depth=1), 3)

    model, guide = make_pair()
    model = VADDModel(model.denoiser, prior(), model.process)
    result = make_trainer(2, pair=(model, guide), folder=tmp_path).fit()
    loaded = load_checkpoint(tmp_path / "snapshots/step-0000000002/model", prior=prior()).model
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), result.model.parameters(), strict=True))


class NoisyRows(torch.utils.data.Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return (tokens()[index] + torch.randint(3, (1,))) % 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_noise_of_the_rows_is_that_of_an_undisturbed_run(tmp_path, num_workers):
    options = {"data": NoisyRows(), "kl_schedule": None}
    whole = trained(6, **options)
    trained(3, **options, folder=tmp_path)
    resumed = trained(6, **options, folder=tmp_path, num_workers=num_workers)
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(whole), weights(trained(6, kl_schedule=None)))


def test_a_copy_of_a_compiled_network_runs_its_own_weights(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    model, guide = make_pair()
    compile_networks(model, guide)
    copied = copy.deepcopy(model)
    assert copied.denoiser.features.denoiser is copied.denoiser
    x_t, t, z = tokens(2), torch.ones(2), torch.zeros(2, 2)
    before = copied.denoiser.features(x_t, t, z)
    with torch.no_grad():
        next(iter(model.denoiser.parameters())).add_(1.0)
    assert torch.equal(copied.denoiser.features(x_t, t, z), before)
    assert not torch.equal(model.denoiser.features(x_t, t, z), before)


def test_updates_draw_times_masks_and_latents_of_their_own():
    data = tokens()[:8].expand(8, -1)
    trainer = make_trainer(3, data=data)  # every batch holds the same rows, in another order
    drawn, noise = [], []
    draw, forward = trainer.objective.draw, trainer.loss.forward
    trainer.objective.draw = lambda *args, **options: drawn.append(draw(*args, **options)) or drawn[-1]

    def watch(part):
        loss = forward(part)
        noise.append(torch.randn(4))  # what a network's dropout would meet
        return loss

    trainer.loss.forward = watch
    trainer.fit()
    for k in range(2):
        assert not torch.equal(drawn[k].batch.t, drawn[k + 1].batch.t)
        assert not torch.equal(drawn[k].batch.is_masked, drawn[k + 1].batch.is_masked)
        assert not torch.equal(noise[k], noise[k + 1])
