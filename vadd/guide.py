"""The recognition model as a Pyro guide."""

from typing import Literal

import pyro
import torch
from torch import Tensor

from vadd._checks import require_kind
from vadd._naming import UniquelyNamedModule
from vadd.backbones.base import Recognition
from vadd.errors import ConfigError
from vadd.model import check_latent
from vadd.process import check_form
from vadd.storage import pretrained
from vadd.types import CorruptedBatch, Distribution, Flags, Latents, Tokens

__all__ = ["RecognitionGuide"]


class RecognitionGuide(UniquelyNamedModule):
    """Guide of :class:`~vadd.model.VADDModel`: ``z ~ r(z | tokens, target, t)``.

    The guide of a model without a latent is ``RecognitionGuide(EmptyRecognition())``; it has no
    parameters.

    Args:
        recognition: the recognition network.
        explains: what the network is trained to explain when a jump reveals only some of the masked
            tokens. ``"masked"``: all masked tokens, none hidden (the paper's case); ``"revealed"``: the
            revealed ones, the others hidden from it.

    Raises:
        ConfigError: if ``recognition`` is no network of that kind, or on another word for ``explains``.
    """

    def __init__(self, recognition: Recognition, *, explains: Literal["masked", "revealed"] = "masked") -> None:
        super().__init__()
        require_kind("recognition", recognition, Recognition, "for none there is EmptyRecognition()")
        if explains not in ("masked", "revealed"):
            raise ConfigError(f'explains must be "masked" or "revealed", got {explains!r}.')
        self.recognition = recognition
        self.explains = explains
        #: Shape of one sequence's latent. Kept here: reading a submodule costs a message a parameter.
        self.latent_shape = torch.Size(recognition.latent_shape)

    from_pretrained = classmethod(pretrained.load_guide)

    def forward(self, batch: CorruptedBatch) -> Latents:
        """The Pyro program: sample ``z``.

        Raises:
            ConfigError: if the batch is none of :class:`~vadd.types.CorruptedBatch`.
        """
        posterior = self.posterior(batch)
        with pyro.plate("batch", batch.x_0.shape[0], dim=-1):
            return pyro.sample("z", posterior)

    def posterior(self, batch: CorruptedBatch) -> Distribution:
        """``r(z | x_s, target, t)``, the distribution that the guide samples from.

        Raises:
            ConfigError: if the batch is none of :class:`~vadd.types.CorruptedBatch`.
        """
        require_kind("batch", batch, CorruptedBatch, "process.corrupt(x_0, t) makes one; of clean tokens, encode(x_0)")
        tokens, target, t = batch.recognition_inputs
        posterior = self.recognition(tokens, target, t, **batch.network_options)
        check_latent("recognition", posterior, self.latent_shape, tokens.shape[0])
        return posterior

    def encode(self, x_0: Tokens, *, is_padding: Flags | None = None, condition: Tensor | None = None) -> Distribution:
        """Posterior of the latent of whole sequences: all tokens masked at time 1, all explained.

        Args:
            x_0: clean tokens, shape ``(batch, dim)``.
            is_padding: positions without data.
            condition: passed on to the recognition network.

        Raises:
            DtypeError, ShapeError: on tokens or flags that are not as described. The guide does not know the
                vocabulary: values are not looked at.
        """
        check_form(x_0, is_padding=is_padding)
        target = torch.ones_like(x_0, dtype=torch.bool) if is_padding is None else ~is_padding
        ones = torch.ones(x_0.shape[0], device=x_0.device)
        batch = CorruptedBatch(x_0, x_0, ones, 0 * ones, target, target, is_padding=is_padding, condition=condition)
        return self.posterior(batch)
