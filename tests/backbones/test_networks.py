"""Laws of the MLP and DiT networks."""

import subprocess
import sys

import pytest
import torch

from vadd.backbones import DiTDenoiser, DiTRecognition, MLPDenoiser, MLPRecognition, Recognition
from vadd.backbones.transformer import Rotary, rotate
from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.registry import build, describe
from vadd.testing import check_denoiser, check_recognition

from .parts import perturb

VOCAB, LENGTH, BATCH = 5, 7, 3
SMALL = {"hidden_size": 16, "depth": 2, "modulation_size": 8}
LATENTS = [4, (2, 3), (LENGTH, 2)]

DENOISERS = {
    "mlp": lambda latent, **options: MLPDenoiser(VOCAB, LENGTH, latent, **SMALL, **options),
    "rotary": lambda latent, **options: DiTDenoiser(VOCAB, LENGTH, latent, **SMALL, **options),
    "learned": lambda latent, **options: DiTDenoiser(VOCAB, LENGTH, latent, positions="learned", **SMALL, **options),
}
RECOGNITIONS = {
    "mlp": lambda latent, **options: MLPRecognition(VOCAB, LENGTH, latent, **SMALL, **options),
    "rotary": lambda latent, **options: DiTRecognition(VOCAB, LENGTH, latent, **SMALL, **options),
    "learned": lambda latent, **options: DiTRecognition(VOCAB, LENGTH, latent, positions="learned", **SMALL, **options),
}
OPTIONS = [{}, {"reads_time": True}, {"num_classes": 3}, {"reads_time": True, "num_classes": 3}]


def tokens(high=VOCAB + 1, batch=BATCH, length=LENGTH):
    return torch.randint(high, (batch, length))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("latent", [0, *LATENTS], ids=str)
@pytest.mark.parametrize("kind", DENOISERS)
def test_denoisers_keep_the_contract(kind, latent, options):
    network = DENOISERS[kind](latent, **options)
    check_denoiser(network)
    if "num_classes" in options:
        check_denoiser(network, condition=torch.tensor([0, 2, 3]))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("latent", LATENTS, ids=str)
@pytest.mark.parametrize("kind", RECOGNITIONS)
def test_recognition_networks_keep_the_contract(kind, latent, options):
    network = RECOGNITIONS[kind](latent, **options)
    check_recognition(network, VOCAB, LENGTH)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("latent", LATENTS, ids=str)
@pytest.mark.parametrize("kind", DENOISERS)
def test_a_denoiser_with_a_latent_starts_as_the_one_without(kind, latent, options):
    # The latter's other parameters are random too, so that time and class have an effect.
    without = perturb(DENOISERS[kind](0, **options))
    network = DENOISERS[kind](latent, **options)
    report = network.load_state_dict(without.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert report.missing_keys
    assert all("conditioning.latent." in key for key in report.missing_keys)
    x_t, t, z = tokens(), torch.rand(BATCH), torch.randn(BATCH, *network.latent_shape)
    assert torch.equal(network(x_t, t, z), without(x_t, t, torch.zeros(BATCH, 0)))


@pytest.mark.parametrize("latent", LATENTS, ids=str)
@pytest.mark.parametrize("kind", DENOISERS)
def test_the_latent_path_learns_from_the_first_step(kind, latent):
    network = DENOISERS[kind](latent)
    x_t, t, z = tokens(), torch.rand(BATCH), torch.randn(BATCH, *network.latent_shape)
    network(x_t, t, z).square().sum().backward()
    assert network.trunk.conditioning.latent.modulation.weight.grad.abs().max() > 0


@pytest.mark.parametrize("latent", LATENTS, ids=str)
@pytest.mark.parametrize("kind", RECOGNITIONS)
def test_recognition_starts_at_unit_variance_with_an_informative_location(kind, latent):
    q = RECOGNITIONS[kind](latent)(tokens(VOCAB), torch.rand(BATCH, LENGTH) < 0.5, torch.rand(BATCH))
    assert torch.equal(q.variance, torch.ones_like(q.variance))
    assert q.mean.std(0).mean() > 0.03


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", DENOISERS)
def test_networks_run_in_other_dtypes(kind, dtype):
    denoiser = DENOISERS[kind](4, reads_time=True, num_classes=2).to(dtype)
    recognition = RECOGNITIONS[kind](4, reads_time=True, num_classes=2).to(dtype)
    x, t, target = tokens(), torch.rand(BATCH), torch.rand(BATCH, LENGTH) < 0.5
    q = recognition(x, target, t)
    assert q.mean.dtype == torch.promote_types(dtype, torch.float32)
    logits = denoiser(x, t, q.rsample())
    assert logits.dtype == dtype
    assert logits.isfinite().all()


@pytest.mark.parametrize("kind", DENOISERS)
def test_autocast_gives_nearly_the_same_logits(kind):
    network = perturb(DENOISERS[kind](4, reads_time=True))
    x_t, t, z = tokens(), torch.rand(BATCH), torch.randn(BATCH, 4)
    exact = network(x_t, t, z)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x_t, t, z)
    assert (mixed.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    "network",
    [
        *(make((LENGTH, 2), reads_time=True, num_classes=2) for make in DENOISERS.values()),
        *(make((LENGTH, 2), reads_time=True, num_classes=2) for make in RECOGNITIONS.values()),
    ],
    ids=lambda network: type(network).__name__,
)
def test_a_network_is_rebuilt_from_its_description_and_state(network):
    perturb(network)
    copy = build(describe(network))
    copy.load_state_dict(network.state_dict())
    assert describe(copy) == describe(network)
    x, t, target = tokens(), torch.rand(BATCH), torch.rand(BATCH, LENGTH) < 0.5
    if isinstance(network, Recognition):
        assert torch.equal(copy(x, target, t).mean, network(x, target, t).mean)
    else:
        z = torch.randn(BATCH, LENGTH, 2)
        assert torch.equal(copy(x, t, z), network(x, t, z))


def test_padding_changes_nothing_for_a_transformer():
    denoiser = perturb(DiTDenoiser(VOCAB, None, 4, reads_time=True, **SMALL)).double()
    recognition = perturb(DiTRecognition(VOCAB, None, 4, reads_time=True, **SMALL)).double()
    x, t, z = tokens(), torch.rand(BATCH, dtype=torch.float64), torch.randn(BATCH, 4, dtype=torch.float64)
    target = torch.rand(BATCH, LENGTH) < 0.5
    longer = torch.cat([x, tokens(length=3)], 1)
    is_padding = torch.arange(LENGTH + 3).expand(BATCH, -1) >= LENGTH
    padded_target = torch.cat([target, torch.zeros(BATCH, 3, dtype=torch.bool)], 1)
    logits = denoiser(longer, t, z, is_padding=is_padding)
    torch.testing.assert_close(logits[:, :LENGTH], denoiser(x, t, z), rtol=0, atol=1e-6)
    q = recognition(longer, padded_target, t, is_padding=is_padding)
    torch.testing.assert_close(q.mean, recognition(x, target, t).mean, rtol=0, atol=1e-6)


def test_a_latent_per_position_is_standard_normal_at_padding():
    network = perturb(RECOGNITIONS["rotary"]((LENGTH, 2)))
    is_padding = torch.arange(LENGTH).expand(BATCH, -1) >= 4
    q = network(tokens(VOCAB), ~is_padding, torch.rand(BATCH), is_padding=is_padding)
    assert torch.equal(q.mean[is_padding], torch.zeros(BATCH * (LENGTH - 4), 2))
    assert torch.equal(q.variance[is_padding], torch.ones(BATCH * (LENGTH - 4), 2))
    assert (q.mean[~is_padding] != 0).all()


def test_rotary_scores_depend_on_distances_only():
    rotary = Rotary(8, 16)
    cos, sin = rotary(16, torch.float32)
    q, k = torch.randn(8), torch.randn(8)
    q, k = (rotate(v.expand(1, 16, 1, 1, 8), cos, sin)[0, :, 0, 0] for v in (q, k))
    scores = q @ k.T
    for offset in range(-15, 16):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert (scores[0, 1:] - scores[0, 0]).abs().max() > 0.01
    torch.testing.assert_close(q.norm(dim=-1), q[:1].norm(dim=-1).expand(16))


def test_rotary_tables_continue_past_the_stored_length():
    short, long = Rotary(8, 4), Rotary(8, 32)
    for a, b in zip(short(32, torch.float32), long(32, torch.float32), strict=True):
        assert torch.equal(a, b)
    assert short.tables.shape[1] == 4  # a length seen once does not change the module


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_transformer_tells_positions_apart(positions):
    network = perturb(DiTDenoiser(VOCAB, LENGTH, 4, positions=positions, **SMALL))
    x_t, t, z = tokens(), torch.rand(BATCH), torch.randn(BATCH, 4)
    order = torch.randperm(LENGTH)
    moved = network(x_t[:, order], t, z)
    assert not torch.allclose(moved, network(x_t, t, z)[:, order], atol=1e-4)


def test_a_transformer_without_positions_is_permutation_equivariant():
    network = perturb(DiTDenoiser(VOCAB, LENGTH, 4, **SMALL))
    network.trunk.rotary = None
    x_t, t, z = tokens(), torch.rand(BATCH), torch.randn(BATCH, 4)
    order = torch.randperm(LENGTH)
    torch.testing.assert_close(network(x_t[:, order], t, z), network(x_t, t, z)[:, order])


def test_a_latent_per_position_acts_at_its_position_first():
    network = perturb(DiTDenoiser(VOCAB, LENGTH, (LENGTH, 2), **{**SMALL, "depth": 1}))
    with torch.no_grad():
        network.trunk.blocks[0].attention_out.weight.zero_()
    x_t, t, z = tokens(), torch.rand(BATCH), torch.randn(BATCH, LENGTH, 2)
    changed = z.clone()
    changed[:, 3] += 1
    difference = (network(x_t, t, changed) - network(x_t, t, z)).abs().amax((0, 2))
    assert difference[3] > 1e-3
    assert difference[[0, 1, 2, 4, 5, 6]].max() == 0


@pytest.mark.parametrize("kind", DENOISERS)
def test_time_and_class_enter_only_where_asked(kind):
    x_t, z = tokens(), torch.randn(BATCH, 4)
    early, late = torch.full((BATCH,), 0.1), torch.full((BATCH,), 0.9)
    blind = perturb(DENOISERS[kind](4))
    assert torch.equal(blind(x_t, early, z), blind(x_t, late, z))
    seeing = perturb(DENOISERS[kind](4, reads_time=True, num_classes=2))
    assert not torch.allclose(seeing(x_t, early, z), seeing(x_t, late, z))
    zeros, ones = torch.zeros(BATCH, dtype=torch.int64), torch.ones(BATCH, dtype=torch.int64)
    assert not torch.allclose(seeing(x_t, early, z, condition=zeros), seeing(x_t, early, z, condition=ones))
    assert torch.equal(seeing(x_t, early, z), seeing(x_t, early, z, condition=2 * ones))


@pytest.mark.parametrize("kind", DENOISERS)
def test_wrong_inputs_are_named(kind):
    network, t, z = DENOISERS[kind](4, num_classes=2), torch.rand(BATCH), torch.randn(BATCH, 4)
    with pytest.raises(ConfigError, match="num_classes"):
        DENOISERS[kind](4)(tokens(), t, z, condition=torch.zeros(BATCH, dtype=torch.int64))
    with pytest.raises(ShapeError, match="condition"):
        network(tokens(), t, z, condition=torch.zeros(BATCH, 1, dtype=torch.int64))
    with pytest.raises(DtypeError, match="int64"):
        network(tokens(), t, z, condition=torch.zeros(BATCH))
    for label in (-1, 3):
        with pytest.raises(DomainError, match=f"labels from 0 to 1, or 2 for no label, got {label} to {label}"):
            network(tokens(), t, z, condition=torch.full((BATCH,), label))
    with pytest.raises(ShapeError, match="z must"):
        network(tokens(), t, torch.randn(BATCH, 5))
    if kind != "rotary":
        with pytest.raises(ShapeError, match="num_tokens"):
            network(tokens(length=LENGTH + 1), t, z)


def test_latents_per_position_fix_the_length():
    x, t, target = tokens(length=LENGTH + 1), torch.rand(BATCH), torch.rand(BATCH, LENGTH + 1) < 0.5
    with pytest.raises(ShapeError, match="num_tokens"):
        DENOISERS["rotary"]((LENGTH, 2))(x, t, torch.randn(BATCH, LENGTH, 2))
    with pytest.raises(ShapeError, match="num_tokens"):
        RECOGNITIONS["rotary"]((LENGTH, 2))(x, target, t)


@pytest.mark.parametrize("make", [MLPDenoiser, MLPRecognition, DiTDenoiser, DiTRecognition])
@pytest.mark.parametrize(
    "wrong",
    [
        {"vocab_size": 0},
        {"num_tokens": 0},
        {"latent_shape": -1},
        {"latent_shape": ()},
        {"hidden_size": 0},
        {"depth": 0},
        {"num_classes": 0},
        {"modulation_size": 7},
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(make, wrong):
    arguments = {"vocab_size": VOCAB, "num_tokens": LENGTH, "latent_shape": 4, **wrong}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make(**arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positions": "sine"}, "positions"),
        ({"positions": "learned", "num_tokens": None}, "num_tokens"),
        ({"hidden_size": 10, "num_heads": 4}, "multiple"),
        ({"hidden_size": 12, "num_heads": 4}, "even"),
    ],
)
@pytest.mark.parametrize("make", [DiTDenoiser, DiTRecognition])
def test_options_that_do_not_fit_are_refused(make, wrong, message):
    with pytest.raises(ConfigError, match=message):
        make(**{"vocab_size": VOCAB, "num_tokens": LENGTH, "latent_shape": 4, **wrong})


@pytest.mark.parametrize("make", [MLPRecognition, DiTRecognition])
def test_an_empty_latent_has_no_recognition_network(make):
    with pytest.raises(ConfigError, match="EmptyRecognition"):
        make(VOCAB, LENGTH, 0)


def test_networks_compile_to_one_graph():
    # In a process of its own: annotations that are checked at run time break the graph.
    program = """
import torch
from vadd.backbones import DiTDenoiser, DiTRecognition, MLPDenoiser
options = dict(hidden_size=16, depth=1, reads_time=True, num_classes=2)
x, t, z = torch.randint(5, (3, 7)), torch.rand(3), torch.randn(3, 4)
for network in (DiTDenoiser(5, None, 4, **options), MLPDenoiser(5, 7, 4, **options)):
    run = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(run(x, t, z, is_padding=x == 0), network(x, t, z, is_padding=x == 0))
patches = dict(patches=(0, 2, 1, 1, 0, 2, 2), hidden_size=16, depth=1)
network, z = DiTDenoiser(5, 7, (3, 2), **patches), torch.randn(3, 3, 2)
torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="eager")(x, t, z), network(x, t, z))
trunk = DiTRecognition(5, None, 4, **options).trunk
run = torch.compile(trunk, fullgraph=True, backend="eager")
torch.testing.assert_close(run(x, t, target=x == 1), trunk(x, t, target=x == 1))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
