"""Checks that a part of your own keeps the contract of its base class.

Each check returns nothing, or raises an ``AssertionError`` whose message says what to change. The part
itself is left as it was: the checks work on a copy in evaluation mode, with small noise added to the
parameters where zero-initialized ones would hide a path.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor, nn

from vadd._seeds import seeded
from vadd.backbones.base import Denoiser, FeatureDenoiser, Recognition
from vadd.backbones.sharing import SharesDenoiser
from vadd.errors import ConfigError
from vadd.priors.base import LatentPrior
from vadd.schedules import NoiseSchedule
from vadd.testing.density import check_density
from vadd.types import Distribution

__all__ = ["check_denoiser", "check_prior", "check_recognition", "check_schedule"]

_BATCH = 3
_Part = TypeVar("_Part", bound=nn.Module)


def check_schedule(schedule: NoiseSchedule) -> None:
    """Check a noise schedule: exact ends, monotony, derivative, inverse, mask probability, weight.

    Raises:
        AssertionError: naming the method to correct.
    """
    for dtype in (torch.float32, torch.float64):
        ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=dtype)).tolist()
        _require(ends == [1.0, 0.0], f"alpha must be exactly 1 at t = 0 and 0 at t = 1, got {ends} in {dtype}.")
        masked = schedule.mask_probability(torch.tensor([0.0, 1.0], dtype=dtype)).tolist()
        _require(
            masked == [0.0, 1.0],
            f"mask_probability must be exactly 0 at t = 0 and 1 at t = 1, got {masked} in {dtype}.",
        )
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:-1]
    alpha = schedule.alpha(t)
    _require(bool((alpha.diff() <= 0).all()), "alpha must decrease with t.")
    leaf = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(leaf).sum(), leaf)
    _require_close(schedule.alpha_dot(t), slope, 1e-6, "alpha_dot must be the derivative of alpha")
    values = torch.linspace(0, 1, 101, dtype=torch.float64)
    _require_close(schedule.alpha(schedule.inverse(values)), values, 1e-6, "alpha(inverse(a)) must be a")
    masked = schedule.mask_probability(t)
    _require_close(masked, 1 - alpha, 1e-9, "mask_probability must be 1 - alpha")
    round_trip = schedule.mask_probability(schedule.time_of(values))
    _require_close(round_trip, values, 1e-6, "mask_probability(time_of(p)) must be p")
    small = torch.logspace(-6, -2, 30, dtype=torch.float64).float()
    ratio = schedule.mask_probability(small).double() / schedule.mask_probability(small.double())
    _require_close(
        ratio,
        torch.ones_like(ratio),
        1e-5,
        "mask_probability must keep its digits in float32 near t = 0, where 1 - alpha cancels; compute it "
        "directly or in float64; its ratio to the float64 value is not 1",
    )
    weight = schedule.weight(t)
    _require(bool((weight > 0).all()), "weight must be positive for 0 < t < 1.")
    expected = -schedule.alpha_dot(t) / masked
    _require_close(
        weight / expected, torch.ones_like(t), 1e-6, "weight must be -alpha_dot / mask_probability; the ratio"
    )


def check_prior(prior: LatentPrior, vocab_size: int, num_tokens: int, *, condition: Tensor | None = None) -> None:
    """Check a prior: shapes, finite samples and densities, rows apart, padding hidden, gradients, copies, plates.

    That the density is the one drawn from is checked as :func:`~vadd.testing.density.check_density` says.

    Args:
        prior: the prior; one that shares a denoiser or a recognition network has it attached.
        vocab_size: number of clean tokens ``V``.
        num_tokens: length of the sequences to try.
        condition: labels for three sequences, if the prior needs them.

    Raises:
        AssertionError: naming what to correct.
    """
    prior = _perturbed(prior)
    x_t, t = _tokens(prior, vocab_size + 1, num_tokens), _times(prior)
    options = {} if condition is None else {"condition": condition}
    distribution = prior(x_t, t, **options)
    _check_distribution("the prior", distribution, prior.latent_shape)
    with seeded(0, x_t.device):
        z = distribution.sample()
    _require_shape("a sample of the prior", z, (_BATCH, *prior.latent_shape))
    _require(z.is_floating_point(), f"samples of the prior must be floating-point, not {z.dtype}.")
    _require(bool(z.isfinite().all()), "samples of the prior must be finite.")
    log_prob = distribution.log_prob(z)
    _require_shape("log_prob of the prior", log_prob, (_BATCH,))
    _require(bool(log_prob.isfinite().all()), "log_prob of the prior must be finite at its own samples.")
    _check_plates(distribution, z)
    is_one_hot = bool((((z == 0) | (z == 1)).all(-1) & (z.sum(-1) == 1)).all())
    if z.numel() and (is_one_hot or not distribution.has_enumerate_support):  # other discrete values have no density
        check_density("the prior", distribution, z.device)

    def score(rows: slice, x_t: Tensor = x_t, **more: Tensor) -> Tensor:
        return prior(x_t[rows], t[rows], **_rows(options, rows), **more).log_prob(z[rows])

    every = slice(None)
    for name, tokens in (("all", torch.full_like(x_t, vocab_size)), ("nothing", x_t % vocab_size)):
        _require(bool(score(every, tokens).isfinite().all()), f"log_prob must be finite when {name} is masked.")
    _check_rows("the prior", score)
    if _accepts_padding(prior):
        is_padding = _padding(x_t)
        other = torch.where(is_padding, (x_t + 1) % (vocab_size + 1), x_t)
        padded = score(every, is_padding=is_padding)
        _require(
            bool(padded.isfinite().all()), "log_prob must be finite even for a row that is all padding (the first)."
        )
        _require_same(
            padded[1:],
            score(every, other, is_padding=is_padding)[1:],
            "the prior must not read tokens where is_padding is set",
        )
    if any(p.requires_grad for p in prior.parameters()):
        _check_gradients("the prior", prior, score(every).sum())
    _check_latent_gradient(distribution, z)
    try:
        copy.deepcopy(prior)
    except RuntimeError as error:
        raise AssertionError(
            f"the prior must be copyable after a call, as averaged weights need: {error} Keep no results of a call "
            "in the module; transforms with a cache do."
        ) from error


def _check_plates(distribution: Distribution, z: Tensor) -> None:
    """In a plate of particles the distribution is expanded, and must stay what it is."""
    wider = distribution.expand((2, _BATCH))
    _require(
        not isinstance(wider, ExpandedDistribution),
        f"{type(distribution).__name__} must define expand: in a plate Pyro would wrap it, and the wrapper has no "
        "analytic KL divergence.",
    )
    _require_same(
        wider.log_prob(z.expand(2, *z.shape)),
        distribution.log_prob(z).expand(2, _BATCH),
        "the expanded distribution must give each row its own density",
    )


def _check_latent_gradient(distribution: Distribution, z: Tensor) -> None:
    """The guide is trained through its draw, which the prior scores."""
    if not z.numel() or distribution.support.is_discrete or distribution.has_enumerate_support:
        return
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distribution.log_prob(leaf).sum(), leaf, allow_unused=True)
    _require(
        gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()),
        "log_prob of the prior must pass finite gradients to the latent, by which the guide is trained.",
    )


def check_denoiser(denoiser: Denoiser, num_tokens: int | None = None, *, condition: Tensor | None = None) -> None:
    """Check a denoiser: output, dependence on its inputs, gradients, rows apart, padding hidden.

    Args:
        denoiser: the network.
        num_tokens: length of the sequences to try; default ``denoiser.num_tokens``.
        condition: labels for three sequences, if the network needs them.

    Raises:
        AssertionError: naming what to correct.
    """
    length = num_tokens or denoiser.num_tokens
    _require(length is not None, "num_tokens must be given, for the denoiser has no default length.")
    assert length is not None
    denoiser = _perturbed(denoiser)
    vocab_size, every = denoiser.vocab_size, slice(None)
    x_t, t = _tokens(denoiser, vocab_size + 1, length), _times(denoiser)
    z = _normal(denoiser, denoiser.latent_shape)
    options = {} if condition is None else {"condition": condition}

    def run(rows: slice, x_t: Tensor = x_t, z: Tensor = z, **more: Tensor) -> Tensor:
        return denoiser(x_t[rows], t[rows], z[rows], **_rows(options, rows), **more)

    logits = run(every)
    _require_shape("the denoiser's output", logits, (_BATCH, length, vocab_size))
    _require(logits.is_floating_point(), f"the denoiser must return floating-point logits, not {logits.dtype}.")
    for name, tokens in (("", x_t), (" when all is masked", torch.full_like(x_t, vocab_size))):
        _require(bool(run(every, tokens).isfinite().all()), f"the denoiser's logits must be finite{name}.")
    _require(
        not torch.equal(logits, run(every, (x_t + 1) % (vocab_size + 1))),
        "the denoiser's output must depend on x_t.",
    )
    if z.numel():
        leaf = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_sum_of_squares(run(every, z=leaf)), leaf, allow_unused=True)
        _require(
            gradient is not None and bool(gradient.flatten(1).any(1).all()),
            "the denoiser's output must depend on z, by differentiable operations, once its parameters "
            "differ from their start; if it is meant to read no latent, set latent_shape to (0,).",
        )
    _check_gradients("the denoiser", denoiser, _sum_of_squares(run(every)))
    _check_rows("the denoiser", run)
    if isinstance(denoiser, FeatureDenoiser):
        _check_head(denoiser, x_t, t, z, options)
    if _accepts_padding(denoiser):
        is_padding = _padding(x_t)
        other = torch.where(is_padding, (x_t + 1) % (vocab_size + 1), x_t)
        padded = run(every, is_padding=is_padding)
        _require(
            bool(padded.isfinite().all()),
            "logits must be finite even for a row that is all padding (the first).",
        )
        _require_same(
            padded[~is_padding],
            run(every, other, is_padding=is_padding)[~is_padding],
            "the denoiser must not read tokens where is_padding is set",
        )


def check_recognition(
    recognition: Recognition, vocab_size: int, num_tokens: int, *, condition: Tensor | None = None
) -> None:
    """Check a recognition network: its distribution, dependence, gradients, rows apart, padding hidden.

    That the density is the one drawn from is checked as :func:`~vadd.testing.density.check_density` says.

    Args:
        recognition: the network; one that shares a denoiser has it attached.
        vocab_size: number of clean tokens ``V``.
        num_tokens: length of the sequences to try.
        condition: labels for three sequences, if the network needs them.

    Raises:
        AssertionError: naming what to correct.
    """
    recognition = _perturbed(recognition)
    every = slice(None)
    tokens, t = _tokens(recognition, vocab_size, num_tokens), _times(recognition)
    target = torch.zeros_like(tokens, dtype=torch.bool)
    target[:, ::2] = True
    options = {} if condition is None else {"condition": condition}

    def distribution(rows: slice, tokens: Tensor = tokens, target: Tensor = target, **more: Tensor) -> Distribution:
        return recognition(tokens[rows], target[rows], t[rows], **_rows(options, rows), **more)

    def score(*args: Any, **more: Tensor) -> Tensor:
        return distribution(*args, **more).log_prob(z[args[0]])

    whole = distribution(every)
    _check_distribution("the recognition network's distribution", whole, recognition.latent_shape)
    _require(
        bool(whole.has_rsample),
        "the recognition network must return a reparameterized distribution (has_rsample), so that gradients "
        "reach it through its samples.",
    )
    with seeded(0, tokens.device):
        z = whole.sample().detach()
    _require_shape("a sample of the recognition network", z, (_BATCH, *recognition.latent_shape))
    _require_shape("log_prob of the recognition network", score(every), (_BATCH,))
    hidden = tokens.masked_fill(~target, vocab_size)
    nothing = torch.zeros_like(target)
    for name, value in (
        ("", score(every)),
        (" where hidden tokens are masked", score(every, hidden)),
        (" where the target is empty", score(every, tokens, nothing)),
    ):
        _require(bool(value.isfinite().all()), f"log_prob of the recognition network must be finite{name}.")
    if not z.numel():
        return
    check_density("the recognition network", whole, z.device)
    _check_plates(whole, z)
    _require(
        not torch.equal(score(every), score(every, (tokens + 1) % vocab_size)),
        "the recognition network must depend on the tokens.",
    )
    _require(
        not torch.equal(score(every), score(every, tokens, ~target)),
        "the recognition network must depend on target; one that reads the tokens alone collapses to the prior.",
    )
    with seeded(0, z.device):
        sample = whole.rsample()
    _require(
        sample.requires_grad or not any(p.requires_grad for p in recognition.parameters()),
        "samples of the recognition network must carry gradients to its parameters; use rsample, not sample, "
        "and detach nothing.",
    )
    _check_gradients("the recognition network", recognition, score(every).sum())
    _check_rows("the recognition network", score)
    if _accepts_padding(recognition):
        is_padding = _padding(tokens)
        visible = target & ~is_padding
        other = torch.where(is_padding, (tokens + 1) % vocab_size, tokens)
        padded = score(every, tokens, visible, is_padding=is_padding)
        _require(
            bool(padded.isfinite().all()),
            "log_prob must be finite even for a row that is all padding (the first).",
        )
        _require_same(
            padded[1:],
            score(every, other, visible, is_padding=is_padding)[1:],
            "the recognition network must not read tokens where is_padding is set",
        )


def _check_distribution(name: str, distribution: Distribution, latent_shape: torch.Size) -> None:
    got = (tuple(distribution.batch_shape), tuple(distribution.event_shape))
    expected = ((_BATCH,), tuple(latent_shape))
    _require(
        got == expected,
        f"{name} must have batch_shape {expected[0]} and event_shape {expected[1]} (its latent_shape) for "
        f"{_BATCH} sequences, got {got[0]} and {got[1]}; declare latent axes with "
        f".to_event({len(latent_shape)}) and expand to the batch.",
    )


def _check_head(denoiser: FeatureDenoiser, x_t: Tensor, t: Tensor, z: Tensor, options: dict[str, Tensor]) -> None:
    features = denoiser.features(x_t, t, z, **options)
    dense = denoiser(x_t, t, z, **options)
    _require(
        features.shape[:2] == x_t.shape and features.ndim == 3,
        f"features must return (batch, dim, hidden), got {tuple(features.shape)} for {tuple(x_t.shape)} tokens.",
    )
    _require_same(dense, denoiser.head(features), "forward must equal head(features(...))")
    where = x_t % 2 == 0
    _require_same(
        dense[where],
        denoiser.head(features[where]),
        "head must treat each position on its own, mapping (..., hidden) to (..., vocab)",
    )
    try:
        width = denoiser.context_size
    except ConfigError:
        return  # it does not share its context
    shape = tuple(denoiser.context(x_t, t, z, **options).shape)
    _require(
        shape[:1] + shape[2:] == (_BATCH, width) and shape[1] in (1, x_t.shape[1]),
        f"context must return (batch, dim, context_size), or one position for all, with context_size {width}; got "
        f"{shape} for {tuple(x_t.shape)} tokens.",
    )


def _check_rows(name: str, run: Callable[[slice], Tensor]) -> None:
    alone = torch.cat([run(slice(i, i + 1)) for i in range(_BATCH)])
    _require_same(
        run(slice(None)),
        alone,
        f"{name} must treat the rows of a batch on their own (no batch statistics, no reduction over axis 0)",
    )


def _check_gradients(name: str, part: nn.Module, value: Tensor) -> None:
    named = {key: p for key, p in part.named_parameters() if p.requires_grad}
    if not named:
        return
    _require(value.requires_grad, f"{name}'s output must carry gradients to its parameters.")
    gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    idle = [key for key, g in zip(named, gradients, strict=True) if g is None or not bool(g.any())]
    _require(not idle, f"every parameter of {name} must receive a gradient; use or remove {', '.join(idle)}.")


def _perturbed(part: _Part) -> _Part:
    """A copy in evaluation mode with noise on the parameters, so that no path is closed by a zero."""
    part = copy.deepcopy(part).eval()
    shared = [module.denoiser.eval() for module in part.modules() if isinstance(module, SharesDenoiser)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in nn.ModuleList([part, *shared]).parameters():
            if p.is_floating_point():
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                p.add_(0.05 * noise.to(p))
    return part


def _like(part: nn.Module) -> Tensor:
    """An empty tensor with the device and the dtype (float32 or wider) that the part computes in."""
    for value in (*part.parameters(), *part.buffers()):
        if value.is_floating_point():
            return torch.empty(0, device=value.device, dtype=torch.promote_types(value.dtype, torch.float32))
    return torch.empty(0)


def _tokens(part: nn.Module, num_values: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(num_values, (_BATCH, length), generator=generator).to(_like(part).device)


def _times(part: nn.Module) -> Tensor:
    return torch.tensor([0.2, 0.6, 1.0]).to(_like(part))


def _normal(part: nn.Module, shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(_BATCH, *shape, generator=generator, dtype=torch.float64).to(_like(part))


def _padding(tokens: Tensor) -> Tensor:
    """Padding of the whole first row, none of the second, the last half of the third."""
    is_padding = torch.zeros_like(tokens, dtype=torch.bool)
    is_padding[0] = True
    is_padding[2, (tokens.shape[1] + 1) // 2 :] = True
    return is_padding


def _rows(options: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in options.items()}


def _sum_of_squares(x: Tensor) -> Tensor:
    # A plain sum of log-probabilities or centred outputs may be constant; squares are not.
    return x.double().square().sum()


def _accepts_padding(part: nn.Module) -> bool:
    parameters = inspect.signature(part.forward).parameters
    return "is_padding" in parameters


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    _require(tuple(value.shape) == shape, f"{name} must have shape {shape}, got {tuple(value.shape)}.")


def _require_close(got: Tensor, expected: Tensor, tolerance: float, message: str) -> None:
    error = (got - expected).abs() / expected.abs().clamp(min=1)
    worst = int(error.nan_to_num(nan=torch.inf).argmax())
    _require(
        bool((error <= tolerance).all()),
        f"{message}: got {float(got.flatten()[worst])}, expected {float(expected.flatten()[worst])}.",
    )


def _require_same(got: Tensor, expected: Tensor, message: str) -> None:
    """Equality up to the rounding of another order of summation."""
    got, expected = got.detach(), expected.detach()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    tolerance = 500 * torch.finfo(expected.dtype).eps * max(1.0, scale)
    difference = float((got - expected).abs().max()) if expected.numel() else 0.0
    _require(difference <= tolerance, f"{message}; values differ by {difference:.3g}.")
