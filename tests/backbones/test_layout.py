"""Laws of the latent's layout: which positions a vector of the latent belongs to."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from vadd import CorruptedBatch, MaskingProcess, RecognitionGuide, VADDModel
from vadd.backbones import (
    DiTDenoiser,
    DiTRecognition,
    EmbeddingRecognition,
    MLPRecognition,
    SharedRecognition,
    block_patches,
    grid_patches,
)
from vadd.backbones.families import LowRankNormal
from vadd.backbones.layout import Layout
from vadd.errors import ConfigError, ShapeError
from vadd.priors import StandardNormalPrior
from vadd.registry import build, describe
from vadd.schedules import LinearSchedule
from vadd.testing import check_denoiser, check_recognition

from .parts import perturb

VOCAB, LENGTH, BATCH = 5, 7, 3
PATCHES = (0, 2, 1, 1, 0, 2, 2)
SMALL = {"hidden_size": 16, "depth": 2, "modulation_size": 8}
IDENTITY = tuple(range(LENGTH))


def tokens(high=VOCAB, length=LENGTH):
    return torch.randint(high, (BATCH, length))


def denoiser(**options):
    return perturb(DiTDenoiser(VOCAB, LENGTH, (3, 2), patches=PATCHES, **{**SMALL, **options}))


def recognition(shape=(3, 2), patches=PATCHES, **options):
    return perturb(DiTRecognition(VOCAB, LENGTH, shape, patches=patches, **{**SMALL, **options}))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_grid_patches_are_those_of_the_grid_cut_into_rectangles(down, across, rows, columns):
    height, width = down * rows, across * columns
    patches = torch.tensor(grid_patches(height, width, (rows, columns))).reshape(height, width)
    for p in range(down * across):
        block = patches[(p // across) * rows :, (p % across) * columns :][:rows, :columns]
        assert (block == p).all()
    if rows == columns:
        assert grid_patches(height, width, rows) == tuple(patches.flatten().tolist())


@given(st.integers(1, 12), st.integers(1, 5))
def test_block_patches_are_runs_of_equal_length(num_tokens, size):
    patches = block_patches(num_tokens, size)
    assert patches == tuple(sorted(patches))
    counts = [patches.count(p) for p in range(patches[-1] + 1)]
    assert counts[:-1] == [size] * (len(counts) - 1)
    assert 1 <= counts[-1] <= size
    assert sum(counts) == num_tokens


@pytest.mark.parametrize("shape", [(3, 2), (LENGTH, 2), (4,)], ids=str)
def test_means_and_flags_of_sites_are_those_of_their_positions(shape):
    patches = PATCHES if shape == (3, 2) else None
    layout = Layout(torch.Size(shape), LENGTH, patches)
    x, where = torch.randn(BATCH, LENGTH, 4), torch.rand(BATCH, LENGTH) < 0.7
    where[0] = False
    members = {(3, 2): PATCHES, (LENGTH, 2): IDENTITY, (4,): (0,) * LENGTH}[shape]
    means = layout.mean(x, where)
    if layout.num_sites is None:
        means = means[:, None]
    for b in range(BATCH):
        for site in range(max(members) + 1):
            chosen = [x[b, i] for i in range(LENGTH) if members[i] == site and where[b, i]]
            expected = torch.stack(chosen).mean(0) if chosen else torch.zeros(4)
            torch.testing.assert_close(means[b, site], expected)
            if layout.num_sites is not None:
                assert layout.any(where)[b, site] == bool(chosen)
    if layout.num_sites is not None:
        z = torch.randn(BATCH, layout.num_sites, 2)
        assert torch.equal(layout.spread(z), torch.stack([z[:, m] for m in members], 1))


@pytest.mark.parametrize("patches", [PATCHES, grid_patches(1, LENGTH, (1, 1)), block_patches(LENGTH, 3)], ids=str)
def test_networks_with_a_latent_a_patch_keep_the_contract(patches):
    shape = (max(patches) + 1, 2)
    check_denoiser(DiTDenoiser(VOCAB, LENGTH, shape, patches=patches, reads_time=True, **SMALL))
    for options in ({}, {"only_target": False}, {"family": "full"}, {"family": "low-rank"}):
        check_recognition(DiTRecognition(VOCAB, LENGTH, shape, patches=patches, **options, **SMALL), VOCAB, LENGTH)


def test_one_patch_a_position_is_one_vector_a_position_for_the_denoiser():
    positions = perturb(DiTDenoiser(VOCAB, LENGTH, (LENGTH, 2), **SMALL))
    patches = DiTDenoiser(VOCAB, LENGTH, (LENGTH, 2), patches=IDENTITY, **SMALL)
    patches.load_state_dict(positions.state_dict())
    x_t, t, z = tokens(VOCAB + 1), torch.rand(BATCH), torch.randn(BATCH, LENGTH, 2)
    assert torch.equal(patches(x_t, t, z), positions(x_t, t, z))


def test_a_vector_acts_at_the_positions_of_its_patch_first():
    network = denoiser(depth=1)
    with torch.no_grad():
        network.trunk.blocks[0].attention_out.weight.zero_()
    x_t, t, z = tokens(VOCAB + 1), torch.rand(BATCH), torch.randn(BATCH, 3, 2)
    changed = z.clone()
    changed[:, 2] += 1
    difference = (network(x_t, t, changed) - network(x_t, t, z)).abs().amax((0, 2))
    members = torch.tensor(PATCHES) == 2
    assert difference[members].min() > 1e-3
    assert difference[~members].max() == 0


def test_a_denoiser_with_a_latent_a_patch_starts_as_the_one_without():
    without = perturb(DiTDenoiser(VOCAB, LENGTH, 0, **SMALL))
    network = DiTDenoiser(VOCAB, LENGTH, (3, 2), patches=PATCHES, **SMALL)
    network.load_state_dict(without.state_dict(), strict=False)
    x_t, t = tokens(VOCAB + 1), torch.rand(BATCH)
    assert torch.equal(network(x_t, t, torch.randn(BATCH, 3, 2)), without(x_t, t, torch.zeros(BATCH, 0)))


def test_a_patch_reads_the_tokens_of_its_own_positions_first():
    network = recognition(depth=1, only_target=False)
    with torch.no_grad():
        network.trunk.blocks[0].attention_out.weight.zero_()
    x, t, target = tokens(), torch.rand(BATCH), torch.rand(BATCH, LENGTH) < 0.5
    changed = x.clone()
    changed[:, 2] = (x[:, 2] + 1) % VOCAB
    difference = (network(changed, target, t).mean - network(x, target, t).mean).abs().amax((0, 2))
    assert difference[PATCHES[2]] > 1e-3
    assert difference[[p for p in range(3) if p != PATCHES[2]]].max() == 0


KINDS = {
    "position": lambda **o: recognition((LENGTH, 2), None, **o),
    "patch": lambda **o: recognition(**o),
    "correlated": lambda **o: recognition(family=LowRankNormal(2), **o),
    "shared": lambda **o: perturb(SharedRecognition.for_denoiser(denoiser(), patches=PATCHES, **o)),
    "embedding": lambda **o: perturb(EmbeddingRecognition.for_denoiser(denoiser(), patches=PATCHES, **o)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_without_a_target_or_without_data_cost_nothing(kind):
    target = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    target[1, 2], target[2] = True, True
    is_padding = torch.zeros_like(target)
    is_padding[2, [0, 4, 6]] = True  # patch 0 altogether, patch 2 in part
    target &= ~is_padding
    sites = torch.zeros(BATCH, max(PATCHES) + 1 if kind != "position" else LENGTH, dtype=torch.bool)
    members = PATCHES if kind != "position" else IDENTITY
    for b, i in target.nonzero().tolist():
        sites[b, members[i]] = True
    x, t = tokens(), torch.rand(BATCH)
    for network, active in (
        (KINDS[kind](), sites),
        (KINDS[kind](only_target=False), None),
    ):
        if active is None:
            active = torch.zeros_like(sites)
            for b, i in (~is_padding).nonzero().tolist():
                active[b, members[i]] = True
        q = network(x, target, t, is_padding=is_padding)
        is_standard = (q.mean == 0).all(-1) & (q.variance == 1).all(-1)
        assert torch.equal(is_standard, ~active)
    p = StandardNormalPrior((sites.shape[1], 2))(x, t)
    divergence = kl_divergence(KINDS[kind]()(x, target, t, is_padding=is_padding), p)
    assert divergence[0].abs() < 1e-5
    assert divergence[1:].min() > 1e-3


def test_a_latent_in_one_vector_does_not_know_the_option():
    x, t, nothing = tokens(), torch.rand(BATCH), torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    first, second = (
        perturb(DiTRecognition(VOCAB, LENGTH, 3, only_target=only_target, **SMALL)) for only_target in (True, False)
    )
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, nothing, t).mean, second(x, nothing, t).mean)


def test_the_positions_of_a_patch_are_told_apart_by_target():
    network = recognition(depth=1)
    for name, parameter in network.named_parameters():
        if "target_" in name:
            torch.nn.init.zeros_(parameter)  # only the pool can see the target
    x, t = tokens(), torch.ones(BATCH)
    first, second = (network(x, (torch.arange(LENGTH) == i).expand(BATCH, -1), t).mean[:, PATCHES[i]] for i in (2, 3))
    assert (first - second).abs().min() > 0


@pytest.mark.parametrize("explains", ["masked", "revealed"])
@pytest.mark.parametrize("kind", [*KINDS, "mlp"])
def test_what_stays_hidden_is_not_read_and_what_is_revealed_is(kind, explains):
    network = perturb(MLPRecognition(VOCAB, LENGTH, 2, **SMALL)) if kind == "mlp" else KINDS[kind]()
    guide = RecognitionGuide(network, explains=explains)
    x_0, t = tokens(), torch.full((BATCH,), 0.8)
    is_masked = torch.tensor([True, True, True, True, True, False, False]).expand(BATCH, -1)
    target = torch.tensor([True, False, True, False, False, False, False]).expand(BATCH, -1)

    def posterior(x_0):
        x_t = x_0.masked_fill(is_masked, VOCAB)
        return guide.posterior(CorruptedBatch(x_0, x_t, t, 0.5 * t, is_masked, target))

    z = posterior(x_0).sample()
    at_start = posterior(x_0).log_prob(z)
    for where, is_read in ((is_masked & ~target, False), (target, True), (~is_masked, True)):
        changed = torch.where(where, (x_0 + 1) % VOCAB, x_0)
        log_prob = posterior(changed).log_prob(z)
        assert torch.equal(log_prob, at_start) != is_read
        assert not is_read or (log_prob != at_start).all()


@pytest.mark.parametrize("kind", [*KINDS, "mlp"])
def test_hidden_revealed_and_given_positions_are_three_different_things(kind):
    """The same token at a position: given, to be explained, or hidden."""
    network = perturb(MLPRecognition(VOCAB, LENGTH, 2, **SMALL)) if kind == "mlp" else KINDS[kind]()
    x, t = tokens(), torch.ones(BATCH)
    target = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    target[:, 0] = True
    also = target.clone()
    also[:, 4] = True
    hidden = x.clone()
    hidden[:, 4] = VOCAB
    z = network(x, target, t).sample()
    given, explained, unseen = (
        network(*inputs, t).log_prob(z) for inputs in ((x, target), (x, also), (hidden, target))
    )
    for first, second in ((given, explained), (given, unseen), (explained, unseen)):
        assert (first != second).all()


def test_networks_with_patches_are_rebuilt_from_json():
    for network in (denoiser(), recognition(only_target=False)):
        copy = build(json.loads(json.dumps(describe(network))))
        copy.load_state_dict(network.state_dict())
        assert (
            torch.equal(copy.trunk.layout.index, network.trunk.layout.index)
            if network.trunk.layout.index is not None
            else True
        )
        x, t = tokens(), torch.rand(BATCH)
        if isinstance(network, DiTDenoiser):
            z = torch.randn(BATCH, 3, 2)
            assert torch.equal(copy(x, t, z), network(x, t, z))
        else:
            assert torch.equal(copy(x, x == 1, t).mean, network(x, x == 1, t).mean)


def test_a_model_with_a_latent_a_patch_runs_with_particles_and_the_null_latent():
    model = VADDModel(denoiser(), StandardNormalPrior((3, 2)), MaskingProcess(LinearSchedule(), VOCAB))
    x_t, t = tokens(VOCAB + 1), torch.rand(BATCH)
    z = torch.randn(4, BATCH, 3, 2)
    many = model.denoise(x_t, t, z)
    for k in range(4):
        torch.testing.assert_close(many.logits[k], model.denoise(x_t, t, z[k]).logits)
    assert model.denoise(x_t, t, None).logits.isfinite().all()
    assert model.sample(2, num_steps=2).shape == (2, LENGTH)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patches": PATCHES[:-1]}, "all num_tokens=7 positions, got 6"),
        ({"patches": (0,) * LENGTH}, "numbers 0 to 2"),
        ({"patches": (1, 2, 3, 1, 2, 3, 3)}, "numbers 0 to 2"),
        ({"patches": (0, True, 2, 0, 1, 2, 2)}, "integers"),
        ({"latent_shape": 6}, r"needs latent_shape \(patches, d\), got \(6,\)"),
        ({"latent_shape": 0}, "needs latent_shape"),
        ({"num_tokens": None}, "num_tokens=None"),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [DiTDenoiser, DiTRecognition])
def test_patches_that_do_not_fit_are_refused(make, arguments, message):
    if make is DiTRecognition and arguments.get("latent_shape") == 0:
        message = "latent_shape is empty"
    options = {"vocab_size": VOCAB, "num_tokens": LENGTH, "latent_shape": (3, 2), "patches": PATCHES, **arguments}
    with pytest.raises(ConfigError, match=message):
        make(**options, **SMALL)


def test_patches_of_no_grid_are_refused():
    for arguments in ((4, 6, 4), (4, 6, (2, 4)), (0, 6, 1), (4, 6, 0)):
        with pytest.raises(ConfigError, match="do not tile"):
            grid_patches(*arguments)
    for arguments in ((0, 1), (3, 0), (3, True)):
        with pytest.raises(ConfigError, match="must be an integer of at least 1"):
            block_patches(*arguments)


def test_the_sites_fix_the_length():
    x, t = tokens(length=LENGTH + 1), torch.rand(BATCH)
    with pytest.raises(ShapeError, match="num_tokens=7"):
        denoiser()(x, t, torch.randn(BATCH, 3, 2))
    with pytest.raises(ShapeError, match="num_tokens=7"):
        recognition()(x, x == 1, t)
