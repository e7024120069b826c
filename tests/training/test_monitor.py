"""The monitor tells a live latent from a dead one, warns once, and leaves the training alone."""

import json
import logging
import random
import warnings
from dataclasses import replace

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import vadd.training.monitor as monitor_module
from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import Denoiser, EmptyRecognition, MLPDenoiser, MLPRecognition, Recognition
from vadd.errors import CheckpointError, ConfigError, DomainError
from vadd.evaluation import LatentDiagnosis, diagnose_latent
from vadd.objectives import LinearKL
from vadd.priors import StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.testing import check_denoiser
from vadd.training import LatentCollapseWarning, LatentMonitor

VOCAB, LENGTH, LATENT = 8, 4, 4
SIZE = {"hidden_size": 32, "depth": 1, "embedding_size": 8, "modulation_size": 16}


class BlindDenoiser(Denoiser):
    """A perceptron that is given a latent and never reads it."""

    def __init__(self):
        super().__init__()
        self.vocab_size, self.num_tokens, self.latent_shape = VOCAB, LENGTH, torch.Size([LATENT])
        self.inner = MLPDenoiser(VOCAB, LENGTH, 0, **SIZE)

    def forward(self, x_t, t, z):
        return self.inner(x_t, t, z[:, :0])


class SignDenoiser(Denoiser):
    """Two bits, both the sign of the latent."""

    vocab_size, num_tokens, latent_shape = 2, 2, torch.Size([1])

    def forward(self, x_t, t, z):
        logit = 6.0 * torch.sign(z)
        return torch.stack([torch.zeros_like(logit), logit], -1).expand(-1, 2, -1)


class FixedRecognition(Recognition):
    """Mean ``loc`` for every sequence, and ``distance`` to either side of it by the first token."""

    latent_shape = torch.Size([1])

    def __init__(self, loc=0.0, distance=0.0, scale=1.0):
        super().__init__()
        self.loc, self.distance, self.scale = loc, distance, scale

    def forward(self, tokens, target, t):
        loc = self.loc + self.distance * (2.0 * tokens[:, :1] - 1)
        return dist.Normal(loc, torch.full_like(loc, self.scale)).to_event(1)


def copies(num=64):
    """Sequences of one random token, repeated: all dependence, which one latent can carry."""
    return torch.randint(VOCAB, (num, 1)).expand(-1, LENGTH).contiguous()


def make_pair(denoiser=None, **options):
    denoiser = denoiser or MLPDenoiser(VOCAB, LENGTH, LATENT, **SIZE, **options)
    model = VADDModel(denoiser, StandardNormalPrior(LATENT), MaskingProcess(LinearSchedule(), VOCAB))
    return model, RecognitionGuide(MLPRecognition(VOCAB, LENGTH, LATENT, **SIZE, **options))


def fixed_pair(**options):
    model = VADDModel(SignDenoiser(), StandardNormalPrior(1), MaskingProcess(LinearSchedule(), 2))
    return model, RecognitionGuide(FixedRecognition(**options))


BITS = torch.tensor([[0, 0], [1, 1]]).repeat(32, 1)


def train(model, guide, *, num_steps, kl_weight, free_bits=0.0, **options):
    """Train with a monitor; the monitor and the warnings that came."""
    elbo = DELBO(model.process, free_bits=free_bits)
    loss_fn = elbo(model, guide)
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=1e-2)
    monitor = LatentMonitor(model, guide, copies(), **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(num_steps):
            elbo.kl_weight = kl_weight(step)
            loss = loss_fn(copies())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor(step)
    assert all(warning.category is LatentCollapseWarning for warning in caught)
    return monitor, [str(warning.message) for warning in caught]


@pytest.mark.usefixtures("_unchecked")
def test_a_latent_that_lives_raises_no_alarm():
    monitor, alarms = train(*make_pair(), num_steps=100, kl_weight=LinearKL(50), every=10, warm_up=50)
    assert alarms == []
    assert monitor.state == "awake"
    # The latent was ignored at the start, where the denoiser does not read it yet: not an alarm.
    assert monitor.history["symptom"][0] == "ignored"
    assert monitor.history["state"][0] == "waking"
    assert monitor.history["kl_per_bin"][-1][-1] > 1  # of the ln 8 nats that there are


@pytest.mark.usefixtures("_unchecked")
def test_an_overweighted_kl_kills_the_latent_and_one_alarm_says_so():
    monitor, alarms = train(*make_pair(), num_steps=100, kl_weight=lambda step: 50.0, every=10, warm_up=50)
    assert monitor.state == "dead"
    assert set(monitor.history["symptom"][2:]) == {"collapsed"}
    (alarm,) = alarms
    # Collapsed from step 20 on, but only checks from 50 on count for a latent that has never been awake.
    assert "dead at step 70, after 3 checks in a row: guide and prior agree" in alarm
    for remedy in ("LinearKL", "CyclicalKL", "free_bits", "from_mdm", "ConditionalPrior"):
        assert remedy in alarm
    assert "latent_dropout" not in alarm  # there is none


@pytest.mark.usefixtures("_unchecked")
def test_a_latent_that_dies_within_the_warm_up_is_reported_there():
    monitor, alarms = train(
        *make_pair(),
        num_steps=150,
        kl_weight=lambda step: 0.2 if step < 50 else 50.0,
        every=10,
        warm_up=10_000,
    )
    assert monitor.history["state"][-1] == "dead"
    assert "awake" in monitor.history["state"]
    assert len(alarms) == 1


@pytest.mark.usefixtures("_unchecked")
def test_a_denoiser_that_cannot_read_the_latent_is_found():
    """Free bits hold the KL up, so that the latent does not collapse; it is ignored."""
    model, guide = make_pair(BlindDenoiser())
    monitor, alarms = train(model, guide, num_steps=80, kl_weight=LinearKL(20), free_bits=2.0, every=20, warm_up=20)
    (alarm,) = alarms
    assert set(monitor.history["symptom"]) == {"ignored"}
    assert max(monitor.history["kl_per_bin"][-1]) > 0.2  # nats
    assert "the denoiser does not read it (vadd.testing.check_denoiser tells whether it can)" in alarm
    with pytest.raises(AssertionError, match="must depend on z"):
        check_denoiser(model.denoiser)


@pytest.mark.parametrize(
    ("options", "symptom", "found"),
    [
        ({"loc": 0.0}, "collapsed", "guide and prior agree to 0.05 nats"),
        ({"loc": 1.0, "scale": 0.5}, "inactive", "0 of 1 components vary with the sequence, at least 1 should"),
        ({"distance": 0.8, "scale": 0.1}, None, None),
    ],
)
def test_symptoms_of_cases_with_a_known_answer(options, symptom, found):
    monitor = LatentMonitor(*fixed_pair(**options), BITS, every=1, warm_up=0, patience=1)
    if symptom is None:
        monitor(0)
        assert monitor.state == "awake"
    else:
        with pytest.warns(LatentCollapseWarning, match=found):
            monitor(0)
    assert monitor.history["symptom"] == [symptom]


def test_no_active_units_are_asked_of_a_monitor_that_wants_none():
    monitor = LatentMonitor(*fixed_pair(loc=1.0, scale=0.5), BITS, every=1, patience=1, min_active_units=0)
    monitor(0)
    assert monitor.state == "awake"


def test_latent_dropout_is_named_where_there_is_some():
    model, guide = fixed_pair()
    model.latent_dropout = 0.4
    monitor = LatentMonitor(model, guide, BITS, warm_up=0, patience=1)
    with pytest.warns(LatentCollapseWarning, match=r"lower latent_dropout, now 0\.4"):
        monitor(0)


ALIVE = LatentDiagnosis(torch.ones(1), torch.full((1,), 2.0).double(), None, 2, 1.0, 1.0, 3.0, 2)
SLEEPING = replace(ALIVE, kl_per_bin=torch.zeros(1).double(), mixture_off_loss=0.0)
SPURIOUS = replace(ALIVE, kl_per_bin=torch.full((1,), torch.inf).double(), prior_gap=float("nan"))


def outcomes(checks, monkeypatch, **options):
    """States after each check of a script (a: alive, d: dying, n: not finite) and the steps of the alarms."""
    script = iter([{"a": ALIVE, "d": SLEEPING, "n": SPURIOUS}[letter] for letter in checks])
    monkeypatch.setattr(monitor_module, "diagnose_latent", lambda *args, **kwargs: next(script))
    monitor = LatentMonitor(*fixed_pair(), BITS, **{"every": 1, "warm_up": 0, "patience": 2, **options})
    alarms = []
    for step in range(len(checks)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor(step)
        alarms += [step] * len(caught)
    return "".join({"waking": "w", "awake": "a", "dead": "d"}[state] for state in monitor.history["state"]), alarms


@pytest.mark.parametrize(
    ("checks", "options", "states", "alarms"),
    [
        ("aaaa", {}, "waaa", []),
        ("dddd", {}, "wddd", [1]),  # once per onset
        ("dddd", {"patience": 1}, "dddd", [0]),
        ("dadada", {}, "wwwwww", []),  # never twice in a row
        ("aadaadad", {}, "waaaaaaa", []),
        ("aadd", {}, "waad", [3]),
        ("ddadaddd", {}, "wddddddd", [1]),  # one good check is no recovery
        ("ddaadd", {}, "wddaad", [1, 5]),  # again after a recovery
        ("dddddd", {"warm_up": 3}, "wwwwdd", [4]),  # checks within the warm-up do not count
        ("aadddd", {"warm_up": 9}, "waaddd", [3]),  # but for a latent that was awake
        ("adddda", {"warm_up": 9}, "wwwwww", []),  # once is not awake
        ("dndnan", {}, "wwdddd", [2]),  # not finite: not counted
    ],
)
def test_the_state_follows_the_checks(checks, options, states, alarms, monkeypatch):
    assert outcomes(checks, monkeypatch, **options) == (states, alarms)


@pytest.mark.parametrize(
    ("kl", "loss", "symptom"),
    [
        (0.3, 0.049, "ignored"),
        (0.3, -0.049, "ignored"),
        (0.3, 0.051, None),
        (0.3, -0.051, None),  # worse than without the latent: the guide is far from the prior, as before the warm-up
        (20.0, 0.99, "ignored"),
        (20.0, 1.01, None),
    ],
)
def test_what_counts_as_ignored_grows_with_the_kl(kl, loss, symptom, monkeypatch):
    kl_per_bin = torch.tensor([0.0, kl]).double()
    diagnosis = replace(ALIVE, mask_ratios=torch.tensor([0.5, 1.0]), kl_per_bin=kl_per_bin, mixture_off_loss=loss)
    monkeypatch.setattr(monitor_module, "diagnose_latent", lambda *args, **kwargs: diagnosis)
    monitor = LatentMonitor(*fixed_pair(), BITS)
    monitor(0)
    assert monitor.history["symptom"] == [symptom]


@pytest.mark.parametrize(
    ("kl_all_masked", "loss", "symptom"), [(6.0, 4.0, None), (6.0, 0.2, "ignored"), (0.01, 4.0, "collapsed")]
)
def test_a_shared_latent_is_judged_where_it_is_drawn(kl_all_masked, loss, symptom, monkeypatch):
    """What its guide says of partly masked sequences means little, be it large or infinite."""
    bins = {"mask_ratios": torch.tensor([0.5, 1.0]), "kl_per_bin": torch.tensor([torch.inf, 100.0]).double()}
    diagnosis = replace(ALIVE, **bins, kl_all_masked=kl_all_masked, is_shared=True, mixture_off_loss=loss)
    monkeypatch.setattr(monitor_module, "diagnose_latent", lambda *args, **kwargs: diagnosis)
    monitor = LatentMonitor(*fixed_pair(), BITS, warm_up=0, patience=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor(0)
    found = {"ignored": "the KL is up to 6.00 nats", "collapsed": "0.05 nats with all tokens masked", None: ""}[symptom]
    assert found in "".join(str(alarm.message) for alarm in caught)
    assert (monitor.history["symptom"], monitor.history["kl"]) == ([symptom], [kl_all_masked])


def test_checks_come_every_so_many_steps_whatever_steps_are_called():
    monitor = LatentMonitor(*make_pair(), copies(8), every=5)
    assert [step for step in range(12) if monitor(step) is not None] == [0, 5, 10]
    monitor = LatentMonitor(*make_pair(), copies(8), every=5)
    assert [step for step in (3, 7, 8, 9, 30, 34, 35) if monitor(step) is not None] == [3, 8, 30, 35]
    with pytest.raises(DomainError, match="must not go back, got 34 after a check at 35"):
        monitor(34)


def test_a_check_is_the_diagnosis_of_these_sequences_and_options():
    model, guide = make_pair()
    heldout = copies(16)
    is_frozen = torch.zeros_like(heldout, dtype=torch.bool)
    is_frozen[:, 0] = True
    options = {"num_bins": 3, "num_latents": 6, "is_frozen": is_frozen, "seed": 5}
    expected = diagnose_latent(model, guide, heldout, **options)
    got = LatentMonitor(model, guide, heldout, **options)(0)
    assert torch.equal(got.kl_per_bin, expected.kl_per_bin)
    assert got.mixture_off_loss == expected.mixture_off_loss


def test_the_history_is_json_with_one_entry_a_check(monkeypatch):
    monitor = LatentMonitor(*make_pair(), copies(8), every=1)
    assert set(map(len, monitor.history.values())) == {0}
    diagnosis = monitor(0)
    monkeypatch.setattr(monitor_module, "diagnose_latent", lambda *args, **kwargs: SPURIOUS)
    monitor(1)
    history = json.loads(json.dumps(monitor.history, allow_nan=False))
    assert history == monitor.history
    assert set(map(len, history.values())) == {2}
    assert history["kl"][0] == pytest.approx(float(diagnosis.kl_per_bin.mean()))
    assert history["kl_per_bin"][0] == diagnosis.kl_per_bin.tolist()
    assert history["prior_gap"] == [diagnosis.prior_gap, None]
    assert (history["kl"][1], history["kl_per_bin"][1], history["symptom"][1]) == (None, [None], "not finite")


def test_a_check_writes_one_line_to_the_log(caplog):
    monitor = LatentMonitor(*fixed_pair(distance=0.8, scale=0.1), BITS, every=10)
    with caplog.at_level(logging.INFO, "vadd.training.monitor"):
        for step in range(15):
            monitor(step)
    assert len(caplog.records) == 2
    line = caplog.records[1].getMessage()
    assert line.startswith("step 10, latent waking: latent in use: 1 of 1 units active")
    assert "\n" not in line


class NoisyRecognition(Recognition):
    """Draws noise from the global generator in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.inner = MLPRecognition(VOCAB, LENGTH, LATENT, **SIZE)
        self.latent_shape = self.inner.latent_shape

    def forward(self, tokens, target, t):
        return self.inner(tokens, target, t * torch.rand(()))


@pytest.mark.usefixtures("_unchecked")
def test_a_check_leaves_random_states_modes_and_gradients_alone():
    model, _ = make_pair(dropout=0.5)
    guide = RecognitionGuide(NoisyRecognition())
    model.prior.eval()  # a part whose mode differs from that of the whole
    DELBO(model.process)(model, guide)(copies()).backward()
    pair = nn.ModuleList([model, guide])
    monitor = LatentMonitor(model, guide, copies(), every=1)

    def state():
        return {
            "torch": torch.random.get_rng_state().tolist(),
            "numpy": numpy.random.get_state()[1].tolist(),
            "python": random.getstate(),
            "modes": [part.training for part in pair.modules()],
            "gradients": [p.grad is None or p.grad.tolist() for p in pair.parameters()],
            "tensors": {name: value.tolist() for name, value in pair.state_dict().items()},
            "requires": [p.requires_grad for p in pair.parameters()],
            "store": sorted(pyro.get_param_store()),
            "enabled": torch.is_grad_enabled(),
        }

    before = state()
    assert any(gradient is not True for gradient in before["gradients"])
    monitor(0)
    assert state() == before


@pytest.mark.parametrize("engine", ["svi", "module"])
def test_training_goes_as_without_the_monitor(engine):
    def weights(is_watched):
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        model, guide = make_pair(dropout=0.3)
        elbo = DELBO(model.process)
        monitor = LatentMonitor(model, guide, copies(8), every=2, warm_up=100)
        pair = nn.ModuleList([model, guide])
        if engine == "svi":
            update = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=elbo).step
        else:
            optimizer = torch.optim.Adam(pair.parameters(), lr=1e-2)
            loss_fn = elbo(model, guide)

            def update(x_0):
                loss_fn(x_0).backward()
                optimizer.step()
                optimizer.zero_grad()

        start = nn.utils.parameters_to_vector(pair.parameters()).detach().clone()
        for step in range(6):
            update(copies(16))
            if is_watched:
                monitor(step)
        assert len(monitor.history["step"]) == (3 if is_watched else 0)
        end = nn.utils.parameters_to_vector(pair.parameters()).detach()
        assert not torch.equal(start, end)
        return end

    assert torch.equal(weights(True), weights(False))


def test_a_model_without_a_latent_has_nothing_to_monitor():
    denoiser = MLPDenoiser(VOCAB, LENGTH, 0, **SIZE)
    mdm = VADDModel(denoiser, StandardNormalPrior(0), MaskingProcess(LinearSchedule(), VOCAB))
    with pytest.raises(ConfigError, match="no latent to monitor"):
        LatentMonitor(mdm, RecognitionGuide(EmptyRecognition()), copies())


@pytest.mark.usefixtures("_unchecked")
def test_swapped_arguments_are_named():
    model, guide = make_pair()
    with pytest.raises(ConfigError, match="model and guide are swapped"):
        LatentMonitor(guide, model, copies())


def test_bad_input():
    model, guide = make_pair()
    with pytest.raises(ConfigError, match=r"disagree on latent_shape: \(4,\) and \(1,\)"):
        LatentMonitor(model, fixed_pair()[1], copies())
    with pytest.raises(DomainError, match="at least 2 sequences, got 1"):
        LatentMonitor(model, guide, copies(1))
    with pytest.raises(DomainError, match="contains the mask token 8"):
        LatentMonitor(model, guide, torch.full((4, LENGTH), VOCAB))
    for name, value in (
        ("every", 0),
        ("warm_up", -1),
        ("patience", 0),
        ("min_active_units", -1),
        ("num_bins", 0),
        ("num_latents", 1),
        ("every", True),
    ):
        with pytest.raises(DomainError, match=f"{name} must be an integer of at least"):
            LatentMonitor(model, guide, copies(), **{name: value})
    with pytest.raises(DomainError, match="num_latents must be even"):
        LatentMonitor(model, guide, copies(), num_latents=3)
    with pytest.raises(DomainError, match="at most the latent's 4 components, got 5"):
        LatentMonitor(model, guide, copies(), min_active_units=5)


@pytest.mark.parametrize("split", range(9))
def test_a_monitor_goes_on_where_another_stopped(split, monkeypatch):
    checks = "dddaadddn"
    diagnoses = {"a": ALIVE, "d": SLEEPING, "n": SPURIOUS}
    feed = iter([diagnoses[check] for check in checks * 2 + "a"])
    monkeypatch.setattr(monitor_module, "diagnose_latent", lambda *args, **kwargs: next(feed))

    def run(monitor, steps):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in steps:
                monitor(step)
        return [str(warning.message) for warning in caught]

    options = {"every": 1, "warm_up": 0, "patience": 2}
    pair = fixed_pair()
    whole = LatentMonitor(*pair, BITS, **options)
    alarms = run(whole, range(9))
    assert len(alarms) == 2
    first, second = (LatentMonitor(*pair, BITS, **options) for _ in range(2))
    heard = run(first, range(split))
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    second.load_state_dict(state)
    heard += run(second, range(split, 9))
    assert heard == alarms
    assert second.state_dict() == whole.state_dict()
    assert first.state_dict() == state
    taken = first.state_dict()
    first(9)
    assert taken == state  # what was taken does not change with the monitor


def test_the_state_of_something_else_is_refused_and_nothing_taken_over():
    monitor = LatentMonitor(*fixed_pair(), BITS)
    monitor(0)
    good = monitor.state_dict()
    bad = [
        {},
        {**good, "more": 1},
        {**good, "history": []},
        {**good, "history": {"step": [0]}},
        {**good, "history": {**good["history"], "kl": []}},
        {**good, "state": "asleep"},
    ]
    for state in bad:
        with pytest.raises(CheckpointError, match="not the state of a LatentMonitor"):
            monitor.load_state_dict(state)
        assert monitor.state_dict() == good
