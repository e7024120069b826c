"""Callbacks beside training: they show, draw and watch, and leave the training alone."""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.errors import CheckpointError, ConfigError, DomainError
from vadd.priors import StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.training import BoundValidation, read_metrics
from vadd.training.callbacks import Callback, ProgressBar, SamplePictures, WatchLatent

sys.path.insert(0, str(Path(__file__).parent))
import parts  # noqa: E402

VOCAB, LENGTH, LATENT = 5, 3, 2
SIZE = {"hidden_size": 16, "depth": 1, "embedding_size": 4, "modulation_size": 8, "dropout": 0.5}
METRICS = {"loss": 3.456, "reconstruction": 3.0, "kl": 0.456, "grad_norm": 1.0, "sequences_per_second": 1234.5}


def make_pair():
    model = VADDModel(
        MLPDenoiser(VOCAB, LENGTH, LATENT, **SIZE),
        StandardNormalPrior(LATENT),
        MaskingProcess(LinearSchedule(), VOCAB),
    )
    guide = RecognitionGuide(MLPRecognition(VOCAB, LENGTH, LATENT, **SIZE))
    for network in (model, guide):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model, guide


class Trainer(SimpleNamespace):
    """Has what callbacks use of a trainer, and calls them as one does."""

    def __init__(self, *callbacks, folder=None, num_updates=10, step=0, is_main=True, averaged=None):
        super().__init__(callbacks=callbacks, folder=folder, step=step, is_main=is_main, logged=[])
        self.averaged = averaged or make_pair()
        self.gather = lambda: None
        self.config = SimpleNamespace(num_updates=num_updates)
        self.accelerator = SimpleNamespace(log=lambda values, step: self.logged.append((step, values)))

    def call(self, event, *values):
        for callback in self.callbacks:
            getattr(callback, event)(self, *values)

    def fit(self, num=None, metrics=METRICS):
        self.call("on_start")
        for _ in range(num or self.config.num_updates - self.step):
            self.step += 1
            self.call("on_step")
            self.call("on_log", metrics)
        self.call("on_end", "finished")


def sequences(num=8):
    return torch.randint(VOCAB, (num, LENGTH), generator=torch.Generator().manual_seed(1))


def test_a_callback_need_not_do_anything():
    Trainer(Callback()).fit()
    assert Callback().state_dict() == {}
    Callback().load_state_dict({})


def test_the_bar_shows_losses_and_speed_and_ends_at_the_last_update(capsys):
    Trainer(ProgressBar(disable=False)).fit()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "10/10" in last
    assert "loss=3.46, reconstruction=3.00, kl=0.46, seq/s=1234" in last
    assert last.endswith("\n")


def test_the_bar_goes_on_after_a_resume(capsys):
    Trainer(ProgressBar(disable=False), step=7).fit(1, {})
    shown = capsys.readouterr().err.split("\r")
    assert "7/10" in shown[1]
    assert "8/10" in shown[-1]


@pytest.mark.parametrize("options", [{"disable": True}, {"disable": None}])
def test_there_is_no_bar_where_it_is_switched_off_or_nobody_watches(options, capsys):
    Trainer(ProgressBar(**options)).fit()
    assert capsys.readouterr().err == ""


def test_there_is_one_bar_for_all_processes(capsys):
    Trainer(ProgressBar(disable=False), is_main=False).fit()
    assert capsys.readouterr().err == ""


def test_the_bar_is_closed_by_an_error_and_by_a_second_end(capsys):
    bar = ProgressBar(disable=False)
    trainer = Trainer(bar)
    trainer.call("on_end", "error")  # before it was opened
    trainer.call("on_start")
    trainer.step += 1
    trainer.call("on_step")
    shown = bar._bar
    trainer.call("on_end", "error")
    assert shown.disable  # closed, not left to the garbage collector
    assert capsys.readouterr().err.endswith("\n")
    trainer.call("on_end", "error")
    trainer.call("on_step")
    assert capsys.readouterr().err == ""


def test_pictures_come_every_so_many_updates_with_samples_of_each_number_of_steps(tmp_path):
    drawn = []

    def draw(path, samples):
        assert path.parent.is_dir()
        drawn.append((path, samples))

    pictures = SamplePictures(4, draw, num_samples=3, num_steps=(1, 2))
    Trainer(pictures, folder=tmp_path).fit()
    assert [path for path, _ in drawn] == [tmp_path / "samples" / f"step-000000{k}.png" for k in (4, 8)]
    for _, samples in drawn:
        assert list(samples) == ["1 step", "2 steps"]
        assert all(x.shape == (3, LENGTH) and x.dtype == torch.int64 for x in samples.values())
        assert all(bool(((x >= 0) & (x < VOCAB)).all()) for x in samples.values())
    assert not torch.equal(drawn[0][1]["1 step"], drawn[0][1]["2 steps"])


def test_pictures_are_of_the_averaged_model_and_differ_by_it_alone(tmp_path):
    drawn = []
    pictures = SamplePictures(1, lambda path, x: drawn.append(x["4 steps"]), tmp_path, 64, (4,), seed=3)
    trainer = Trainer(pictures)  # no folder of its own
    trainer.fit(2)
    trainer.averaged = make_pair()
    trainer.fit(1)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    expected = trainer.averaged[0].sample(64, num_steps=4, seed=3)
    assert torch.equal(drawn[2], expected)


def test_options_of_the_sampler_are_passed_on(tmp_path):
    drawn = []
    pictures = SamplePictures(1, lambda path, x: drawn.append(x["3 steps"]), tmp_path, 8, (3,), latents="null", top_k=1)
    trainer = Trainer(pictures)
    trainer.fit(1)
    assert torch.equal(drawn[0], trainer.averaged[0].sample(8, num_steps=3, latents="null", top_k=1, seed=0))


@pytest.mark.usefixtures("_unchecked")
def test_pictures_and_watch_leave_modes_random_state_and_gradients_alone(tmp_path):
    model, guide = make_pair()
    model.prior.eval()
    trainer = Trainer(
        SamplePictures(1, lambda path, x: torch.rand(1), tmp_path),
        WatchLatent(sequences(), every=1),
        averaged=(model, guide),
    )

    def state():
        modes = [part.training for network in trainer.averaged for part in network.modules()]
        gradients = [p.grad for network in trainer.averaged for p in network.parameters()]
        return torch.random.get_rng_state().tolist(), modes, gradients, torch.is_grad_enabled()

    before = state()
    trainer.fit(2)
    assert state() == before


def test_pictures_are_drawn_in_the_main_process_alone(tmp_path):
    pictures = SamplePictures(1, lambda path, x: pytest.fail("drawn"))
    Trainer(pictures, folder=tmp_path, is_main=False).fit()
    assert list(tmp_path.iterdir()) == []


def test_pictures_without_a_place_or_with_bad_numbers_are_refused():
    with pytest.raises(ConfigError, match="SamplePictures needs a folder"):
        Trainer(SamplePictures(1, print)).fit()
    for options in ({"every": 0}, {"num_samples": 0}, {"num_steps": (0,)}):
        with pytest.raises(DomainError, match=f"{next(iter(options))} must be an integer of at least 1"):
            SamplePictures(**{"every": 1, "draw": print, **options})
    for num_steps in ((), (2, 2)):
        with pytest.raises(DomainError, match="each once"):
            SamplePictures(1, print, num_steps=num_steps)


def test_options_that_no_sampler_takes_are_refused_at_once():
    with pytest.raises(ConfigError, match="SamplePictures takes no option foo, temprature; it passes on .*temperature"):
        SamplePictures(1, print, temprature=0.5, foo=1)


@pytest.mark.usefixtures("_unchecked")
def test_checks_of_the_latent_go_to_the_trackers():
    watch = WatchLatent(sequences(), every=4, num_latents=4)
    trainer = Trainer(watch)
    trainer.fit()
    history = watch.monitor.history
    assert history["step"] == [step for step, _ in trainer.logged] == [4, 8]
    for k, (_, metrics) in enumerate(trainer.logged):
        names = ["kl", "mutual_information", "prior_gap", "mixture_off_loss", "active_units"]
        assert list(metrics) == [f"latent/{name}" for name in [*names, "is_dead"]]
        assert all(metrics[f"latent/{name}"] == history[name][k] for name in names)
        assert metrics["latent/is_dead"] == 0
    assert (watch.monitor.model, watch.monitor.guide) == trainer.averaged


@pytest.mark.usefixtures("_unchecked")
def test_a_dead_latent_is_reported_and_what_is_not_finite_left_out():
    watch = WatchLatent(sequences(), every=1, num_latents=4, warm_up=0, patience=1)
    trainer = Trainer(watch)
    with torch.no_grad():
        for parameter in trainer.averaged[1].parameters():
            parameter.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(1)
    assert watch.monitor.state == "dead"
    assert trainer.logged[0][1]["latent/is_dead"] == 1
    for values in watch.monitor.history.values():
        values.append(None if values is watch.monitor.history["kl"] else values[-1])
    watch.monitor.__class__ = type("Still", (type(watch.monitor),), {"__call__": lambda self, step: "made"})
    trainer.step = 5
    watch.on_step(trainer)
    assert "latent/kl" not in trainer.logged[-1][1]
    assert "latent/prior_gap" in trainer.logged[-1][1]


@pytest.mark.usefixtures("_unchecked")
def test_the_history_of_the_latent_goes_on_after_a_resume():
    averaged = make_pair()
    whole = WatchLatent(sequences(), every=2, num_latents=4)
    Trainer(whole, averaged=averaged).fit()
    first = WatchLatent(sequences(), every=2, num_latents=4)
    Trainer(first, averaged=averaged).fit(5)
    state = json.loads(json.dumps(first.state_dict()))
    second = WatchLatent(sequences(), every=2, num_latents=4)
    second.load_state_dict(state)
    assert second.state_dict() == state  # before it starts, in other processes
    Trainer(second, averaged=averaged, step=5).fit()
    assert second.monitor.history == whole.monitor.history
    assert second.state_dict() == whole.state_dict()


@pytest.mark.usefixtures("_unchecked")
def test_a_check_from_before_a_resume_is_not_reported_again():
    first = WatchLatent(sequences(), every=4, num_latents=4)
    Trainer(first).fit(4)
    second = WatchLatent(sequences(), every=3, num_latents=4)
    second.load_state_dict(first.state_dict())
    trainer = Trainer(second, step=4)
    trainer.fit()
    assert [step for step, _ in trainer.logged] == second.monitor.history["step"][1:] == [9]


@pytest.mark.usefixtures("_unchecked")
def test_a_second_training_in_one_process_goes_on():
    watch = WatchLatent(sequences(), every=2, num_latents=4)
    trainer = Trainer(watch)
    trainer.fit(4)
    trainer.fit(4)
    assert watch.monitor.history["step"] == [2, 4, 6, 8]


def test_other_processes_do_not_watch():
    watch = WatchLatent(sequences(), every=1)
    trainer = Trainer(watch, is_main=False)
    trainer.fit()
    assert (watch.monitor, watch.state_dict(), trainer.logged) == (None, {}, [])


@pytest.mark.usefixtures("_unchecked")
def test_bad_options_of_the_watch_are_refused():
    with pytest.raises(DomainError, match="every must be an integer of at least 1"):
        WatchLatent(sequences(), every=0)
    with pytest.raises(DomainError, match="patience must be an integer"):
        Trainer(WatchLatent(sequences(), patience=0)).fit()
    watch = WatchLatent(sequences())
    watch.load_state_dict({"history": {}})
    with pytest.raises(CheckpointError, match="not the state of a LatentMonitor"):
        Trainer(watch).fit()


class Dies(Callback):
    """Stops training after an update, with nothing saved."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.step == self.step:
            raise KeyboardInterrupt("dies here")


@pytest.mark.usefixtures("_unchecked")
def test_a_run_that_died_and_went_on_leaves_the_files_of_one_that_did_not(tmp_path, capsys):
    pytest.importorskip("accelerate")

    def run(folder, *callbacks):
        watch = WatchLatent(parts.tokens(8, 1), every=2, num_latents=4)
        pictures = SamplePictures(
            4,
            lambda path, samples: path.with_suffix(".txt").write_text(str({k: x.tolist() for k, x in samples.items()})),
            num_samples=2,
            num_steps=(1, 2),
        )
        trainer = parts.make_trainer(
            10,
            callbacks=[*callbacks, watch, pictures],
            validation=BoundValidation(parts.tokens(20, 2), num_steps=(1, 2), num_latents=2, batch_rows=8),
            folder=folder,
            log_every=2,
            validate_every=4,
            save_every=6,
            keep_best=False,
        )
        trainer.callbacks.append(ProgressBar(disable=False))
        trainer.fit()
        return watch.monitor.history

    history = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="dies here"):
        run(tmp_path / "died", Dies(9))
    assert read_metrics(tmp_path / "died")["loss"]["step"] == [2, 4, 6, 8]
    capsys.readouterr()
    assert run(tmp_path / "died") == history
    assert "6/10" in capsys.readouterr().err.split("\r")[1]
    whole, died = (
        {k: v for k, v in read_metrics(tmp_path / name).items() if "second" not in k} for name in ("whole", "died")
    )
    assert whole == died
    assert whole["latent/kl"] == {"step": history["step"], "value": history["kl"]}
    assert whole["validation/nats@2"]["step"] == [4, 8, 10]
    pictures = {path.name: path.read_text() for path in (tmp_path / "whole" / "samples").iterdir()}
    assert pictures == {path.name: path.read_text() for path in (tmp_path / "died" / "samples").iterdir()}
    assert sorted(pictures) == ["step-0000004.txt", "step-0000008.txt"]
