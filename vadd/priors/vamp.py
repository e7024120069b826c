"""The aggregate of the recognition model's own posteriors as prior."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from vadd.backbones.base import Recognition
from vadd.errors import ConfigError, DomainError, DtypeError, ShapeError
from vadd.priors.base import LatentPrior, as_nonempty_shape, check_counts
from vadd.priors.mixture import mixture
from vadd.registry import register
from vadd.types import Distribution, Flags, Times, Tokens

__all__ = ["SharesRecognition", "VampPrior"]

_Part = TypeVar("_Part", bound="SharesRecognition")


class SharesRecognition:
    """Mixin of priors that run the guide's recognition network.

    The weights stay with the guide: the prior holds a reference that is no submodule, so that nothing is trained,
    stored or counted twice. :func:`~vadd.training.load_checkpoint` attaches the guide's network; for a new guide
    call ``prior.attach_recognition(guide.recognition)``. Copy model and guide together
    (``copy.deepcopy(nn.ModuleList([model, guide]))``), or the copied model gets a recognition network of its own.
    """

    latent_shape: torch.Size
    _recognition: tuple[Recognition, ...] = ()  # in a tuple, which nn.Module does not register

    def attach_recognition(self: _Part, recognition: Recognition) -> _Part:
        """Run this recognition network from now on; returns the part itself.

        Raises:
            ConfigError: if it is none, or of another latent shape.
        """
        if not isinstance(recognition, Recognition):
            raise ConfigError(f"recognition must be a Recognition, got {type(recognition).__name__}.")
        if torch.Size(recognition.latent_shape) != self.latent_shape:
            raise ConfigError(
                "prior and recognition disagree on latent_shape: "
                f"{tuple(self.latent_shape)} and {tuple(recognition.latent_shape)}."
            )
        self._recognition = (recognition,)
        return self

    @property
    def recognition(self) -> Recognition:
        """The recognition network that is run.

        Raises:
            ConfigError: if there is none yet.
        """
        if not self._recognition:
            raise ConfigError(
                f"{type(self).__name__} has no recognition network yet: call attach_recognition(guide.recognition)."
            )
        return self._recognition[0]


@register
class VampPrior(SharesRecognition, LatentPrior):
    r"""Mixture of posteriors :math:`p(z) = \sum_k w_k\, r(z \mid u_k, \text{all masked})` at sequences :math:`u_k`.

    The VampPrior (Tomczak and Welling, "VAE with a VampPrior", arXiv 1705.07120) learns the inputs :math:`u_k`. Tokens
    cannot be learned by gradients, and a soft token would need a network that reads one, so here the inputs are data:
    rows of the training set, with learned weights, as in Norouzi et al., "Exemplar VAE", arXiv 2004.04795. It goes
    with every recognition network, of normal or discrete latents. The network is trained through the prior too.

    Rows that are trained on as well find their own posterior in the mixture, which flatters the KL divergence by up to
    ``log num_components``: take rows that are left out of training. As the posteriors are those of whole sequences, the
    prior fits a latent drawn when all is masked best. Each call runs the network on all ``num_components`` rows.

    Build it by :meth:`from_data`; the constructor makes the empty one that a checkpoint fills.

    Args:
        latent_shape: shape of one sequence's latent.
        num_components: sequences :math:`u_k`.
        num_tokens: their length.
        has_padding: whether they have padding.
        has_labels: whether they have class labels, given to the network as ``condition``. The mixture is over the
            labels as well: it does not depend on ``condition`` or padding of the sequence that is generated.

    Raises:
        ConfigError: on counts that are not positive, or an empty latent.
    """

    inputs: Tensor
    is_padding: Tensor | None
    labels: Tensor | None

    def __init__(
        self,
        latent_shape: int | Sequence[int],
        num_components: int,
        num_tokens: int,
        *,
        has_padding: bool = False,
        has_labels: bool = False,
    ) -> None:
        super().__init__()
        self.latent_shape = as_nonempty_shape(latent_shape)
        check_counts(num_components=num_components, num_tokens=num_tokens)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self._has_inputs = False
        shape = (num_components, num_tokens)
        self.register_buffer("inputs", torch.full(shape, -1))  # no token: networks refuse it
        self.register_buffer("is_padding", torch.zeros(shape, dtype=torch.bool) if has_padding else None)
        self.register_buffer("labels", torch.zeros(num_components, dtype=torch.int64) if has_labels else None)

    @classmethod
    def from_data(
        cls,
        recognition: Recognition,
        x_0: Tokens,
        num_components: int,
        *,
        is_padding: Flags | None = None,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> "VampPrior":
        """The prior of a guide's recognition network on rows drawn from the data without replacement.

        Args:
            recognition: ``guide.recognition``.
            x_0: clean tokens, shape ``(rows, dim)``; best rows that are left out of training.
            num_components: rows to draw.
            is_padding: positions without data, shape ``(rows, dim)``.
            labels: class labels, ``int64``, shape ``(rows,)``.
            generator: source of randomness.

        Raises:
            ShapeError: if ``is_padding`` or ``labels`` do not have a value for each token or row.
            DtypeError: on tokens or labels that are not ``int64``, or padding that is not ``bool``.
            DomainError: on fewer rows than mixture components.
        """
        for name, values, dtype in (
            ("x_0", x_0, torch.int64),
            ("is_padding", is_padding, torch.bool),
            ("labels", labels, torch.int64),
        ):
            if values is not None and values.dtype != dtype:
                raise DtypeError(f"{name} must be a tensor of {dtype}, got {values.dtype}; convert it.")
        if is_padding is not None and is_padding.shape != x_0.shape:
            raise ShapeError(f"is_padding must have the shape of x_0, {tuple(x_0.shape)}, got {is_padding.shape}.")
        if labels is not None and labels.shape != x_0.shape[:1]:
            raise ShapeError(f"labels must have shape {tuple(x_0.shape[:1])}, got {tuple(labels.shape)}.")
        prior = cls(
            tuple(recognition.latent_shape),
            num_components,
            x_0.shape[1],
            has_padding=is_padding is not None,
            has_labels=labels is not None,
        ).to(x_0.device)
        if len(x_0) < num_components:
            raise DomainError(f"x_0 must have at least {num_components} rows, one a component, got {len(x_0)}.")
        rows = torch.randperm(len(x_0), generator=generator, device=x_0.device)[:num_components]
        for buffer, values in ((prior.inputs, x_0), (prior.is_padding, is_padding), (prior.labels, labels)):
            if buffer is not None and values is not None:
                buffer.copy_(values[rows])
        return prior.attach_recognition(recognition)

    def forward(
        self,
        x_t: Tokens,
        t: Times,
        *,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Distribution:
        self._require_inputs()
        target = torch.ones_like(self.inputs, dtype=torch.bool)
        options = {}
        if self.is_padding is not None:
            target, options["is_padding"] = ~self.is_padding, self.is_padding
        if self.labels is not None:
            options["condition"] = self.labels
        posteriors = self._run(self.inputs, target, t.new_ones(len(self.inputs)), options)
        return mixture(self.logits, posteriors.expand((x_t.shape[0], len(self.inputs))))

    def _require_inputs(self) -> None:
        if not self._has_inputs and bool((self.inputs < 0).any()):
            raise ConfigError(
                "the VampPrior has no sequences yet: build it by VampPrior.from_data, or load a checkpoint."
            )
        self._has_inputs = True  # looked at once: reading a tensor's values waits for the device

    def _run(self, tokens: Tensor, target: Tensor, t: Tensor, options: dict[str, Tensor]) -> Distribution:
        """The network in the mode of this prior: a sampler that sets the model to evaluation does not reach it."""
        network = self.recognition
        modes = [(part, part.training) for part in network.modules()] if network.training and not self.training else []
        try:
            for part, _ in modes:
                part.training = False
            return network(tokens, target, t, **options)
        finally:
            for part, mode in modes:
                part.training = mode
