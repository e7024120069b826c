"""Laws of the recognition families, whatever the network."""

import functools
import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from vadd import DELBO, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import DiTRecognition, MLPDenoiser, MLPRecognition
from vadd.backbones.families import (
    DiagonalNormal,
    Family,
    FlowNormal,
    FullNormal,
    LowRankNormal,
    Output,
    RelaxedOneHot,
    StraightThrough,
    resolve_family,
)
from vadd.errors import ConfigError
from vadd.objectives.divergence import kl_mode, latent_divergence
from vadd.priors import CategoricalPrior, StandardNormalPrior
from vadd.registry import build, describe, register
from vadd.schedules import LinearSchedule
from vadd.testing import check_recognition
from vadd.testing.density import check_density

from . import parts

perturb = functools.partial(parts.perturb, scale=0.3)

BATCH, FEATURES, SITES = 3, 6, 4
NORMALS = {
    "diagonal": DiagonalNormal,
    "low-rank": lambda: LowRankNormal(rank=2),
    "full": FullNormal,
    "flow": lambda: FlowNormal(num_transforms=3, hidden_size=8),
}
ONE_HOTS = {"straight-through": StraightThrough, "relaxed": lambda: RelaxedOneHot(0.5)}
FAMILIES = {**NORMALS, **ONE_HOTS}
LAYOUTS = {"vector": ((3,), None), "two axes": ((2, 3), None), "sites": ((SITES, 3), SITES)}


def built(name, layout="vector"):
    family, (shape, num_sites) = FAMILIES[name](), LAYOUTS[layout]
    family.build(FEATURES, torch.Size(shape), num_sites=num_sites)
    return family


def features(layout="vector"):
    num_sites = LAYOUTS[layout][1]
    return torch.randn(BATCH, FEATURES) if num_sites is None else torch.randn(BATCH, num_sites, FEATURES)


def standard(family):
    """The distribution that zero outputs stand for."""
    shape = (BATCH, *family.latent_shape)
    if isinstance(family, StraightThrough | RelaxedOneHot):
        return dist.OneHotCategorical(logits=torch.zeros(shape)).to_event(len(shape) - 2)
    return dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape) - 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("network", [MLPRecognition, DiTRecognition])
def test_networks_of_every_family_keep_the_contract(network, name, layout):
    size = {"hidden_size": 8, "depth": 1, "modulation_size": 4}
    recognition = network(4, SITES, LAYOUTS[layout][0], family=FAMILIES[name](), **size)
    check_recognition(recognition, 4, SITES)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NORMALS)
def test_normal_families_start_as_the_same_diagonal_normal(name, layout):
    torch.manual_seed(0)
    reference = built("diagonal", layout)
    torch.manual_seed(0)
    family = built(name, layout)
    x = features(layout)
    q, expected = family(x), reference(x)
    z = torch.randn(5, BATCH, *family.latent_shape)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    assert expected.mean.std(0).mean() > 0.1
    assert torch.equal(expected.variance, torch.ones_like(expected.variance))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_output_layer_receives_a_gradient_from_the_start(name):
    family = built(name)
    q = family(features())
    z = q.rsample((64,))
    loss = (z * torch.randn_like(z)).sum() + latent_divergence(q.expand((64, BATCH)), standard(family), z).sum()
    loss.backward()
    closed = {"couplings"} if name == "flow" else set()  # inside, behind output layers at zero
    for key, p in family.named_parameters():
        if key.split(".")[0] not in closed or key.split(".")[2] == "out":
            assert p.grad.abs().max() > 0, key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_divergence_is_the_expected_log_ratio(name, layout):
    family = perturb(built(name, layout))
    with torch.no_grad():
        q, p = family(features(layout)), standard(family)
        z = q.sample((20_000,))
        ratio = q.log_prob(z) - p.log_prob(z)
    assert kl_mode(q, p) == ("monte-carlo" if name == "flow" else "analytic")
    # Three rows: a deviation of 6 standard errors has probability below 1e-8.
    error = ratio.std(0) / len(ratio) ** 0.5
    if name != "flow":
        assert ((kl_divergence(q, p) - ratio.mean(0)).abs() < 6 * error + 1e-4).all()
    assert (ratio.mean(0) > 6 * error).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_that_are_not_active_have_the_standard_distribution(name):
    family, x = perturb(built(name, "sites")), features("sites")
    is_active = torch.tensor([[True, True, False, False], [False] * 4, [True, False, True, False]])
    q, p = family(x, is_active), standard(family)
    z, other = p.sample(), p.sample()
    # Row 1 is standard altogether; elsewhere inactive sites add just what they add to the standard density.
    torch.testing.assert_close(q.log_prob(z)[1], p.log_prob(z)[1])
    moved = torch.where(is_active[..., None], z, other)
    torch.testing.assert_close(q.log_prob(moved) - q.log_prob(z), p.log_prob(moved) - p.log_prob(z), rtol=0, atol=1e-5)
    assert (q.log_prob(z) - p.log_prob(z))[[0, 2]].abs().min() > 1e-3
    changed = torch.where(is_active[..., None], x, torch.randn_like(x))
    torch.testing.assert_close(family(changed, is_active).log_prob(z), q.log_prob(z))


def test_families_of_one_distribution_a_site_are_products_and_low_rank_correlates_sites():
    x = features("sites")
    z = torch.randn(BATCH, SITES, 3)
    other = z.clone()
    other[:, 0] += 1
    third = z.clone()
    third[:, 1] -= 1
    both = other.clone()
    both[:, 1] -= 1
    for name in NORMALS:
        q = perturb(built(name, "sites"))(x)
        mixed = q.log_prob(both) - q.log_prob(other) - q.log_prob(third) + q.log_prob(z)
        assert (mixed.abs().max() > 1e-2) == (name == "low-rank")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_density_of_a_flow_is_that_of_its_map(layout):
    """Change of variables with the Jacobian of the draw as a function of its noise, by automatic differentiation."""
    family = perturb(built("flow", layout)).double()
    q = family(features(layout).double())
    noise = torch.randn(BATCH, *q.base_dist.event_shape, dtype=torch.float64)

    def push(noise):
        for transform in q.transforms:
            noise = transform(noise)
        return noise

    z = push(noise)
    for b in range(BATCH):

        def one(e, b=b):
            return push(torch.cat([noise[:b], e[None], noise[b + 1 :]]))[b]

        size = noise[b].numel()
        jacobian = torch.autograd.functional.jacobian(one, noise[b])
        expected = dist.Normal(0.0, 1.0).log_prob(noise[b]).sum() - jacobian.reshape(size, size).slogdet().logabsdet
        torch.testing.assert_close(q.log_prob(z)[b], expected)


def test_the_density_of_a_flow_is_normalized_at_points_that_it_did_not_draw():
    family = FlowNormal(num_transforms=2, hidden_size=4)
    family.build(FEATURES, torch.Size([2]))
    q = perturb(family).double()(features().double())
    axis = torch.linspace(-30, 30, 501, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None].expand(-1, BATCH, -1)
    total = q.log_prob(z).exp().sum(0) * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(total, torch.ones(BATCH, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", NORMALS)
def test_gradients_of_draws_are_those_of_finite_differences(name):
    family, x = perturb(built(name)).double(), features().double()
    weights = torch.randn(BATCH, 3, dtype=torch.float64)

    def value(x):
        torch.manual_seed(1)
        q = family(x)
        z = q.rsample()
        return (weights * z).sum() + q.log_prob(z).sum() + q.log_prob(weights).sum()

    assert torch.autograd.gradcheck(value, x.requires_grad_())
    parameters = [p for p in family.parameters() if p.numel() > 1]
    gradients = torch.autograd.grad(value(x), parameters)
    for p, gradient in zip(parameters, gradients, strict=True):
        direction, step = torch.randn_like(p), 1e-6
        with torch.no_grad():
            p.add_(step * direction)
            above = value(x)
            p.sub_(2 * step * direction)
            below = value(x)
            p.add_(step * direction)
        torch.testing.assert_close((gradient * direction).sum(), (above - below) / (2 * step), rtol=1e-5, atol=1e-6)


def test_a_draw_without_gradients_does_not_take_those_of_the_density():
    family, x = perturb(built("flow")), features()
    q = family(x)
    z = q.sample()
    copy = z.clone()
    own, fresh = (torch.autograd.grad(family(x).log_prob(v).sum(), family.loc.weight)[0] for v in (z, copy))
    (same,) = torch.autograd.grad(q.log_prob(z).sum(), family.loc.weight)
    torch.testing.assert_close(own, fresh)
    torch.testing.assert_close(same, fresh)


@pytest.mark.parametrize("scale", [1e3, 1e8])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_step_however_bad_makes_an_infinite_distribution(name, scale):
    family = perturb(built(name), scale=scale)
    q = family(features())
    z = q.rsample()
    assert z.isfinite().all()
    assert q.log_prob(z.detach()).isfinite().all()
    assert latent_divergence(q, standard(family), z).isfinite().all()


@pytest.mark.parametrize(("name", "layer"), [("low-rank", "factor"), ("full", "lower")])
def test_nearly_singular_covariances_can_be_factorized_and_inverted(name, layer):
    """Equal columns, whose Gram matrix loses the identity beside it, and a triangle whose inverse overflows."""
    family = FAMILIES[name]()
    family.build(FEATURES, torch.Size([8]))
    torch.nn.init.constant_(getattr(family, layer).bias, 1e7)
    q = family(features())
    assert q.log_prob(q.sample()).isfinite().all()
    assert kl_divergence(q, standard(family)).isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_distributions_are_in_float32_also_from_half_precision_networks(name):
    for family, x in (
        (perturb(built(name)).bfloat16(), features().bfloat16()),
        (perturb(built(name)), features()),
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.float32):
            q = family(x)
            z = q.rsample()
            log_prob = q.log_prob(z)
        assert z.dtype == torch.float32
        assert log_prob.dtype == torch.float32
        check_density("it", q)


def test_a_flow_in_half_precision_returns_to_its_noise():
    family = perturb(built("flow")).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        q = family(features().bfloat16())
        noise = torch.randn(BATCH, 3)
        z = noise
        for transform in q.transforms:
            z = transform(z)
        for transform in reversed(q.transforms):
            z = transform.inv(z)
    torch.testing.assert_close(z, noise, rtol=1e-3, atol=1e-3)


def test_relaxed_draws_are_for_training_only():
    family = RelaxedOneHot(1.0, is_hard=False)
    family.build(FEATURES, torch.Size([2, 3]))
    soft = family(features()).rsample()
    hard = family.eval()(features()).rsample()
    assert ((soft > 0) & (soft < 1)).all()
    assert ((hard == 0) | (hard == 1)).all()
    assert hard.requires_grad


@pytest.mark.parametrize("name", ONE_HOTS)
def test_one_group_of_categories_needs_no_axis_of_its_own(name):
    family = FAMILIES[name]()
    family.build(FEATURES, torch.Size([5]))
    q, p = family(features()), CategoricalPrior(5)(torch.zeros(BATCH, 2, dtype=torch.long), torch.ones(BATCH))
    assert (q.batch_shape, q.event_shape) == ((BATCH,), (5,))
    assert kl_divergence(q, p).shape == (BATCH,)


def pair_of(name, **options):
    latent = (2, 4) if name in ONE_HOTS else 2
    size = {"hidden_size": 32, "depth": 1, "modulation_size": 16}
    prior = CategoricalPrior(latent) if name in ONE_HOTS else StandardNormalPrior(latent)
    model = VADDModel(MLPDenoiser(4, 2, latent, **size), prior, MaskingProcess(LinearSchedule(), 4), **options)
    return model, RecognitionGuide(MLPRecognition(4, 2, latent, family=FAMILIES[name](), **size))


@pytest.mark.parametrize("name", FAMILIES)
def test_particles_in_one_pass_have_the_divergence_of_particles_in_turn(name):
    model, guide = pair_of(name)
    perturb(guide)
    x_0 = torch.randint(4, (200, 2))
    kl = []
    for vectorize in (False, True):
        generator = torch.Generator().manual_seed(0)
        elbo = DELBO(model.process, num_particles=2, vectorize_particles=vectorize, generator=generator)
        elbo(model, guide)(x_0).backward()
        kl.append(elbo.last_terms.kl)
    if name == "flow":  # estimates from other draws
        assert abs(kl[0] - kl[1]) < 0.5 * kl[0]
    else:
        torch.testing.assert_close(*kl)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_null_latent_stands_in_for_a_latent_of_every_family(name):
    model, guide = pair_of(name, latent_dropout=0.5)
    loss = DELBO(model.process)(model, guide)(torch.randint(4, (32, 2)))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in guide.parameters())
    for latents in ("fresh", "shared", "null"):
        assert model.sample(3, num_steps=2, latents=latents).shape == (3, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_moves_every_family_towards_a_dependence(name):
    """Two tokens that are always equal, one step: a latent of any family lowers the loss below independence."""
    torch.manual_seed(0)
    model, guide = pair_of(name)
    elbo = DELBO(model.process, kl_weight=0.1)
    parts = torch.nn.ModuleList([model, guide])
    optimizer = torch.optim.Adam(parts.parameters(), lr=1e-2)
    for _ in range(120):
        loss = elbo(model, guide)(torch.randint(4, (64, 1)).expand(64, 2).contiguous())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = model.sample(1000, num_steps=1)
    assert (x[:, 0] == x[:, 1]).double().mean() > 0.5  # 0.25 without a latent


@pytest.mark.parametrize("name", NORMALS)
def test_a_network_is_rebuilt_with_its_family_and_the_options_of_it(name):
    network = perturb(MLPRecognition(4, 2, (2, 2), family=FAMILIES[name](), hidden_size=8, depth=1))
    copy = build(describe(network))
    copy.load_state_dict(network.state_dict())
    assert describe(copy) == describe(network)
    x, t, z = torch.randint(4, (BATCH, 2)), torch.rand(BATCH), torch.randn(BATCH, 2, 2)
    assert torch.equal(copy(x, x == x, t).log_prob(z), network(x, x == x, t).log_prob(z))


def test_names_stand_for_families_with_their_defaults():
    kinds = {name: type(resolve_family(name)) for name in FAMILIES}
    assert kinds == {
        "diagonal": DiagonalNormal,
        "low-rank": LowRankNormal,
        "full": FullNormal,
        "flow": FlowNormal,
        "straight-through": StraightThrough,
        "relaxed": RelaxedOneHot,
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLPRecognition(4, 2, 3, family="spline"), "family must be one of diagonal"),
        (lambda: LowRankNormal(0), "rank"),
        (lambda: FlowNormal(0), "num_transforms"),
        (lambda: FlowNormal(2, hidden_size=True), "hidden_size"),
        (lambda: RelaxedOneHot(0.0), "temperature"),
        (lambda: RelaxedOneHot(math.inf), "temperature"),
        (lambda: MLPRecognition(4, 2, 1, family="full"), "at least 2 components"),
        (lambda: DiTRecognition(4, 2, (2, 1), family="flow"), "at least 2 components"),
        (lambda: MLPRecognition(4, 2, (3, 1), family="relaxed"), "at least 2 categories"),
        (lambda: MLPRecognition(4, 2, 1, family="straight-through"), "at least 2 categories"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_family_serves_one_network():
    family = DiagonalNormal()
    MLPRecognition(4, 2, 3, family=family)
    with pytest.raises(ConfigError, match="belongs to another network"):
        MLPRecognition(4, 2, 3, family=family)


@register
class _HeavyTails(Family):
    """A family of a user's own."""

    def __init__(self, degrees: float = 5.0) -> None:
        super().__init__()
        self.degrees = degrees

    def create(self, num_features):
        self.loc = Output(num_features, self.size, is_informative=True)
        self.log_scale = Output(num_features, self.size)

    def forward(self, features, is_active=None):
        loc, log_scale = (self.shaped(layer(features, is_active)) for layer in (self.loc, self.log_scale))
        return dist.StudentT(self.degrees, loc, log_scale.exp()).to_event(len(self.latent_shape))


def test_a_family_of_ones_own_is_a_few_lines():
    network = MLPRecognition(4, 3, 2, family=_HeavyTails(7.0), hidden_size=8, depth=1)
    check_recognition(network, 4, 3)
    assert build(describe(network)).family.degrees == 7.0
