"""A normalizing flow as prior."""

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import ReshapeTransform, Transform

from vadd.backbones.families.flow import wide_linear
from vadd.errors import ConfigError
from vadd.priors.base import LatentPrior, as_nonempty_shape, check_counts
from vadd.priors.normal import standard_normal
from vadd.priors.spline import Spline
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens

__all__ = ["FlowPrior", "Pushforward"]

_Inverse = Callable[[Tensor], tuple[Tensor, Tensor]]


class Pushforward(Transform):
    """A bijection of vectors as a Pyro transform, from a map and its inverse with log-determinant.

    Pyro asks for the inverse first and for the determinant after; both come from one evaluation, which is kept here.
    Make a new object for each distribution, so that nothing outlives it.

    Args:
        push: maps ``u`` to ``z``, shape ``(..., d)``.
        pull: maps ``z`` to ``u`` and the log-determinant of its own Jacobian, shape ``(...)``.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, push: Callable[[Tensor], Tensor], pull: _Inverse) -> None:
        super().__init__(cache_size=0)
        self._push, self._pull = push, pull
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None

    def _call(self, x: Tensor) -> Tensor:
        return self._push(x)

    def _inverse(self, y: Tensor) -> Tensor:
        u, log_det = self._pull(y)
        self._latest = u, y, log_det
        return u

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self._latest is not None and self._latest[0] is x and self._latest[1] is y:
            return -self._latest[2]
        return -self._pull(y)[1]


def push_normal(loc: Tensor, scale: Tensor, batch: int, latent_shape: torch.Size, flow: Pushforward) -> Distribution:
    """The flow of a standard normal vector for each row, reshaped to the latent."""
    transforms: list[Transform] = [flow]
    if len(latent_shape) != 1:
        transforms.append(ReshapeTransform(loc.shape, latent_shape))
    base = standard_normal(loc, scale, batch).to_event(1)
    return dist.TransformedDistribution(base, transforms, validate_args=False)


@register
class FlowPrior(LatentPrior):
    """Standard normal vector pushed through learned coupling layers, whatever ``x_t``.

    Each layer maps half of the components by a monotone rational-quadratic spline followed by a scale and a shift,
    all given by a small network of the other half: drawing and scoring take one pass each. Layers come in pairs that
    exchange the halves; each pair splits the components at random. All last layers start at zero: then
    the prior is ``N(0, I)``, up to rounding. A latent of one component is mapped as a whole by every layer.

    The KL divergence of a posterior from it has no closed form: objectives estimate it from their draw. The
    latent is flattened, so that padding has no part of its own.

    Args:
        latent_shape: shape of one sequence's latent.
        num_layers: coupling layers.
        hidden_size: width of their networks, of two hidden layers.
        num_bins: bins of the splines; with 1 the layers are affine.
        bound: the splines are the identity outside ``[-bound, bound]``.

    Raises:
        ConfigError: on counts that are not positive, an empty latent, more than 50 bins, or a bound that is not
            positive.

    References:
        Dinh, Sohl-Dickstein and Bengio, "Density Estimation using Real NVP", arXiv 1605.08803; Durkan et al., "Neural
        Spline Flows", arXiv 1906.04032. As the prior of a variational model: Chen et al., "Variational Lossy
        Autoencoder", arXiv 1611.02731.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_shape: int | Sequence[int],
        *,
        num_layers: int = 6,
        hidden_size: int = 128,
        num_bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        super().__init__()
        self.latent_shape = as_nonempty_shape(latent_shape)
        check_counts(num_layers=num_layers, hidden_size=hidden_size, num_bins=num_bins)
        if num_bins > 50 or not 0 < bound < float("inf"):
            raise ConfigError(
                f"need at most 50 bins and a finite positive bound, got num_bins={num_bins} and bound={bound}."
            )
        size = self.latent_shape.numel()
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)
        generator = torch.Generator().manual_seed(0)
        layers: list[_Coupling] = []
        for i in range(num_layers):
            if i % 2 == 0:
                order = torch.randperm(size, generator=generator)
                halves = order[: size // 2].sort().values, order[size // 2 :].sort().values
            given, moved = halves if i % 2 == 0 or size == 1 else halves[::-1]
            layers.append(_Coupling(given, moved, hidden_size, num_bins, float(bound)))
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        flow = Pushforward(self._push, self._pull)
        return push_normal(self.loc, self.scale, x_t.shape[0], self.latent_shape, flow)

    def _push(self, u: Tensor) -> Tensor:
        for layer in self.layers:
            u = layer(u)
        return u

    def _pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(z.shape[:-1])
        for layer in reversed(self.layers):
            z, log_det = layer.inverse(z)  # pyright: ignore[reportCallIssue]
            total = total + log_det
        return z, total


class _Coupling(nn.Module):
    """Moves the components ``moved`` by a spline, a scale and a shift that depend on the components ``given``."""

    given: Tensor
    moved: Tensor

    def __init__(self, given: Tensor, moved: Tensor, hidden_size: int, num_bins: int, bound: float) -> None:
        super().__init__()
        self.register_buffer("given", given, persistent=False)
        self.register_buffer("moved", moved, persistent=False)
        self.sizes = (num_bins, num_bins, num_bins - 1, 1, 1)
        self.bound = bound
        self.first = nn.Linear(max(1, len(given)), hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)
        self.last = nn.Linear(hidden_size, len(moved) * sum(self.sizes))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, u: Tensor) -> Tensor:
        spline, scale, shift = self._maps(u)
        moved = spline.forward(u[..., self.moved])[0] * scale.exp() + shift
        return u.index_copy(-1, self.moved, moved)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        spline, scale, shift = self._maps(z)
        moved, log_slope = spline.inverse((z[..., self.moved] - shift) * (-scale).exp())
        return z.index_copy(-1, self.moved, moved), (log_slope - scale).sum(-1)

    def _maps(self, value: Tensor) -> tuple[Spline, Tensor, Tensor]:
        # Without a component to look at (a latent of one) the network reads a constant.
        given = value[..., self.given] if len(self.given) else torch.ones_like(value[..., :1])
        hidden = F.silu(wide_linear(F.silu(wide_linear(given, self.first)), self.second))
        output = wide_linear(hidden, self.last).to(value.dtype)
        parts = output.unflatten(-1, (len(self.moved), sum(self.sizes))).split(self.sizes, -1)
        widths, heights, slopes, scale, shift = parts
        spline = Spline.from_parameters(widths, heights, slopes, self.bound)
        # At most a factor of e^2 a layer, so that a bad step cannot overflow.
        return spline, 2 * F.tanh(scale[..., 0] / 2), shift[..., 0]
