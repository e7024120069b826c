"""How a sampler chooses the latent of each step."""

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from vadd.errors import ConfigError
from vadd.types import Distribution, Latents, Times, Tokens

__all__ = ["LatentPolicy", "draw", "fresh_latents", "null_latents", "resolve_policy", "shared_latents"]


@runtime_checkable
class LatentPolicy(Protocol):
    """Chooses the latents of a step.

    Args:
        prior: ``p(z | x_t, t)`` at this step.
        x_t: tokens, shape ``(batch, dim)``.
        t: times, shape ``(batch,)``.
        previous: the latents of the step before, None at the first.
        generator: source of randomness.

    Returns:
        Latents of shape ``(batch, *latent_shape)``; None is the null latent.
    """

    def __call__(
        self,
        prior: Distribution,
        x_t: Tokens,
        t: Times,
        previous: Latents | None,
        *,
        generator: torch.Generator | None,
    ) -> Latents | None: ...


def draw(
    distribution: Distribution, generator: torch.Generator | None, sample_shape: torch.Size = torch.Size()
) -> Tensor:
    """Sample with the given generator, which distributions do not take: it seeds a forked global state."""
    if generator is None:
        return distribution.sample(sample_shape)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed would also reseed devices whose state is not restored here.
        if devices:
            torch.cuda.default_generators[generator.device.index or 0].manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        return distribution.sample(sample_shape)


def fresh_latents(
    prior: Distribution, x_t: Tokens, t: Times, previous: Any, *, generator: torch.Generator | None
) -> Latents:
    """A new draw at every step: the sampler of the paper (Algorithm 2)."""
    return draw(prior, generator)


def shared_latents(
    prior: Distribution, x_t: Tokens, t: Times, previous: Any, *, generator: torch.Generator | None
) -> Latents:
    """One draw at the start, kept for the whole trajectory."""
    return draw(prior, generator) if previous is None else previous


def null_latents(
    prior: Distribution, x_t: Tokens, t: Times, previous: Any, *, generator: torch.Generator | None
) -> None:
    """No latent: the masked diffusion model inside a model trained with latent dropout."""
    return None


_POLICIES: dict[str, LatentPolicy] = {
    "fresh": fresh_latents,
    "shared": shared_latents,
    "null": null_latents,
}


def resolve_policy(latents: Literal["fresh", "shared", "null"] | LatentPolicy) -> LatentPolicy:
    """The policy of a name, or the policy itself.

    Raises:
        ConfigError: on an unknown name.
    """
    if callable(latents):
        return latents
    if not isinstance(latents, str) or latents not in _POLICIES:
        raise ConfigError(f"latents must be one of {', '.join(_POLICIES)} or a LatentPolicy, got {latents!r}.")
    return _POLICIES[latents]
