"""Log-probabilities in slices of the vocabulary: those of all logits, with less memory."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vadd.distributions import MaskedCategorical, projection
from vadd.distributions.projection import token_scores
from vadd.errors import ShapeError

from ..devices import every_device


@pytest.fixture
def small_chunks(monkeypatch):
    """Few numbers at a time, so that small cases have many slices, kept and computed again."""
    for name in ("CHUNK", "CHUNK_OF_ACCELERATOR"):
        monkeypatch.setattr(projection, name, 24)
    monkeypatch.setattr(projection, "NUM_KEPT", 2)
    monkeypatch.setattr(projection, "FEWEST_COLUMNS", 3)


def dense_scores(features, head, tokens):
    logits = head(features)
    log_p = F.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return log_p.gather(1, tokens[:, None])[:, 0]


def case(rows, hidden, vocab, *, bias=True, dtype=torch.float64, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(hidden, vocab, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    features = torch.randn(rows, hidden, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
    tokens = torch.randint(vocab, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator, dtype=torch.float64).to(dtype)
    return features, head.to(device), tokens.to(device), weights.to(device)


def run(scores, features, head, tokens, weights):
    """Value and gradients of a weighted sum."""
    value = scores(features, head, tokens)
    assert value.dtype == torch.promote_types(features.dtype, torch.float32)
    inputs = [features, *head.parameters()]
    return [value.detach(), *torch.autograd.grad((weights * value).sum(), inputs)]


def ours(features, head, tokens):
    return token_scores(features, head, tokens, head.out_features)


@every_device
@pytest.mark.usefixtures("small_chunks")
@settings(max_examples=40)
@given(
    rows=st.integers(1, 20),
    hidden=st.integers(1, 5),
    vocab=st.integers(1, 40),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_slices_have_values_and_gradients_of_the_whole(device, rows, hidden, vocab, bias, seed):
    given_case = case(rows, hidden, vocab, bias=bias, seed=seed, device=device)
    for mine, theirs in zip(run(ours, *given_case), run(dense_scores, *given_case), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [1, 5, 8, 9, 50])
def test_no_slice_has_more_logits_than_a_chunk(rows, monkeypatch):
    features, head, tokens, weights = case(rows, 4, 40)
    sizes, logits_of = [], projection._logits

    def watched(*args):
        logits = logits_of(*args)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(projection, "_logits", watched)
    run(ours, features, head, tokens, weights)
    assert max(sizes) <= 24  # CHUNK


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["deep", "hooked", "subclass"])
def test_other_heads_are_called_and_agree(kind):
    features, linear, tokens, weights = case(17, 4, 11)
    calls = []
    if kind == "deep":
        head = nn.Sequential(linear, nn.Tanh(), nn.Linear(11, 11, dtype=torch.float64))
    elif kind == "hooked":
        head = linear
        head.register_forward_hook(lambda module, inputs, output: (calls.append(1), 2 * output)[1])
    else:

        class Doubled(nn.Linear):
            def forward(self, input):
                calls.append(1)
                return 2 * super().forward(input)

        head = Doubled(4, 11, dtype=torch.float64)
    mine = run(lambda *args: token_scores(*args, 11), features, head, tokens, weights)
    assert kind == "deep" or len(calls) > 1
    for value, expected in zip(mine, run(dense_scores, features, head, tokens, weights), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("trained", ["features", "weight", "bias"])
def test_only_the_gradients_asked_for(trained):
    features, head, tokens, weights = case(9, 4, 30)
    features.requires_grad_(trained == "features")
    for name, parameter in head.named_parameters():
        parameter.requires_grad_(name == trained)
    wanted = features if trained == "features" else getattr(head, trained)
    grads = [
        torch.autograd.grad((weights * scores(features, head, tokens)).sum(), wanted)[0]
        for scores in (ours, dense_scores)
    ]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("small_chunks")
def test_a_graph_that_is_kept_gives_its_gradients_twice():
    features, head, tokens, weights = case(9, 4, 30)
    loss = (weights * ours(features, head, tokens)).sum()
    first, second = (torch.autograd.grad(loss, head.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@every_device
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("dtype", "is_autocast", "limit"),
    [(torch.float32, False, 1e-6), (torch.bfloat16, False, 0.02), (torch.float32, True, 0.02)],
)
def test_narrow_types_are_as_exact_as_the_whole(device, dtype, is_autocast, limit):
    features, head, tokens, weights = case(200, 16, 300, dtype=dtype, device=device)
    with torch.autocast(device, torch.bfloat16, enabled=is_autocast):
        mine = run(ours, features, head, tokens, weights)
        theirs = run(dense_scores, features, head, tokens, weights)
    features, head = features.detach().double().requires_grad_(), copy.deepcopy(head).double()
    exact = run(dense_scores, features, head, tokens, weights.double())
    for value, usual, reference in zip(mine, theirs, exact, strict=True):
        assert value.dtype == usual.dtype
        errors = [float((part.double() - reference).norm() / reference.norm()) for part in (value, usual)]
        assert errors[0] <= max(1.5 * errors[1], limit / 4), errors
        assert errors[0] <= limit


class Largest(TorchDispatchMode):
    """Notes the most numbers in a result of any operation."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [part.numel() for part in tree_leaves(result) if isinstance(part, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def two_masked_rows(length, is_linear):
    """Features, head and tokens of a case, and its distribution over two rows with everything masked."""
    features, head, tokens, _ = case(2 * length, 4, 4000, dtype=torch.float32)
    head = head if is_linear else nn.Sequential(head)
    x_t = torch.full((2, length), 4000)
    return features, head, tokens, MaskedCategorical.from_features(features.reshape(2, length, 4), head, x_t, 4000)


@pytest.mark.parametrize("is_linear", [True, False])
def test_the_logits_never_exist_at_once(is_linear, monkeypatch):
    monkeypatch.setattr(projection, "CHUNK", 2**14)
    with Largest() as largest:
        features, head, tokens, likelihood = two_masked_rows(256, is_linear)
        likelihood.log_prob(tokens.reshape(2, 256)).sum().backward()
    assert largest.numel <= max(512 * projection.FEWEST_COLUMNS, 4 * 4000)
    with Largest() as largest:
        dense_scores(features, head, tokens)
    assert largest.numel == 512 * 4000  # as this counts


@pytest.mark.parametrize("is_linear", [True, False])
def test_copies_of_a_distribution_project_in_slices_too(is_linear, monkeypatch):
    monkeypatch.setattr(projection, "CHUNK", 2**14)
    _, _, tokens, likelihood = two_masked_rows(32, is_linear)
    values = torch.stack([tokens, tokens.flip(0), (tokens + 1) % 4000]).reshape(3, 2, 32)
    expected = torch.stack([likelihood.token_log_prob(value) for value in values])
    with Largest() as largest:
        found = likelihood.expand((3, 2)).token_log_prob(values)
    assert largest.numel <= max(3 * 64 * projection.FEWEST_COLUMNS, 4 * 4000) < 64 * 4000
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    torch.testing.assert_close(likelihood.token_log_prob(values), expected)


@pytest.mark.parametrize("is_linear", [True, False])
def test_a_head_of_another_size_is_an_error(is_linear):
    features, head, tokens, _ = case(3, 4, 11)
    with pytest.raises(ShapeError, match="10 clean tokens .* got 11"):
        token_scores(features, head if is_linear else nn.Sequential(head), tokens.clamp(max=9), 10)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("ruled_out", [slice(0, 6), slice(9, 15), slice(20, 23)])
def test_slices_in_which_all_tokens_are_ruled_out(ruled_out):
    features, head, tokens, weights = case(8, 4, 23)
    with torch.no_grad():
        head.bias[ruled_out] = -torch.inf
    allowed = [i for i in range(23) if i not in range(23)[ruled_out]]
    tokens = torch.tensor(allowed)[tokens % len(allowed)]
    found, expected = (run(scores, features, head, tokens, weights) for scores in (ours, dense_scores))
    for ours_, dense in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_, dense, rtol=0, atol=1e-10)
