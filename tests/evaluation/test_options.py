"""Options, seeds, side effects, and what is never scored."""

import dataclasses

import jaxtyping
import pytest
import torch
from torch import nn

from vadd import MaskingProcess, RecognitionGuide, VADDModel
from vadd._modes import evaluating
from vadd.backbones import EmptyRecognition, MLPDenoiser, MLPRecognition
from vadd.backbones.base import Denoiser, Recognition
from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.evaluation import jump_costs, log_likelihood_bound
from vadd.evaluation.estimators import masked_count
from vadd.priors import StandardNormalPrior
from vadd.samplers import cosine_grid
from vadd.schedules import CosineSchedule, LinearSchedule
from vadd.testing import tiny_model

from .enumerated import ATOMS, guide_for, sequences_of
from .laws import THRESHOLD, estimates

CASES = [
    ("finite-step", {"num_steps": 3}),
    ("finite-step", {"num_steps": 3, "num_latents": 4, "proposal": "mixture"}),
    ("shared-latent", {"num_steps": 3}),
    ("shared-latent", {"num_steps": 3, "num_latents": 4}),
    ("shared-latent", {}),
    ("shared-latent", {"num_latents": 4}),
    ("marginal", {"num_latents": 4}),
    ("continuous", {}),
    ("delbo", {}),
    ("conditional", {"mask_ratio": 0.5}),
]
every_bound = pytest.mark.parametrize(("bound", "options"), CASES)


def make_pair(explains="masked", **options):
    model = tiny_model(2, 3, **{"atoms": ATOMS, "seed": 4, "scale": 1.5, **options})
    return model, guide_for(model, explains=explains)


def evaluate(bound, x_0=None, pair=None, **options):
    model, guide = pair or make_pair()
    return log_likelihood_bound(model, guide, sequences_of(model) if x_0 is None else x_0, bound=bound, **options)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bound": "finite-step"}, ConfigError, "num_steps"),
        ({"bound": "elbo"}, ConfigError, "bound"),
        ({"bound": "finite-step", "num_steps": 0}, DomainError, "num_steps"),
        ({"bound": "shared-latent", "num_steps": 0}, DomainError, "num_steps"),
        ({"bound": "marginal", "num_steps": 4}, ConfigError, "num_steps"),
        ({"bound": "finite-step", "num_steps": 2, "time_grid": torch.tensor([1.0, 0.0])}, ConfigError, "time_grid"),
        ({"bound": "marginal", "time_grid": cosine_grid}, ConfigError, "time_grid"),
        ({"bound": "shared-latent", "time_grid": cosine_grid}, ConfigError, "time_grid"),
        ({"bound": "marginal", "num_latents": 0}, DomainError, "num_latents"),
        ({"bound": "marginal", "num_latents": True}, DomainError, "num_latents"),
        ({"bound": "marginal", "num_latents": 3, "proposal": "mixture"}, DomainError, "even"),
        ({"bound": "marginal", "proposal": "posterior"}, ConfigError, "proposal"),
        ({"bound": "marginal", "latents": "shared"}, ConfigError, "latents"),
        ({"bound": "continuous", "num_latents": 2}, ConfigError, "continuous"),
        ({"bound": "continuous", "proposal": "prior"}, ConfigError, "continuous"),
        ({"bound": "conditional", "mask_ratio": 0.0}, DomainError, "mask_ratio"),
        ({"bound": "conditional", "mask_ratio": 1.5}, DomainError, "mask_ratio"),
        ({"bound": "marginal", "mask_ratio": 0.5}, ConfigError, "mask_ratio"),
        ({"bound": "finite-step", "num_steps": 4, "num_jumps": 0}, DomainError, "num_jumps"),
        ({"bound": "finite-step", "num_steps": 4, "num_jumps": True}, DomainError, "num_jumps"),
        ({"bound": "marginal", "num_jumps": 2}, ConfigError, "num_jumps"),
        ({"bound": "shared-latent", "num_steps": 4, "num_jumps": 2, "num_latents": 2}, ConfigError, "num_jumps"),
        ({"bound": "marginal", "num_draws": 0}, DomainError, "num_draws"),
        ({"bound": "marginal", "num_draws": True}, DomainError, "num_draws"),
        ({"bound": "marginal", "rows_per_call": 0}, DomainError, "rows_per_call"),
        ({"bound": "marginal", "seed": -1}, DomainError, "seed must be an integer of at least 0, got -1"),
        ({"bound": "marginal", "seed": "a"}, DomainError, "seed must be an integer of at least 0, got 'a'"),
    ],
)
def test_options_that_do_not_fit_raise(options, error, message):
    """Where annotations are checked as well, these may speak first."""
    with pytest.raises((error, jaxtyping.TypeCheckError), match=message):
        evaluate(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"t": 0.5, "s": 0.5}, DomainError, "s < t"),
        ({"t": 1.5, "s": 0.5}, DomainError, "t <= 1"),
        ({"t": 0.5, "s": -0.1}, DomainError, "0 <= s"),
        ({"t": 1.0, "s": 0.5, "num_draws": 0}, DomainError, "num_draws"),
        ({"t": 1.0, "s": 0.5, "num_latents": 0}, DomainError, "num_latents"),
        ({"t": 1.0, "s": 0.5, "rows_per_call": 0}, DomainError, "rows_per_call"),
        ({"t": 1.0, "s": 0.5, "seed": -1}, DomainError, "seed"),
    ],
)
def test_jumps_that_do_not_exist_raise(options, error, message):
    model, guide = make_pair()
    with pytest.raises(error, match=message):
        jump_costs(model, guide, sequences_of(model), **options)


@every_bound
def test_tokens_are_checked(bound, options):
    with pytest.raises(DomainError, match="mask token"):
        evaluate(bound, torch.tensor([[0, 1, 2]]), **options)
    with pytest.raises((DtypeError, jaxtyping.TypeCheckError)):
        evaluate(bound, torch.tensor([[0, 1, 1]]), is_frozen=torch.tensor([[0, 1, 1]]), **options)
    with pytest.raises((ShapeError, jaxtyping.TypeCheckError)):
        evaluate(bound, torch.tensor([[0, 1, 1]]), is_padding=torch.tensor([[True, False]]), **options)


def test_the_masked_share_is_rounded_up_but_not_by_rounding_errors():
    """``k/n`` of ``n`` tokens are ``k``, though ``n * (k/n)`` may exceed ``k`` in floating point."""
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        for n in [*range(1, 130), 1024, 3072]:
            counts = [int(masked_count(torch.tensor([n]), k / n)) for k in range(1, n + 1)]
            assert counts == list(range(1, n + 1))
    num_free = torch.tensor([0, 1, 3, 10])
    assert masked_count(num_free, 1e-12).tolist() == [0, 1, 1, 1]
    assert masked_count(num_free, 0.34).tolist() == [0, 1, 2, 4]
    assert masked_count(num_free, 1.0).tolist() == num_free.tolist()


@every_bound
def test_one_seed_one_result(bound, options):
    first, again, other = (evaluate(bound, num_draws=2, seed=seed, **options) for seed in (5, 5, 6))
    assert torch.equal(first.nats_per_sequence, again.nats_per_sequence)
    assert torch.equal(first.stderr_per_sequence, again.stderr_per_sequence)
    assert not torch.equal(first.nats_per_sequence, other.nats_per_sequence)
    assert (first.seed, other.seed) == (5, 6)


@every_bound
def test_global_state_is_left_alone(bound, options):
    model, guide = make_pair()
    model.train()
    guide.eval()
    model.prior.train(False)
    before = torch.get_rng_state()
    flags = [part.training for module in (model, guide) for part in module.modules()]
    result = evaluate(bound, pair=(model, guide), **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for module in (model, guide) for part in module.modules()] == flags
    assert not result.nats_per_sequence.requires_grad
    assert torch.is_grad_enabled()
    for parameter in (*model.parameters(), *guide.parameters()):
        assert parameter.grad is None


def test_jump_costs_leave_global_state_alone_and_repeat():
    model, guide = make_pair()
    before = torch.get_rng_state()
    runs = [jump_costs(model, guide, sequences_of(model), 0.8, 0.3, num_latents=2, num_draws=3) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(runs[0].nats_per_sequence, runs[1].nats_per_sequence)
    assert (runs[0].stderr_per_sequence >= 0).all()


def network_pair(dropout):
    torch.manual_seed(3)
    size = {"hidden_size": 16, "depth": 1, "modulation_size": 8, "embedding_size": 8}
    denoiser = MLPDenoiser(3, 4, 2, feature_size=8, dropout=dropout, **size)
    recognition = MLPRecognition(3, 4, 2, dropout=dropout, **size)
    for module in (denoiser, recognition):
        for p in module.parameters():
            nn.init.normal_(p, std=0.3)
    process = MaskingProcess(LinearSchedule(), 3)
    return VADDModel(denoiser, StandardNormalPrior(2), process, latent_dropout=0.5), RecognitionGuide(recognition)


@every_bound
def test_dropout_is_off(bound, options):
    values = []
    for dropout in (0.0, 0.9):
        pair = network_pair(dropout)
        for module in pair:
            module.train()
        x_0 = torch.randint(3, (6, 4), generator=torch.Generator().manual_seed(0))
        values.append(evaluate(bound, x_0, pair, **options).nats_per_sequence)
        assert all(module.training for module in pair)
    torch.testing.assert_close(*values)


def test_modes_are_restored_after_an_error():
    module = nn.Sequential(nn.Dropout(), nn.Dropout())
    module[1].eval()

    def fail():
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            assert not torch.is_grad_enabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [part.training for part in module.modules()] == [True, True, False]


class Spy(Denoiser):
    """Hands on to a denoiser, keeps what it was given, and breaks the output where nothing may be read."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.vocab_size, self.latent_shape = inner, inner.vocab_size, inner.latent_shape
        self.num_tokens, self.seen, self.rows = inner.num_tokens, [], []

    def forward(self, x_t, t, z, **options):
        self.seen.append(x_t.clone())
        self.rows.append(len(x_t))
        logits = self.inner(x_t, t, z, **options)
        return torch.where((x_t == self.vocab_size)[..., None], logits, torch.nan)


def spied(**options):
    model, guide = make_pair(**options)
    return VADDModel(Spy(model.denoiser), model.prior, model.process), guide


@every_bound
@pytest.mark.parametrize("explains", ["masked", "revealed"])
def test_tokens_that_are_not_masked_are_never_scored(bound, options, explains):
    """Frozen and padding tokens are shown, or hold nothing: their own predictions do not matter."""
    pair, broken = make_pair(explains), spied(explains=explains)
    x_0 = sequences_of(pair[0])
    is_frozen = torch.zeros_like(x_0, dtype=torch.bool)
    is_frozen[:4, 0] = True
    is_frozen[3] = True  # nothing is left to reveal
    flags = {"is_frozen": is_frozen, "is_padding": torch.zeros_like(is_frozen)}
    flags["is_padding"][5, 2] = True
    value, nan_safe = (evaluate(bound, x_0, p, **options, **flags) for p in (pair, broken))
    assert value.nats_per_sequence.isfinite().all()
    assert torch.equal(value.nats_per_sequence, nan_safe.nats_per_sequence)
    assert value.nats_per_sequence[3] == 0
    assert value.num_scored[3] == 0
    for x_t in broken[0].denoiser.seen:
        assert not ((x_t.reshape(-1, *x_0.shape) == 2) & (is_frozen | flags["is_padding"])).any()


@every_bound
def test_what_padding_holds_does_not_matter(bound, options):
    x_0 = sequences_of(make_pair()[0])
    is_padding = torch.zeros_like(x_0, dtype=torch.bool)
    is_padding[:, 1] = True
    flipped = torch.where(is_padding, 1 - x_0, x_0)
    first, second = (evaluate(bound, x, is_padding=is_padding, **options) for x in (x_0, flipped))
    torch.testing.assert_close(first.nats_per_sequence, second.nats_per_sequence)


@every_bound
def test_rows_per_call_bounds_the_rows_and_changes_nothing_in_law(bound, options):
    model, guide = spied()
    x_0 = sequences_of(model)
    many = x_0.repeat(16, 1)  # 128 rows
    evaluate(bound, many, (model, guide), rows_per_call=50, **options)
    assert max(model.denoiser.rows) <= 50
    pair = make_pair()
    values = [
        estimates(*pair, x_0, bound=bound, copies=800, seed=size, rows_per_call=size, **options).mean(1)
        for size in (1600, 25600)
    ]
    error = sum(v.var() / len(v) for v in values) ** 0.5
    assert abs(values[0].mean() - values[1].mean()) < THRESHOLD * error
    assert 10 * error < 0.15 * abs(values[0].mean())  # an error of 15 per cent is caught


@pytest.mark.parametrize("bound", ["finite-step", "shared-latent", "marginal", "conditional", "delbo"])
def test_chunks_of_latents_hold_masks_fixed(bound):
    """With fewer rows a call, the same masks are visited: nothing but the latents' draws may move."""
    seen = []
    steps = {"num_steps": 2} if bound in ("finite-step", "shared-latent") else {}
    for size in (8, 4096):
        model, guide = spied()
        evaluate(bound, pair=(model, guide), num_latents=6, rows_per_call=size, **steps)
        seen.append({tuple(x.flatten().tolist()) for call in model.denoiser.seen for x in call.reshape(-1, 8, 3)})
    if bound != "shared-latent":  # there each latent has a trajectory of its own
        assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("bound", "options"), [c for c in CASES if c[0] != "shared-latent" or "num_latents" not in c[1]]
)
def test_masks_are_paired_between_models(bound, options):
    """One seed, one set of masks: for other networks, another latent, and no latent."""
    seen = []
    for pair in ({"seed": 4}, {"seed": 9}, {"atoms": None}, {"atoms": None, "latent_dim": 0}):
        model, guide = spied(**pair)
        evaluate(bound, pair=(model, guide), **options)
        # K latents see the same masks: drop repetitions, keep the order.
        calls = [tuple(x.flatten().tolist()) for call in model.denoiser.seen for x in call.reshape(-1, 8, 3)]
        seen.append(list(dict.fromkeys(calls)))
    assert seen[0] == seen[1] == seen[2] == seen[3]


@pytest.mark.parametrize("explains", ["masked", "revealed"])
@pytest.mark.parametrize("options", [{}, {"num_latents": 2}, {"num_latents": 2, "proposal": "mixture"}])
def test_a_jump_that_reveals_nothing_costs_nothing(explains, options):
    """A jump so short that it reveals nothing, and a time at which nothing is masked."""
    model, guide = make_pair(explains)
    x_0 = sequences_of(model)
    for t, s in ((1.0, 1.0 - 1e-12), (1e-12, 0.0)):
        costs = jump_costs(model, guide, x_0, t, s, **options)
        assert (costs.nats_per_sequence.abs() < 1e-9).all()
    everything = torch.ones_like(x_0, dtype=torch.bool)
    costs = jump_costs(model, guide, x_0, 1.0, 0.0, is_frozen=everything, **options)
    assert (costs.nats_per_sequence == 0).all()


class Watching(Recognition):
    """Keeps what it may read, and hands on."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.latent_shape, self.seen = inner, inner.latent_shape, []

    def forward(self, tokens, target, t, **options):
        self.seen.append((tokens.clone(), target.clone()))
        return self.inner(tokens, target, t, **options)


@pytest.mark.parametrize("num_latents", [1, 2])
@pytest.mark.parametrize("explains", ["masked", "revealed"])
def test_the_guide_reads_what_it_was_trained_to_explain(explains, num_latents):
    """Hidden tokens only for a guide that knows them, and then the target is what the jump reveals."""
    model, guide = spied(explains=explains)
    watching = Watching(guide.recognition)
    guide = RecognitionGuide(watching, explains=explains)
    x_0 = sequences_of(model).repeat(8, 1)
    jump_costs(model, guide, x_0, 1.0, 0.5, num_latents=num_latents)
    ((tokens, target),) = watching.seen
    if explains == "masked":
        assert torch.equal(tokens, x_0)
        assert target.all()
    else:
        assert torch.equal(tokens == 2, ~target)  # at time 1 everything is masked
        assert 0.3 < target.double().mean() < 0.7


def test_double_precision_keeps_a_sum_that_single_precision_loses():
    """4,096 tokens, one of a cost 1e6 times that of the others: float32 sums would drop the small ones."""

    class Uneven(Denoiser):
        vocab_size, latent_shape, num_tokens = 2, torch.Size([0]), None

        def forward(self, x_t, t, z, **options):
            logits = torch.zeros(*x_t.shape, 2, dtype=torch.float32)
            logits[:, 0, 1] = 2.0**24
            logits[:, 1:, 1] = -1.0
            return logits

    torch.set_default_dtype(torch.float32)
    model = VADDModel(Uneven(), StandardNormalPrior(0), MaskingProcess(CosineSchedule(), 2))
    x_0 = torch.zeros(2, 4096, dtype=torch.long)
    small = float(torch.nn.functional.softplus(torch.tensor(-1.0, dtype=torch.float64)))
    for options in ({"bound": "finite-step", "num_steps": 1}, {"bound": "conditional"}):
        result = log_likelihood_bound(model, RecognitionGuide(EmptyRecognition()), x_0, **options)
        excess = result.nats_per_sequence - 2.0**24
        torch.testing.assert_close(excess, torch.full((2,), 4095 * small, dtype=torch.float64), rtol=1e-5, atol=0)


def test_conditions_reach_every_network():
    class Conditioned(Spy):
        def forward(self, x_t, t, z, *, condition, **options):
            assert condition.shape == x_t.shape[:1]
            return self.inner(x_t, t, z) * (1 + condition[:, None, None])

    class ConditionedGuide(Watching):
        def forward(self, tokens, target, t, *, condition, **options):
            assert condition.shape == tokens.shape[:1]
            return self.inner(tokens, target, t)

    model, guide = make_pair()
    model = VADDModel(Conditioned(model.denoiser), model.prior, model.process)
    guide = RecognitionGuide(ConditionedGuide(guide.recognition))
    x_0 = sequences_of(model)
    for bound, options in CASES:
        zero, one = (evaluate(bound, x_0, (model, guide), condition=torch.full((8,), c), **options) for c in (0.0, 1.0))
        plain = evaluate(bound, x_0, **options)
        torch.testing.assert_close(zero.nats_per_sequence, plain.nats_per_sequence)
        assert not torch.allclose(one.nats_per_sequence, plain.nats_per_sequence)


def test_results_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluate("marginal").seed = 3
