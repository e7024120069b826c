"""What is refused when parts, tokens and times do not belong together, and what evaluation leaves alone."""

import pytest
import torch
from torch import nn

from vadd import (
    DELBO,
    ContinuousTimeELBO,
    FiniteStepELBO,
    MaskingProcess,
    RecognitionGuide,
    SharedLatentELBO,
    VADDModel,
)
from vadd.backbones import DiTDenoiser, DiTRecognition, MLPDenoiser, MLPRecognition
from vadd.errors import ConfigError, DomainError, DtypeError, NonFiniteError, ShapeError
from vadd.evaluation import (
    diagnose_latent,
    document_bound,
    fit_gate,
    jump_costs,
    latent_pages,
    log_likelihood_bound,
    optimize_grid,
)
from vadd.priors import StandardNormalPrior
from vadd.schedules import CosineSchedule, LinearSchedule, PolynomialSchedule
from vadd.training import LatentMonitor, fit_aggregate_prior, load_checkpoint, save_checkpoint

VOCAB, LENGTH, BATCH, LATENT = 5, 4, 8, 2
SIZE = {"hidden_size": 16, "depth": 2, "modulation_size": 8}

pytestmark = pytest.mark.usefixtures("_unchecked")


def make_pair(schedule=None, latent=LATENT, **options):
    process = MaskingProcess(schedule or LinearSchedule(), VOCAB)
    model = VADDModel(MLPDenoiser(VOCAB, LENGTH, latent, **SIZE, **options), StandardNormalPrior(latent), process)
    return model, RecognitionGuide(MLPRecognition(VOCAB, LENGTH, latent, **SIZE))


def tokens():
    return torch.randint(VOCAB, (BATCH, LENGTH))


@pytest.mark.parametrize(
    "process",
    [MaskingProcess(LinearSchedule(), VOCAB - 1), MaskingProcess(CosineSchedule(), VOCAB)],
    ids=["V", "schedule"],
)
def test_an_objective_of_another_process_is_refused(process):
    model, guide = make_pair()
    with pytest.raises(ConfigError, match="is not the model's.*pass model.process"):
        DELBO(process).loss(model, guide, tokens() % 4)
    with pytest.raises(ConfigError, match="is not the model's"):
        DELBO(process).terms(model, guide, tokens() % 4)


def test_an_equal_process_will_do():
    model, guide = make_pair(PolynomialSchedule(3.0))
    DELBO(MaskingProcess(PolynomialSchedule(3.0), VOCAB)).loss(model, guide, tokens())
    with pytest.raises(ConfigError, match="power=2.0"):
        DELBO(MaskingProcess(PolynomialSchedule(2.0), VOCAB)).loss(model, guide, tokens())


def test_processes_are_told_apart_by_what_they_do_and_not_by_what_they_print(monkeypatch):
    monkeypatch.setattr(PolynomialSchedule, "extra_repr", lambda self: "")
    process = MaskingProcess(PolynomialSchedule(2.0), VOCAB)
    model, guide = make_pair(process.schedule)
    with pytest.raises(ConfigError, match="is not the model's"):
        DELBO(MaskingProcess(PolynomialSchedule(3.0), VOCAB)).loss(model, guide, tokens())
    assert process.is_same_as(process)
    assert process.is_same_as(MaskingProcess(PolynomialSchedule(2.0), VOCAB, validate_args=False))
    for schedule, vocab_size in (
        (PolynomialSchedule(2.001), VOCAB),
        (PolynomialSchedule(2.0), VOCAB + 1),
        (LinearSchedule(), VOCAB),
    ):
        assert not process.is_same_as(MaskingProcess(schedule, vocab_size))


def test_swapped_and_unlike_pairs_are_refused():
    model, guide = make_pair()
    with pytest.raises(ConfigError, match="swapped"):
        DELBO(model.process).loss(guide, model, tokens())
    other = RecognitionGuide(MLPRecognition(VOCAB, LENGTH, LATENT + 1, **SIZE))
    with pytest.raises(ConfigError, match=r"disagree on latent_shape: \(2,\) and \(3,\)"):
        DELBO(model.process).loss(model, other, tokens())


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        ("a", "b", "model must be a VADDModel or another Pyro program, got str"),
        (VADDModel, None, "model must be .*, got the class VADDModel"),
        (make_pair()[0], None, "guide must be a RecognitionGuide or another Pyro program, got NoneType"),
    ],
    ids=["texts", "class", "none"],
)
def test_an_objective_needs_two_programs(model, guide, message):
    elbo = DELBO(make_pair()[0].process)
    for use in (elbo, lambda *pair: elbo.loss(*pair, tokens()), lambda *pair: elbo.terms(*pair, tokens())):
        with pytest.raises(ConfigError, match=message):
            use(model, guide)


def test_a_swapped_pair_makes_no_module():
    model, guide = make_pair()
    with pytest.raises(ConfigError, match="swapped"):
        DELBO(model.process)(guide, model)
    with pytest.raises(ConfigError, match="process must be a MaskingProcess, got str"):
        DELBO("x")


def use_everywhere():
    """Functions that take a pair and sequences of it, by name."""
    return {
        "log_likelihood_bound": lambda *a: log_likelihood_bound(*a, bound="marginal"),
        "document_bound": lambda *a: document_bound(*a, length=LENGTH, stride=2, bound="marginal"),
        "jump_costs": lambda *a: jump_costs(*a, 1.0, 0.5),
        "optimize_grid": lambda *a: optimize_grid(*a, num_candidates=2),
        "fit_gate": fit_gate,
        "diagnose_latent": diagnose_latent,
        "latent_pages": latent_pages,
        "fit_aggregate_prior": fit_aggregate_prior,
        "LatentMonitor": LatentMonitor,
    }


@pytest.mark.parametrize("name", use_everywhere())
def test_evaluation_names_what_is_no_pair(name):
    use = use_everywhere()[name]
    model, guide = make_pair()
    other = RecognitionGuide(MLPRecognition(VOCAB, LENGTH, LATENT + 1, **SIZE))
    for pair, message in (
        ((guide, model), "swapped"),
        ((model, other), r"model and guide disagree on latent_shape: \(2,\) and \(3,\)"),
        ((model, None), "guide must be a RecognitionGuide.*, got NoneType"),
        ((model.denoiser, guide), "model must be a VADDModel, got MLPDenoiser"),
    ):
        with pytest.raises(ConfigError, match=message):
            use(*pair, tokens())


@pytest.mark.parametrize("name", sorted(use_everywhere().keys() - {"document_bound"}))
def test_evaluation_names_what_is_no_batch_of_tokens(name):
    use = use_everywhere()[name]
    model, guide = make_pair()
    with pytest.raises(DtypeError, match=r"x_0 must hold int64 tokens, got list"):
        use(model, guide, tokens().tolist())
    with pytest.raises(DtypeError, match=r"x_0 must hold int64 tokens, got torch.float32; convert with x_0.long\(\)"):
        use(model, guide, tokens().float())
    with pytest.raises(ShapeError, match=r"x_0 must have shape \(batch, dim\)"):
        use(model, guide, tokens()[0])


def test_flags_that_are_no_tensor_are_named():
    model, guide = make_pair()
    with pytest.raises(DtypeError, match="is_frozen must be boolean, got list"):
        jump_costs(model, guide, tokens(), 1.0, 0.5, is_frozen=[True])


def test_a_finite_step_objective_needs_a_guide_of_its_kind():
    model, guide = make_pair()
    with pytest.raises(ConfigError, match="explains='revealed'"):
        FiniteStepELBO(model.process, 2, target="revealed").loss(model, guide, tokens())


@pytest.mark.parametrize(
    "spoil",
    [
        {"x_t": torch.zeros(BATCH, LENGTH)},
        {"x_t": torch.zeros(LENGTH, dtype=torch.long)},
        {"t": torch.ones(BATCH, 1)},
        {"t": torch.ones(BATCH, dtype=torch.long)},
        {"target": torch.ones(BATCH, LENGTH)},
        {"target": torch.ones(BATCH, 1, dtype=torch.bool)},
    ],
)
def test_denoise_names_what_has_the_wrong_shape_or_dtype(spoil):
    model, _ = make_pair()
    good = {"x_t": torch.full((BATCH, LENGTH), VOCAB), "t": torch.ones(BATCH), "z": torch.zeros(BATCH, LATENT)}
    model.denoise(**good)
    with pytest.raises(ShapeError, match=f"{next(iter(spoil))} must"):
        model.denoise(**{**good, **spoil})


def test_denoise_keeps_to_tokens_and_masked_positions():
    model, _ = make_pair()
    t, z = torch.ones(BATCH), torch.zeros(BATCH, LATENT)
    with pytest.raises(DomainError, match="x_t must hold"):
        model.denoise(torch.full((BATCH, LENGTH), VOCAB + 1), t, z)
    with pytest.raises(DomainError, match="subset of the masked positions"):
        model.denoise(tokens(), t, z, target=torch.ones(BATCH, LENGTH, dtype=torch.bool))


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_nan_is_no_sample_no_reconstruction_and_no_term():
    model, guide = make_pair()
    nn.init.constant_(model.denoiser.head.bias, torch.nan)
    x_t = torch.full((BATCH, LENGTH), VOCAB)
    with pytest.raises(NonFiniteError, match="NaN"):
        model.reconstruct(x_t, None)
    with pytest.raises(NonFiniteError, match="NaN"):
        model.sample(2, num_steps=1)
    with pytest.raises(NonFiniteError, match="log-likelihood of 'x_0'"):
        DELBO(model.process).terms(model, guide, tokens())


def test_dropout_is_off_in_samples_and_reconstructions_and_the_mode_stays():
    model, _ = make_pair(dropout=0.9)
    nn.init.normal_(model.denoiser.head.weight)  # so that dropped units would show
    x_t, z = torch.full((1, LENGTH), VOCAB), torch.zeros(1, LATENT)
    assert model.training
    reconstructions = [model.reconstruct(x_t, z) for _ in range(20)]
    samples = [model.sample(8, num_steps=2, generator=torch.Generator().manual_seed(0)) for _ in range(5)]
    assert all(torch.equal(r, reconstructions[0]) for r in reconstructions)
    assert all(torch.equal(s, samples[0]) for s in samples)
    assert model.training


def test_reconstruct_passes_padding_and_condition_on():
    process = MaskingProcess(LinearSchedule(), VOCAB)
    denoiser = MLPDenoiser(VOCAB, LENGTH, LATENT, reads_time=True, num_classes=3, **SIZE)
    model = VADDModel(denoiser, StandardNormalPrior(LATENT), process)
    seen = {}
    denoiser.register_forward_pre_hook(lambda *_: None)
    plain = denoiser.features

    def features(x_t, t, z, **options):
        seen.update(options, t=t)
        return plain(x_t, t, z, **options)

    denoiser.features = features
    is_padding = torch.tensor([[False, False, True, True]])
    condition = torch.tensor([1])
    model.reconstruct(
        torch.tensor([[VOCAB, 0, 0, 0]]), torch.zeros(1, LATENT), is_padding=is_padding, condition=condition
    )
    assert torch.equal(seen["condition"], condition)
    assert torch.equal(seen["is_padding"], is_padding)
    torch.testing.assert_close(seen["t"], torch.tensor([0.5]))  # one of two positions with data is masked


def test_a_loaded_model_is_ready_to_evaluate(tmp_path):
    save_checkpoint(tmp_path, *make_pair())
    checkpoint = load_checkpoint(tmp_path)
    assert not checkpoint.model.training
    assert not checkpoint.guide.training


@pytest.mark.parametrize("objective", [DELBO, ContinuousTimeELBO, SharedLatentELBO])
def test_frozen_and_padded_positions_do_not_count_in_the_weight(objective):
    is_frozen = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    is_frozen[:, 0] = True
    is_padding = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    is_padding[:, -1] = True
    elbo = objective(MaskingProcess(LinearSchedule(), VOCAB))
    batch = elbo.corrupt(tokens(), is_frozen=is_frozen, is_padding=is_padding)
    num_masked = batch.is_masked.sum(-1)
    assert int(num_masked.max()) == 2
    torch.testing.assert_close(elbo.weigh(batch).likelihood, 2 / num_masked)


@pytest.mark.parametrize("make", [MLPDenoiser, DiTDenoiser])
def test_every_scale_and_shift_of_the_latent_is_used(make):
    denoiser = make(VOCAB, LENGTH, LATENT, **SIZE)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    z = torch.randn(BATCH, LATENT)
    denoiser(torch.randint(VOCAB + 1, (BATCH, LENGTH)), torch.ones(BATCH), z).square().sum().backward()
    modulation = denoiser.trunk.conditioning.latent.modulation
    assert bool((modulation.weight.grad.abs().sum(-1) > 0).all())
    assert bool((modulation.bias.grad != 0).all())


def test_the_recognition_pool_reads_the_target_apart_from_the_rest():
    recognition = DiTRecognition(VOCAB, LENGTH, LATENT, hidden_size=16, depth=1, modulation_size=8)
    for name, parameter in recognition.named_parameters():
        if "target_" in name:
            nn.init.zeros_(parameter)  # the norms no longer see the target: only the pool can
    x, t = tokens(), torch.ones(BATCH)
    targets = torch.eye(LENGTH, dtype=torch.bool)
    means = [recognition(x, target.expand(BATCH, -1), t).mean for target in targets]
    assert all((means[0] - other).abs().min() > 0 for other in means[1:])


def test_short_jumps_reveal_with_accurate_probability():
    process = MaskingProcess(CosineSchedule(), VOCAB)
    t, s = torch.tensor([0.5]), torch.tensor([0.4999])
    exact = process.reveal_probability(t.double(), s.double())
    torch.testing.assert_close(process.reveal_probability(t, s).double(), exact, rtol=1e-6, atol=0)


def test_the_weight_of_a_polynomial_schedule_does_not_underflow():
    t = torch.tensor([1e-7])
    torch.testing.assert_close(PolynomialSchedule(7.0).weight(t), 7 / t)
