"""Parts that read the denoiser's features instead of having a trunk of their own."""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadd.backbones.base import Denoiser, FeatureDenoiser
from vadd.errors import ConfigError
from vadd.types import Flags, Times, Tokens

__all__ = ["SharesDenoiser", "attach_parts"]

_Part = TypeVar("_Part", bound="SharesDenoiser")  # Self is beyond the type checker of the tests


class SharesDenoiser:
    """Mixin of priors and recognition networks that run on the denoiser's features.

    The weights stay with the denoiser: the part holds a reference that is no submodule, so that nothing is
    trained, stored or counted twice. :class:`~vadd.model.VADDModel` attaches its prior, and
    :func:`~vadd.training.load_checkpoint` a guide's network; for a new guide call
    ``recognition.attach(denoiser)``. Copy a model and the guide that shares its denoiser together
    (``copy.deepcopy(nn.ModuleList([model, guide]))``), or the copied guide gets a denoiser of its own.
    """

    _denoiser: tuple[FeatureDenoiser, ...] = ()  # in a tuple, which nn.Module does not register

    def attach(self: _Part, denoiser: Denoiser) -> _Part:
        """Read the features of this denoiser from now on; returns the part itself.

        Raises:
            ConfigError: if the denoiser has no features.
        """
        if not isinstance(denoiser, FeatureDenoiser):
            raise ConfigError(
                f"{type(self).__name__} shares the features of a FeatureDenoiser, got {type(denoiser).__name__}."
            )
        self._denoiser = (denoiser,)
        return self

    @property
    def denoiser(self) -> FeatureDenoiser:
        """The denoiser whose features are read.

        Raises:
            ConfigError: if there is none yet.
        """
        if not self._denoiser:
            raise ConfigError(f"{type(self).__name__} has no denoiser yet: call attach(denoiser) first.")
        return self._denoiser[0]

    def shared_context(
        self,
        tokens: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "batch dim_or_1 hidden"]:
        """The denoiser's context of the tokens at the latent zero, which stands in where there is none yet."""
        z = torch.zeros(tokens.shape[0], *self.denoiser.latent_shape, dtype=t.dtype, device=t.device)
        return self.denoiser.context(tokens, t, z, is_padding=is_padding, condition=condition)


def attach_parts(module: nn.Module, denoiser: Denoiser) -> None:
    """Attach the module, and every part below it, that shares a denoiser's features.

    Raises:
        ConfigError: if there is one and the denoiser has no features.
    """
    for part in module.modules():
        if isinstance(part, SharesDenoiser):
            part.attach(denoiser)


def check_attached(part: nn.Module, denoiser: Denoiser) -> None:
    """Raise :class:`ConfigError` if the part, or one below it, shares another denoiser than this one, or none yet."""
    for shared in part.modules():
        if isinstance(shared, SharesDenoiser) and shared.denoiser is not denoiser:
            raise ConfigError(
                f"{type(shared).__name__} shares another denoiser than the model's, perhaps as a copy made apart from "
                "the model: call attach(model.denoiser), or copy model and guide together."
            )
