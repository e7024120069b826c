"""What the checks of parts share: copies with noise, inputs to try, and comparisons."""

import copy
import inspect
from collections.abc import Callable
from typing import TypeVar

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor, nn

from vadd.backbones.sharing import SharesDenoiser
from vadd.types import Distribution

BATCH = 3
_Part = TypeVar("_Part", bound=nn.Module)


def check_distribution(name: str, distribution: Distribution, latent_shape: torch.Size) -> None:
    """Batch and event shape are those of the part."""
    got = (tuple(distribution.batch_shape), tuple(distribution.event_shape))
    expected = ((BATCH,), tuple(latent_shape))
    require(
        got == expected,
        f"{name} must have batch_shape {expected[0]} and event_shape {expected[1]} (its latent_shape) for "
        f"{BATCH} sequences, got {got[0]} and {got[1]}; declare latent axes with "
        f".to_event({len(latent_shape)}) and expand to the batch.",
    )


def check_plates(distribution: Distribution, z: Tensor) -> None:
    """In a plate of particles the distribution is expanded, and must stay what it is."""
    wider = distribution.expand((2, BATCH))
    require(
        not isinstance(wider, ExpandedDistribution),
        f"{type(distribution).__name__} must define expand: in a plate Pyro would wrap it, and the wrapper has no "
        "analytic KL divergence.",
    )
    require_same(
        wider.log_prob(z.expand(2, *z.shape)),
        distribution.log_prob(z).expand(2, BATCH),
        "the expanded distribution must give each row its own density",
    )


def check_rows(name: str, run: Callable[[slice], Tensor]) -> None:
    """Rows give together what each gives alone."""
    alone = torch.cat([run(slice(i, i + 1)) for i in range(BATCH)])
    require_same(
        run(slice(None)),
        alone,
        f"{name} must treat the rows of a batch on their own (no batch statistics, no reduction over axis 0)",
    )


def check_gradients(name: str, part: nn.Module, value: Tensor) -> None:
    """Every parameter receives a gradient of the value."""
    named = {key: p for key, p in part.named_parameters() if p.requires_grad}
    if not named:
        return
    require(value.requires_grad, f"{name}'s output must carry gradients to its parameters.")
    gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    idle = [key for key, g in zip(named, gradients, strict=True) if g is None or not bool(g.any())]
    require(not idle, f"every parameter of {name} must receive a gradient; use or remove {', '.join(idle)}.")


def perturbed(part: _Part) -> _Part:
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


def some_tokens(part: nn.Module, num_values: int, length: int) -> Tensor:
    """Random tokens for a part, ``(BATCH, length)``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(num_values, (BATCH, length), generator=generator).to(_like(part).device)


def some_times(part: nn.Module) -> Tensor:
    """A time for each row."""
    return torch.tensor([0.2, 0.6, 1.0]).to(_like(part))


def some_normal(part: nn.Module, shape: torch.Size) -> Tensor:
    """Normal numbers of a shape for each row."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64).to(_like(part))


def some_padding(tokens: Tensor) -> Tensor:
    """Padding of the whole first row, none of the second, the last half of the third."""
    is_padding = torch.zeros_like(tokens, dtype=torch.bool)
    is_padding[0] = True
    is_padding[2, (tokens.shape[1] + 1) // 2 :] = True
    return is_padding


def rows_of(options: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """These rows of every option."""
    return {name: value[rows] for name, value in options.items()}


def sum_of_squares(x: Tensor) -> Tensor:
    """A number that depends on every entry."""
    # A plain sum of log-probabilities or centred outputs may be constant; squares are not.
    return x.double().square().sum()


def accepts_padding(part: nn.Module) -> bool:
    """Whether a part takes ``is_padding``."""
    parameters = inspect.signature(part.forward).parameters
    return "is_padding" in parameters


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError with this message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """The shape is this one."""
    require(tuple(value.shape) == shape, f"{name} must have shape {shape}, got {tuple(value.shape)}.")


def require_close(got: Tensor, expected: Tensor, tolerance: float, message: str) -> None:
    """Equality up to a relative tolerance, absolute below one."""
    error = (got - expected).abs() / expected.abs().clamp(min=1)
    worst = int(error.nan_to_num(nan=torch.inf).argmax())
    require(
        bool((error <= tolerance).all()),
        f"{message}: got {float(got.flatten()[worst])}, expected {float(expected.flatten()[worst])}.",
    )


def require_same(got: Tensor, expected: Tensor, message: str) -> None:
    """Equality up to the rounding of another order of summation."""
    got, expected = got.detach(), expected.detach()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    tolerance = 500 * torch.finfo(expected.dtype).eps * max(1.0, scale)
    difference = float((got - expected).abs().max()) if expected.numel() else 0.0
    require(difference <= tolerance, f"{message}; values differ by {difference:.3g}.")
