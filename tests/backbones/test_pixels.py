"""Ordinal embeddings and heads."""

import math

import pytest
import torch
from torch import nn

from vadd.backbones import DiscretizedLogisticHead, PixelEmbedding
from vadd.backbones.pixels import ImageEmbedding, as_image_shape, discretized_logistic, resolve_head
from vadd.errors import ConfigError, ShapeError
from vadd.registry import build, describe

VOCAB = 5


def test_an_embedding_is_a_vector_a_token_plus_its_value_times_a_direction():
    embedding = PixelEmbedding(VOCAB, 3)
    tokens = torch.tensor([[0, 1, 2], [3, 4, 5]])
    values = torch.tensor([[-1.0, -0.5, 0.0], [0.5, 1.0, 0.0]])  # that of the mask token is zero
    torch.testing.assert_close(embedding(tokens), embedding.weight[tokens] + values[..., None] * embedding.direction)
    plain = PixelEmbedding(VOCAB, 3, uses_value=False)
    assert torch.equal(plain(tokens), plain.weight[tokens])


def test_a_single_value_is_zero():
    embedding = PixelEmbedding(1, 3)
    tokens = torch.tensor([0, 1])
    assert torch.equal(embedding(tokens), embedding.weight[tokens])


def test_neighbouring_values_start_with_like_embeddings():
    embedding = PixelEmbedding(256, 64)
    x = embedding(torch.arange(256))
    near, far = (x[1:] - x[:-1]).norm(dim=-1).mean(), (x[200:] - x[:56]).norm(dim=-1).mean()
    assert near < 0.5 * far


def test_half_precision_keeps_the_values_apart_until_the_sum():
    exact = PixelEmbedding(256, 8)
    with torch.no_grad():
        exact.weight.zero_()
    half = PixelEmbedding(256, 8).to(torch.bfloat16)
    half.load_state_dict(exact.state_dict())
    direction = half.direction.float()
    values = torch.linspace(-1, 1, 256)
    assert torch.equal(half(torch.arange(256)), (values[:, None] * direction).bfloat16())


def test_pixels_hold_their_channels_side_by_side_row_by_row():
    embedding = ImageEmbedding((2, 3, 4), VOCAB, 6, uses_value=True, reads_target=True)
    image = torch.randint(VOCAB + 1, (2, 3, 4))
    target = torch.rand(2, 3, 4) < 0.5
    out = embedding(image.flatten()[None], target.flatten()[None])[0]
    for i in range(2):
        for j in range(3):
            pixel = embedding.table(image[i, j]) + target[i, j, :, None] * embedding.target
            torch.testing.assert_close(out[i, j], pixel.flatten())
    assert torch.equal(embedding.of_pixels(target.flatten()[None])[0], target.any(-1).flatten())


def test_padding_is_not_read():
    embedding = ImageEmbedding((2, 2), VOCAB, 3, uses_value=True, reads_target=True)
    is_padding = torch.tensor([[False, True, False, True]])
    target = torch.ones_like(is_padding)
    out = [embedding(torch.full((1, 4), token), target, is_padding).flatten(1, 2) for token in range(2)]
    assert torch.equal(out[0][is_padding], torch.zeros(2, 3))
    assert (out[0] != out[1]).all(-1).equal(~is_padding)


def direct(weights, means, log_scales, vocab_size):
    """The mixture of logistic laws conditional on the range, by differences of distribution functions in float64."""
    scales = log_scales.double().clamp(-5, 5 + math.log(vocab_size)).exp()[..., None]

    def mass(lower, upper):  # on the side where they are small
        b, a = ((edge - means.double()[..., None]) / scales for edge in (lower, upper))
        return torch.where(a + b > 0, torch.sigmoid(-b) - torch.sigmoid(-a), torch.sigmoid(a) - torch.sigmoid(b))

    edges = torch.arange(vocab_size + 1, dtype=torch.float64) - 0.5
    conditional = mass(edges[:-1], edges[1:]) / mass(edges[:1], edges[-1:])
    return (conditional * weights.double().softmax(-1)[..., None]).sum(-2).log()


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 17, 256])
def test_the_logistic_mixture_is_its_formula(vocab_size):
    weights = torch.randn(200, 3)
    means = torch.rand(200, 3) * 2 * vocab_size - vocab_size / 2  # half of them outside
    log_scales = 2 * torch.randn(200, 3)
    means = torch.maximum(means, -0.5 - 300 * log_scales.exp())  # float64 has no masses farther off
    means = torch.minimum(means, vocab_size - 0.5 + 300 * log_scales.exp())
    got = discretized_logistic(weights, means, log_scales, vocab_size)
    expected = direct(weights, means, log_scales, vocab_size)
    likely = expected > -60  # differences in float64 say no more below
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[likely].double(), expected[likely], rtol=1e-5, atol=2e-6)
    assert (got[~likely] < -59).all()


@pytest.mark.parametrize("far", [30.0, 1e4, 1e8, 1e30])
@pytest.mark.parametrize("log_scale", [-5.0, -1.0, 2.0, 7.0])
def test_a_location_far_outside_leaves_a_geometric_law(far, log_scale):
    vocab_size, scale = 17, math.exp(log_scale)
    far *= max(1.0, scale)
    values = torch.arange(vocab_size, dtype=torch.float64)
    expected = (-values / scale).log_softmax(-1)
    for mean, law in ((-far, expected), (far, expected.flip(0))):
        got = discretized_logistic(torch.zeros(1), torch.tensor([mean]), torch.tensor([log_scale]), vocab_size)
        torch.testing.assert_close(got.double(), law, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 17, 256, 1000])
def test_the_logistic_mixture_is_a_distribution_with_finite_gradients_at_all_extremes(vocab_size):
    locations = [-1e8, -100.0, -0.5, 0.0, 0.5, vocab_size / 2, vocab_size - 1.0, vocab_size + 100.0, 1e8]
    scales = [-1e4, -5.0, -1.0, 0.0, math.log(vocab_size), 20.0, 1e4]
    grid = torch.cartesian_prod(torch.tensor(locations), torch.tensor(scales))
    means, log_scales = grid.repeat(1, 2).reshape(-1, 2, 2).unbind(-1)
    means = torch.stack([means[:, 0], means[:, 1].flip(0)], -1)
    for ratio in (0.0, 200.0, -1e4):
        weights = torch.tensor([0.0, ratio]).expand_as(means)
        inputs = [x.clone().requires_grad_() for x in (weights, means, log_scales)]
        log_probs = discretized_logistic(*inputs, vocab_size)
        assert log_probs.isfinite().all()
        assert (log_probs.detach().double().exp().sum(-1) - 1).abs().max() < 1e-6
        for value in range(0, vocab_size, max(1, vocab_size // 4)):
            gradients = torch.autograd.grad(log_probs[:, value].sum(), inputs, retain_graph=True)
            assert all(g.isfinite().all() for g in gradients)


def test_gradients_of_the_logistic_mixture_are_those_of_its_formula():
    inputs = [torch.randn(20, 3, dtype=torch.float64), 25 * torch.rand(20, 3, dtype=torch.float64) - 4]
    inputs = [x.requires_grad_() for x in (*inputs, torch.randn(20, 3, dtype=torch.float64))]
    pick = torch.randint(17, (20, 1))
    found, expected = (
        torch.autograd.grad(f(*inputs, 17).gather(-1, pick).clamp(min=-20).sum(), inputs)
        for f in (discretized_logistic, direct)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mean", [-30.0, -0.5, 0.0, 0.7, 1.5, 2.0, 4.5, 30.0])  # also at the ends of intervals
@pytest.mark.parametrize("log_scale", [-1.5, 0.0, 3.0])
def test_gradients_of_the_logistic_mixture_are_those_of_its_differences(mean, log_scale):
    inputs = (torch.tensor([0.3, -0.2]), torch.tensor([mean, 1.2]), torch.tensor([log_scale, 0.4]))
    inputs = tuple(x.double().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(lambda *x: discretized_logistic(*x, 5), inputs)


@pytest.mark.parametrize("vocab_size", [1, 2, 17, 256])
@pytest.mark.parametrize("num_components", [1, 5])
def test_a_fresh_head_gives_every_value_a_fair_share(vocab_size, num_components):
    head = DiscretizedLogisticHead(8, vocab_size, num_components)
    log_probs = head(torch.randn(4, 3, 8))
    assert log_probs.shape == (4, 3, vocab_size)
    assert log_probs.min() > -math.log(vocab_size) - 2.5
    assert log_probs.max() < -math.log(vocab_size) + 2.5


def test_the_head_computes_in_float32_under_autocast_and_in_half_precision():
    head = DiscretizedLogisticHead(8, 256)
    with torch.no_grad():
        head.project.weight.mul_(50)
    features = torch.randn(64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), head(features.clone()))
        mixed = head(features)
    assert torch.equal(mixed, head(features))
    half = DiscretizedLogisticHead(8, 256).bfloat16()
    half.load_state_dict(head.state_dict())
    exact = DiscretizedLogisticHead(8, 256)
    exact.load_state_dict(half.state_dict())
    assert torch.equal(half(features.bfloat16()), exact(features.bfloat16().float()))
    assert half(features.bfloat16()).dtype == torch.float32


def test_the_head_learns_a_distribution_of_ordinal_values():
    head = DiscretizedLogisticHead(1, 17, 2)
    values = torch.tensor([3] * 6 + [4] * 2 + [12] * 8)
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(150):
        loss = -head(torch.ones(1))[values].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = -(3 / 8 * math.log(3 / 8) + 1 / 8 * math.log(1 / 8) + 1 / 2 * math.log(1 / 2))
    assert entropy - 1e-4 < loss.item() < entropy + 0.15


def test_heads_by_name_or_as_modules():
    assert isinstance(resolve_head("linear", 4, VOCAB), nn.Linear)
    head = resolve_head("logistic", 4, VOCAB)
    assert isinstance(head, DiscretizedLogisticHead)
    assert resolve_head(head, 4, VOCAB) is head
    copy = build(describe(head))
    copy.load_state_dict(head.state_dict())
    assert torch.equal(copy(torch.ones(4)), head(torch.ones(4)))
    with pytest.raises(ConfigError, match="head must be one of linear, logistic"):
        resolve_head("cubic", 4, VOCAB)
    with pytest.raises(ConfigError, match="feature_size=4.*fails"):
        resolve_head(nn.Linear(3, VOCAB), 4, VOCAB)
    with pytest.raises(ConfigError, match="vocab_size=5 logits.*returns shape"):
        resolve_head(nn.Linear(4, VOCAB + 1), 4, VOCAB)


@pytest.mark.parametrize("make", [PixelEmbedding, DiscretizedLogisticHead])
def test_sizes_are_positive(make):
    with pytest.raises(ConfigError, match="vocab_size"):
        make(**{"vocab_size": 0, "size" if make is PixelEmbedding else "hidden": 3})
    with pytest.raises(ConfigError, match="must be an integer of at least 1"):
        make(**{"vocab_size": 3, "size" if make is PixelEmbedding else "hidden": 0})


def test_shapes_of_images():
    assert as_image_shape((4, 5)) == (4, 5, 1)
    assert as_image_shape([4, 5, 3]) == (4, 5, 3)
    for wrong in [(4,), (4, 5, 3, 1), (4, 0), (4, 5.0), (True, 4)]:
        with pytest.raises(ConfigError, match="image_shape"):
            as_image_shape(wrong)
    embedding = ImageEmbedding((2, 2, 3), VOCAB, 3, uses_value=True, reads_target=False)
    with pytest.raises(ShapeError, match="12 tokens"):
        embedding(torch.zeros(1, 4, dtype=torch.int64))
