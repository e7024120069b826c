"""Options of the estimator: free bits, KL weight, latent dropout, Monte Carlo KL, site scales, bad input."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from vadd import DELBO, ContinuousTimeELBO, FiniteStepELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import MLPDenoiser, MLPRecognition
from vadd.backbones.base import Denoiser, Recognition
from vadd.errors import ConfigError, DomainError, DtypeError, NonFiniteError, ShapeError, VADDError
from vadd.objectives.site_scale import ScaleSites
from vadd.priors import LatentPrior, StandardNormalPrior
from vadd.schedules import LinearSchedule
from vadd.testing.tiny import TabularRecognition, tiny_model

VOCAB, LENGTH, BATCH, LATENT = 5, 4, 8, 2
SIZE = {"hidden_size": 16, "depth": 1, "modulation_size": 8, "embedding_size": 8}


@pytest.fixture(autouse=True)
def _clean():
    pyro.clear_param_store()
    torch.manual_seed(0)


def make_pair(prior=None, *, process=None, denoiser=None, recognition=None, **options):
    denoiser = denoiser or MLPDenoiser(VOCAB, LENGTH, LATENT, feature_size=8, **SIZE)
    recognition = recognition or MLPRecognition(VOCAB, LENGTH, LATENT, **SIZE)
    with torch.no_grad():
        for part in (denoiser, recognition):
            for p in part.parameters():
                p.add_(0.3 * torch.randn_like(p))
    process = process or MaskingProcess(LinearSchedule(), VOCAB)
    model = VADDModel(denoiser, prior or StandardNormalPrior(LATENT), process, **options)
    return model, RecognitionGuide(recognition)


def tokens(batch=BATCH):
    return torch.randint(VOCAB, (batch, LENGTH))


def seeded(seed=3):
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


# KL weight and free bits


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("value", [-1.0, -1e-9, math.nan, math.inf, None, "1"])
def test_bad_kl_weights_are_refused(value):
    process = MaskingProcess(LinearSchedule(), VOCAB)
    with pytest.raises(DomainError, match="kl_weight"):
        DELBO(process, kl_weight=value)
    elbo = DELBO(process, kl_weight=0.5)
    with pytest.raises(DomainError, match="kl_weight"):
        elbo.kl_weight = value
    assert elbo.kl_weight == 0.5


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"free_bits": -0.1}, "free_bits"),
        ({"free_bits": math.inf}, "free_bits"),
        ({"free_bits": math.nan}, "free_bits"),
        ({"num_particles": 0}, "num_particles"),
        ({"num_particles": 1.5}, "num_particles"),
        ({"times": "log"}, "times"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DELBO(MaskingProcess(LinearSchedule(), VOCAB), **options)


@pytest.mark.usefixtures("_unchecked")
def test_what_is_no_process_is_refused():
    with pytest.raises(ConfigError, match=r"model\.process"):
        DELBO(LinearSchedule())


def test_the_kl_weight_may_be_set_between_steps():
    model, guide = make_pair()
    x_0 = tokens()
    elbo = DELBO(model.process)
    loss_fn = elbo(model, guide)
    for weight in (0.0, 0.4, 1.0):
        elbo.kl_weight, elbo.generator = weight, seeded()
        loss = loss_fn(x_0)
        terms = elbo.last_terms
        torch.testing.assert_close(loss.detach(), terms.reconstruction + weight * terms.kl)
        assert terms.kl > 0.1  # not annealed


def test_free_bits_charge_a_constant_below_the_floor_and_the_kl_above():
    model, guide = make_pair()
    x_0 = tokens()
    elbo = DELBO(model.process, generator=seeded())
    batch, weights = elbo.draw(model, x_0)
    kl = kl_divergence(guide.posterior(batch), model.prior(batch.x_t, batch.t)).detach()
    floor = float(kl.median())
    assert (kl < floor).any()
    assert (kl > floor).any()
    floored = DELBO(model.process, free_bits=floor, generator=seeded())
    loss = floored(model, guide)(x_0)
    terms = floored.last_terms
    expected = (weights.latent * kl.clamp(min=floor)).mean()
    torch.testing.assert_close((loss - terms.reconstruction).detach(), expected.detach())
    torch.testing.assert_close(terms.kl, (weights.latent * kl).mean().detach())  # reported unfloored


def test_below_the_floor_the_guide_gets_no_gradient_from_its_kl():
    model, guide = make_pair()
    with torch.no_grad():  # a denoiser that ignores z: the KL is the guide's only gradient
        for p in model.denoiser.trunk.conditioning.parameters():
            p.zero_()
    for free_bits, has_gradient in ((0.0, True), (1e3, False)):
        guide.zero_grad()
        DELBO(model.process, free_bits=free_bits)(model, guide)(tokens()).backward()
        assert any(bool(p.grad.any()) for p in guide.parameters() if p.grad is not None) is has_gradient


def test_free_bits_cost_nothing_where_nothing_is_masked():
    model, guide = make_pair()
    x_0 = tokens()
    loss = DELBO(model.process, free_bits=5.0)(model, guide)(x_0, is_frozen=torch.ones_like(x_0).bool())
    assert loss == 0


# Latent dropout


def capture_latents(model):
    """The latents that the denoiser is given, call by call."""
    seen = []
    features = model.denoiser.features
    model.denoiser.features = lambda x_t, t, z, **options: (seen.append(z), features(x_t, t, z, **options))[1]
    return seen


def test_dropped_rows_have_the_null_latent_and_no_kl():
    model, guide = make_pair(latent_dropout=0.5)
    seen = capture_latents(model)
    elbo = DELBO(model.process)
    terms = elbo.terms(model, guide, tokens(64))
    is_null = (seen[0] == model.null_latent).all(-1)
    assert 10 < is_null.sum() < 54
    assert not terms.kl[is_null].any()
    assert (terms.kl[~is_null] > 0).all()
    assert (terms.reconstruction > 0).all()  # dropped rows are scored all the same
    x_t = torch.full((3, LENGTH), VOCAB)
    null = model.denoise(x_t, torch.ones(3)).logits
    torch.testing.assert_close(
        null, model.denoise(x_t, torch.ones(3), model.null_latent.expand(3, -1)).logits, rtol=0, atol=0
    )


def test_dropped_rows_send_no_gradient_to_the_guide():
    model, guide = make_pair(latent_dropout=1 - 1e-9)
    DELBO(model.process)(model, guide)(tokens()).backward()
    assert not any(bool(p.grad.any()) for p in guide.parameters() if p.grad is not None)
    assert any(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("is_vectorized", [False, True])
def test_dropout_works_with_particles(is_vectorized):
    model, guide = make_pair(latent_dropout=0.5)
    elbo = DELBO(model.process, num_particles=3, vectorize_particles=is_vectorized)
    terms = elbo.terms(model, guide, tokens(64))
    assert 0 < (terms.kl == 0).sum() < 64
    assert torch.isfinite(elbo(model, guide)(tokens(64)))


def test_there_is_no_dropout_in_evaluation_mode():
    model, guide = make_pair(latent_dropout=0.9)
    model.eval()
    assert (DELBO(model.process).terms(model, guide, tokens(256)).kl > 0).all()


def test_the_frequency_of_dropout():
    """10,000 rows at rate 0.3, threshold 4.9 standard errors (0.0225): false-alarm rate 1e-6.

    A rate off by 0.04 is caught with probability above 0.999.
    """
    model, guide = make_pair(latent_dropout=0.3)
    elbo = DELBO(model.process)
    kl = torch.cat([elbo.terms(model, guide, tokens(2_000)).kl for _ in range(5)])
    assert abs((kl == 0).double().mean() - 0.3) < 4.9 * (0.3 * 0.7 / 10_000) ** 0.5


# KL: analytic, estimated, impossible


class MixturePrior(LatentPrior):
    """A prior without analytic KL."""

    latent_shape = torch.Size([1])

    def forward(self, x_t, t, **options):
        loc = torch.tensor([-1.0, 1.5]).expand(x_t.shape[0], 2)[..., None]
        components = dist.Normal(loc, 0.7 * torch.ones_like(loc)).to_event(1)
        weights = dist.Categorical(torch.tensor([0.3, 0.7]).expand(x_t.shape[0], 2))
        return dist.MixtureSameFamily(weights, components)


class TransformedPrior(LatentPrior):
    """A shifted and stretched normal that does not say so."""

    latent_shape = torch.Size([1])

    def forward(self, x_t, t, **options):
        base = dist.Normal(torch.zeros(x_t.shape[0], 1), 1.0).to_event(1)
        return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(0.5, 2.0, event_dim=1)])


def enumerated_kl(posterior, prior):
    """Row by row, by the trapezoidal rule."""
    z = torch.linspace(-12, 12, 4001)[:, None, None].expand(-1, posterior.batch_shape[0], 1)
    log_r = posterior.log_prob(z)
    return torch.trapezoid(log_r.exp() * (log_r - prior.log_prob(z)), z[..., 0], dim=0)


class _FixedRecognition(Recognition):
    latent_shape = torch.Size([1])

    def forward(self, tokens, target, t, **options):
        loc = torch.linspace(-1, 1, tokens.shape[0])[:, None]
        return dist.Normal(loc, 0.5 * torch.ones_like(loc)).to_event(1)


def normal_pair(prior):
    denoiser = MLPDenoiser(VOCAB, LENGTH, 1, feature_size=8, **SIZE)
    return make_pair(prior, denoiser=denoiser, recognition=_FixedRecognition())


@pytest.mark.parametrize("prior", [MixturePrior(), TransformedPrior()], ids=lambda p: type(p).__name__)
def test_a_kl_without_formula_is_estimated_without_bias(prior):
    """20,000 particles of each of 8 rows, threshold 5.3 standard errors: false-alarm rate 1e-6 in all.

    A bias of 0.06 nats is caught with probability above 0.999.
    """
    model, guide = normal_pair(prior)
    x_0 = tokens()
    elbo = DELBO(model.process, num_particles=20_000, vectorize_particles=True, generator=seeded())
    with pytest.raises(NotImplementedError):
        kl_divergence(guide.encode(x_0), prior(x_0, torch.ones(BATCH)))
    with torch.no_grad():
        terms = elbo.terms(model, guide, x_0)
        elbo.generator = seeded()
        batch, weights = elbo.draw(model, x_0)
        posterior = guide.posterior(batch)
        expected = enumerated_kl(posterior, prior(x_0, batch.t))
        z = posterior.sample((20_000,))
        error = (posterior.log_prob(z) - prior(x_0, batch.t).log_prob(z)).std(0) / 20_000**0.5
    assert (8.4 * error < 0.06).all()
    assert ((terms.kl / weights.latent - expected).abs() < 5.3 * error).all()


def test_the_estimate_enters_the_loss():
    model, guide = normal_pair(MixturePrior())
    x_0 = tokens()
    elbo = DELBO(model.process, generator=seeded(), kl_weight=0.3)
    loss = elbo(model, guide)(x_0)
    elbo.generator = seeded()
    terms = elbo.terms(model, guide, x_0)
    torch.testing.assert_close(loss, (terms.reconstruction + 0.3 * terms.kl).mean())


def test_the_kl_of_normals_is_the_formula_whatever_the_draw():
    model, guide = make_pair()
    x_0 = tokens()
    values = []
    for seed in (1, 2):
        elbo = DELBO(model.process, generator=torch.Generator().manual_seed(9))
        torch.manual_seed(seed)
        values.append(elbo.terms(model, guide, x_0))
    assert torch.equal(values[0].kl, values[1].kl)
    assert not torch.equal(values[0].reconstruction, values[1].reconstruction)
    batch, weights = DELBO(model.process, generator=torch.Generator().manual_seed(9)).draw(model, x_0)
    r = guide.posterior(batch).base_dist
    kl = (0.5 * (r.loc**2 + r.scale**2 - 1) - r.scale.log()).sum(-1)
    torch.testing.assert_close(values[0].kl, weights.latent * kl)


def test_a_guide_that_is_not_reparameterized_is_refused():
    model = tiny_model(VOCAB, 2, atoms=[-1.0, 1.0]).float()
    guide = RecognitionGuide(TabularRecognition(VOCAB, 2, atoms=[-1.0, 1.0]).float())
    x_0 = torch.randint(VOCAB, (BATCH, 2))
    elbo = DELBO(model.process)
    for run in (elbo(model, guide), lambda x: elbo.terms(model, guide, x), lambda x: elbo.loss(model, guide, x)):
        with pytest.raises(ConfigError, match="has_rsample"):
            run(x_0)


# Site scales


def trace_values(model_scales, guide_scales):
    """Mean-field and plain estimators of a pair whose sides are scaled by handlers of their own."""
    torch.manual_seed(4)
    pyro.clear_param_store()
    model, guide = make_pair()
    batch = model.process.corrupt(tokens(), torch.full((BATCH,), 0.8))

    def scaled(program, scales):
        def run(batch):
            with ScaleSites(scales):
                return program(batch)

        return run

    values = []
    for estimator in (pyro.infer.TraceMeanField_ELBO(), pyro.infer.Trace_ELBO()):
        torch.manual_seed(5)
        values.append(float(estimator.loss(scaled(model, model_scales), scaled(guide, guide_scales), batch)))
    return values


def test_scaling_one_side_alone_gives_another_value():
    weight = torch.linspace(0.5, 3.0, BATCH)
    both, nothing = {"z": weight, "x_0": weight}, {}
    reference = trace_values(both, both)
    for wrong in (trace_values(both, nothing), trace_values(nothing, both)):
        assert any(abs(a - b) > 0.1 for a, b in zip(wrong, reference, strict=True))
    # The mean-field estimator alone would not notice a scale that is missing on the model's latent.
    assert abs(trace_values({"x_0": weight}, both)[0] - reference[0]) < 1e-4
    assert abs(trace_values({"x_0": weight}, both)[1] - reference[1]) > 0.1


def test_the_scales_reach_model_and_guide_alike():
    model, guide = make_pair()
    batch = model.process.corrupt(tokens(), torch.full((BATCH,), 0.8))
    z, x_0 = torch.rand(BATCH), torch.rand(BATCH)
    elbo = DELBO(model.process)
    ((model_trace, guide_trace),) = elbo._run(model, guide, batch, {"z": z, "x_0": x_0})
    assert torch.equal(torch.as_tensor(model_trace.nodes["z"]["scale"]), z)
    assert torch.equal(torch.as_tensor(guide_trace.nodes["z"]["scale"]), z)
    assert torch.equal(torch.as_tensor(model_trace.nodes["x_0"]["scale"]), x_0)


def test_scales_multiply_those_of_the_program_and_leave_other_sites_alone():
    def program():
        with pyro.poutine.scale(scale=2.0):
            pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("other", dist.Normal(0.0, 1.0))

    with ScaleSites({"z": torch.tensor(3.0)}):
        trace = pyro.poutine.trace(program).get_trace()
    assert float(trace.nodes["z"]["scale"]) == 6.0
    assert float(trace.nodes["other"]["scale"]) == 1.0


def test_scales_may_be_zero():
    """Where ``pyro.poutine.scale`` raises."""
    weight = torch.zeros(BATCH)
    assert trace_values({"z": weight, "x_0": weight}, {"z": weight, "x_0": weight}) == [0.0, 0.0]
    with pytest.raises(ValueError, match="scale"):
        pyro.poutine.scale(lambda: None, scale=0.0)()


def test_no_code_between_two_particles_sees_the_scales():
    model, guide = make_pair()
    elbo = DELBO(model.process, num_particles=2)
    for _ in elbo._get_traces(model, guide, (tokens(),), {}):
        with pyro.poutine.trace() as tracer:
            pyro.sample("z", dist.Normal(0.0, 1.0))
        assert float(tracer.trace.nodes["z"]["scale"]) == 1.0


# Losses that are not finite


class _BreaksAt(Denoiser):
    """Logits that are NaN for times above a threshold."""

    vocab_size, num_tokens, latent_shape = VOCAB, LENGTH, torch.Size([LATENT])

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold
        self.bias = torch.nn.Parameter(torch.zeros(VOCAB))

    def forward(self, x_t, t, z, **options):
        logits = self.bias.expand(*x_t.shape, VOCAB)
        return torch.where((t > self.threshold)[:, None, None], torch.nan, logits)


ENGINES = {
    "module": lambda elbo, model, guide: elbo(model, guide),
    "svi": lambda elbo, model, guide: pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step,
}


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("is_vectorized", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_nan_likelihood_is_reported_with_its_times(engine, is_vectorized):
    model, guide = make_pair(denoiser=_BreaksAt(0.5))
    with torch.no_grad():
        model.denoiser.bias.zero_()
    elbo = DELBO(model.process, num_particles=2, vectorize_particles=is_vectorized)
    times = []
    corrupt = elbo.corrupt
    elbo.corrupt = lambda *args, **kwargs: (times.append(corrupt(*args, **kwargs)), times[-1])[1]
    with pytest.raises(NonFiniteError) as caught:
        ENGINES[engine](elbo, model, guide)(tokens())
    message = str(caught.value)
    assert "log-likelihood of 'x_0'" in message
    assert "'z'" not in message
    broken = [float(t) for t in times[-1].t if t > 0.5]
    assert f"in {len(broken)} of {BATCH} rows" in message
    assert all(f"{t:.4g}" in message for t in broken)
    assert not any(f"{float(t):.4g}" in message for t in times[-1].t if t <= 0.5)


class _BreaksOnce(_BreaksAt):
    """NaN in its first call alone."""

    def forward(self, x_t, t, z, **options):
        logits = super().forward(x_t, t, z)
        self.threshold = 2.0
        return logits


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_the_particle_that_broke_is_the_one_that_is_reported():
    x_0 = tokens()
    for run in (DELBO.loss, DELBO.terms):
        model, guide = make_pair(denoiser=_BreaksOnce(-1.0))
        with pytest.raises(NonFiniteError, match="log-likelihood of 'x_0'"):
            run(DELBO(model.process, num_particles=2), model, guide, x_0)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_nan_kl_is_reported(engine):
    model, guide = make_pair(denoiser=_BreaksAt(2.0))
    with torch.no_grad():
        guide.recognition.family.log_variance.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=rf"KL of 'z' in {BATCH} of {BATCH} rows, at t = \d"):
        ENGINES[engine](DELBO(model.process), model, guide)(tokens())


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_nan_is_let_through_where_the_process_does_not_validate():
    model, guide = make_pair(
        denoiser=_BreaksAt(0.0), process=MaskingProcess(LinearSchedule(), VOCAB, validate_args=False)
    )
    assert DELBO(model.process)(model, guide)(tokens()).isnan()


# Bad data


BAD_DATA = [
    (lambda x: x + VOCAB, DomainError, "check vocab_size"),
    (lambda x: x - 1 - x.min(), DomainError, "check vocab_size"),
    (lambda x: torch.where(torch.eye(BATCH, LENGTH).bool(), VOCAB, x), DomainError, "mask token"),
    (lambda x: x[0], ShapeError, "x_0 must have shape"),
    (lambda x: x[None], ShapeError, "x_0 must have shape"),
    (lambda x: x[:0], ShapeError, "x_0 must have shape"),
    (lambda x: x.int(), DtypeError, "int64"),
    (lambda x: x.float(), DtypeError, "int64"),
    (lambda x: x[:, :3], ShapeError, "num_tokens=4"),
]


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("objective", ["count", "uniform", "finite", "continuous"])
@pytest.mark.parametrize(("spoil", "error", "message"), BAD_DATA)
def test_bad_data_is_refused(spoil, error, message, objective, engine):
    model, guide = make_pair()
    elbo = {
        "count": lambda: DELBO(model.process),
        "uniform": lambda: DELBO(model.process, times="uniform"),
        "finite": lambda: FiniteStepELBO(model.process, 3),
        "continuous": lambda: ContinuousTimeELBO(model.process),
    }[objective]()
    with pytest.raises(error, match=message) as caught:
        ENGINES[engine](elbo, model, guide)(spoil(tokens()))
    assert isinstance(caught.value, VADDError)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", ["is_frozen", "is_padding"])
def test_bad_flags_are_refused(name):
    model, guide = make_pair()
    x_0 = tokens()
    for flags, error in ((x_0, DtypeError), (x_0[:, :2] > 2, ShapeError), (x_0[:2] > 2, ShapeError)):
        for times in ("count", "uniform"):
            with pytest.raises(error, match=name):
                DELBO(model.process, times=times)(model, guide)(x_0, **{name: flags})


def test_unknown_keywords_are_refused():
    model, guide = make_pair()
    with pytest.raises(TypeError, match="is_froze"):
        DELBO(model.process)(model, guide)(tokens(), is_froze=None)
    with pytest.raises(TypeError, match="x_0"):
        DELBO(model.process)(model, guide)()
