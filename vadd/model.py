"""The generative model as a Pyro program."""

from typing import Any

import pyro
import torch
from jaxtyping import Int
from torch import Tensor

from vadd import samplers
from vadd._checks import require_kind
from vadd._modes import evaluating, restored_on_error
from vadd._naming import UniquelyNamedModule
from vadd.backbones.base import Denoiser, FeatureDenoiser
from vadd.backbones.sharing import attach_parts
from vadd.distributions import MaskedCategorical
from vadd.errors import ConfigError, DomainError, NonFiniteError, ShapeError
from vadd.priors.base import LatentPrior
from vadd.process import MaskingProcess
from vadd.samplers.gate import LatentGate, Mode, resolve_plan
from vadd.storage import pretrained
from vadd.types import CorruptedBatch, Distribution, Flags, Latents, Times, Tokens

__all__ = ["VADDModel"]


class VADDModel(UniquelyNamedModule):
    r"""Masked diffusion with a latent: ``z ~ p(z | x_t, t)``, then ``x_0 ~ prod_i mu^i(x_0^i | x_t, z, t)``.

    Calling the model on a :class:`~vadd.types.CorruptedBatch` runs the Pyro program, with the latent
    site ``"z"`` and the observed site ``"x_0"`` in a plate ``"batch"``. With a latent of shape ``(0,)``
    it is the plain masked diffusion model.

    Pyro's store keeps parameters by name: a network assigned to a model that ``pyro.infer.SVI`` has already run is
    not trained by it. Build a new model instead, or train the objective as a module. ``pyro.infer.Predictive`` needs
    ``pyro.poutine.uncondition(model)``, or it returns the observed tokens.

    Args:
        denoiser: the network of the token probabilities.
        prior: the distribution of the latent.
        process: the masking process.
        latent_dropout: probability with which an objective, in training mode, replaces a row's
            latent by the null latent. The model then also holds a masked diffusion model without
            a latent: the null path, ``denoise(x_t, t, z=None)``.
        latents: where those of :meth:`sample` and :meth:`infill` come from, unless :attr:`gate` or the call says.

    Raises:
        ConfigError: if the parts do not fit together.

    References:
        Xie et al., "Variational Autoencoding Discrete Diffusion with Enhanced Dimensional
        Correlations Modeling", ICLR 2026, arXiv 2505.17384.
    """

    null_latent: Tensor

    def __init__(
        self,
        denoiser: Denoiser,
        prior: LatentPrior,
        process: MaskingProcess,
        *,
        latent_dropout: float = 0.0,
        latents: Mode = "fresh",
    ) -> None:
        super().__init__()
        for name, part, kind in (
            ("denoiser", denoiser, Denoiser),
            ("prior", prior, LatentPrior),
            ("process", process, MaskingProcess),
        ):
            require_kind(name, part, kind, "compile networks in place, by network.compile()")
        for name, size in (("denoiser", denoiser.vocab_size), ("prior", prior.vocab_size or process.vocab_size)):
            if size != process.vocab_size:
                raise ConfigError(f"{name} and process disagree on vocab_size: {size} and {process.vocab_size}.")
        if torch.Size(denoiser.latent_shape) != torch.Size(prior.latent_shape):
            raise ConfigError(
                "denoiser and prior disagree on latent_shape: "
                f"{tuple(denoiser.latent_shape)} and {tuple(prior.latent_shape)}."
            )
        if not 0 <= latent_dropout < 1:
            raise ConfigError(f"latent_dropout must lie in [0, 1), got {latent_dropout}.")
        self.denoiser = denoiser
        self.prior = prior
        attach_parts(prior, denoiser)
        self.process = process
        self.latent_dropout = float(latent_dropout)
        self.latents = latents
        self._gate: LatentGate | None = None
        #: Shape of one sequence's latent; ``(0,)`` for the plain masked diffusion model. Kept here:
        #: reading a submodule in a Pyro program costs a message for each of its parameters.
        self.latent_shape = torch.Size(prior.latent_shape)
        # The null latent: a fixed point in the prior's tail, told apart from draws by the denoiser.
        self.register_buffer("null_latent", torch.full(self.latent_shape, 5.0))

    @property
    def latents(self) -> Mode:
        """Where the latents of :meth:`sample` come from, unless :attr:`gate` or the call says otherwise."""
        return self._latents

    @latents.setter
    def latents(self, latents: Mode) -> None:
        self._latents: Mode = resolve_plan(latents, 1)[0]

    @property
    def gate(self) -> LatentGate | None:
        """The mode of each jump, where it was chosen on validation data; see :func:`vadd.evaluation.fit_gate`."""
        return self._gate

    @gate.setter
    def gate(self, gate: LatentGate | None) -> None:
        if gate is not None and not isinstance(gate, LatentGate):
            raise ConfigError(f"gate must be a LatentGate or None, got {type(gate).__name__}.")
        self._gate = gate

    @property
    def has_latent(self) -> bool:
        """Whether the latent has any components."""
        return self.latent_shape.numel() > 0

    def forward(self, batch: CorruptedBatch) -> Int[Tensor, "*particles batch dim"]:
        """The Pyro program: sample ``z``, observe the tokens that the jump reveals."""
        require_kind("batch", batch, CorruptedBatch, "process.corrupt(x_0, t) makes one")
        x_t, t = batch.latent_inputs
        prior = self.prior(x_t, t, **batch.network_options)
        check_latent("prior", prior, self.latent_shape, x_t.shape[0])
        with pyro.plate("batch", x_t.shape[0], dim=-1):
            z = pyro.sample("z", prior)
            if batch.is_null is not None:
                is_null = batch.is_null.reshape(-1, *[1] * len(self.latent_shape))
                z = torch.where(is_null, self.null_latent.to(z.dtype), z)
            likelihood = self.denoise(batch.x_t, batch.t, z, target=batch.target, **batch.network_options)
            return pyro.sample("x_0", likelihood, obs=batch.x_s)

    def denoise(
        self,
        x_t: Tokens,
        t: Times,
        z: Tensor | None = None,
        *,
        target: Flags | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> MaskedCategorical:
        """Distribution of the target tokens given ``x_t`` and the latent.

        Args:
            x_t: tokens with masked positions, shape ``(batch, dim)``.
            t: times, shape ``(batch,)``.
            z: latents, shape ``(*particles, batch, *latent_shape)``; None is the null latent.
            target: positions to reveal; default all masked ones.
            is_padding, condition: passed on to the denoiser.

        Raises:
            ShapeError, DomainError: on arguments or output of the denoiser not as described; values: see the process.
        """
        self._check_inputs(x_t, t, target)
        batch, latent_ndim = x_t.shape[0], len(self.latent_shape)
        if z is None:
            z = self.null_latent.expand(batch, *self.latent_shape)
        if z.shape[z.ndim - latent_ndim :] != self.latent_shape or z.shape[: z.ndim - latent_ndim][-1:] != (batch,):
            raise ShapeError(
                f"z must have shape (..., {batch}, {', '.join(map(str, self.latent_shape))}) for x_t of shape "
                f"{tuple(x_t.shape)}, got {tuple(z.shape)}."
            )
        # Networks see one batch axis; further axes on the left (vectorized particles) are folded into it.
        particles = z.shape[: z.ndim - latent_ndim - 1]
        copies = particles.numel()
        options: dict[str, Any] = {
            name: _repeat(value, copies)
            for name, value in (("is_padding", is_padding), ("condition", condition))
            if value is not None
        }
        inputs = (_repeat(x_t, copies), _repeat(t, copies), z.reshape(copies * batch, *self.latent_shape))
        denoiser = self.denoiser
        is_feature = isinstance(denoiser, FeatureDenoiser)
        output = denoiser.features(*inputs, **options) if is_feature else denoiser(*inputs, **options)
        size = output.shape[-1:] if is_feature else (self.process.vocab_size,)
        if output.shape != (*inputs[0].shape, *size):
            raise ShapeError(
                f"{type(denoiser).__name__} returned shape {tuple(output.shape)} for tokens of shape "
                f"{tuple(inputs[0].shape)}; expected (batch, dim, {'hidden' if is_feature else 'vocab'}), with one "
                f"entry for each of the {self.process.vocab_size} clean tokens in the logits."
            )
        output = output.reshape(*particles, *x_t.shape, -1)
        mask_id = self.process.mask_id
        if is_feature:
            return MaskedCategorical.from_features(
                output, denoiser.head, x_t, mask_id, target=target, validate_args=False
            )
        return MaskedCategorical(output, x_t, mask_id, target=target, validate_args=False)

    def _check_inputs(self, x_t: Tensor, t: Tensor, target: Tensor | None) -> None:
        if x_t.dtype != torch.int64 or x_t.ndim != 2:
            raise ShapeError(f"x_t must hold int64 tokens of shape (batch, dim), got {x_t.dtype}, {tuple(x_t.shape)}.")
        if not t.is_floating_point() or t.shape != x_t.shape[:1]:
            raise ShapeError(f"t must hold one float a row, {tuple(x_t.shape[:1])}, got {t.dtype}, {tuple(t.shape)}.")
        if target is not None and (target.dtype != torch.bool or target.shape != x_t.shape):
            raise ShapeError(
                f"target must be boolean of the shape of x_t, {tuple(x_t.shape)}, got {target.dtype}, "
                f"{tuple(target.shape)}."
            )
        if not self.process.checks_values:
            return
        mask_id = self.process.mask_id
        if not bool(((x_t >= 0) & (x_t <= mask_id)).all()):
            raise DomainError(f"x_t must hold clean tokens in [0, {mask_id}) or the mask token {mask_id}.")
        if target is not None and bool((target & (x_t != mask_id)).any()):
            raise DomainError("target must be a subset of the masked positions of x_t: revealed tokens are kept.")

    sample = samplers.sample
    infill = samplers.infill
    save_pretrained = pretrained.save_pretrained
    push_to_hub = pretrained.push_to_hub
    from_pretrained = classmethod(pretrained.load_model)

    def reconstruct(
        self,
        x_t: Tokens,
        z: Latents | None,
        *,
        t: Times | None = None,
        is_padding: Flags | None = None,
        condition: Tensor | None = None,
    ) -> Tokens:
        """Fill the masked positions with their most probable tokens given the latent.

        Args:
            x_t: tokens with masked positions, shape ``(batch, dim)``.
            z: latents, shape ``(batch, *latent_shape)``; None is the null latent.
            t: times; default those at which the schedule masks the fraction that is masked.
            is_padding, condition: passed on to the denoiser.

        Raises:
            NonFiniteError: if the denoiser returns NaN.
        """
        is_masked = x_t == self.process.mask_id
        if t is None:
            num_data = x_t.shape[-1] if is_padding is None else (~is_padding).sum(-1).clamp(min=1)
            t = self.process.schedule.time_of(is_masked.sum(-1) / num_data)
        with evaluating(self):
            likelihood = self.denoise(x_t, t, z, is_padding=is_padding, condition=condition)
            if bool(likelihood.logits_at(is_masked).isnan().any()):
                raise NonFiniteError("the denoiser returned NaN; check its weights and the latents.")
            return likelihood.mode

    @classmethod
    def from_mdm(
        cls,
        mdm: "VADDModel",
        denoiser: Denoiser,
        prior: LatentPrior,
        *,
        latent_dropout: float = 0.0,
        latents: Mode = "fresh",
    ) -> "VADDModel":
        """Start from a trained masked diffusion model.

        Args:
            mdm: a model without a latent.
            denoiser: the same network with a latent. Its weights are overwritten by the trained
                ones; the latent's path keeps its own, and must start at zero.
            prior: the prior of the new model.
            latent_dropout, latents: as in the constructor; the default recipe's latents are ``"shared"``.

        Returns:
            A model that gives the same token probabilities as ``mdm``, for every latent.

        Raises:
            ConfigError: if ``mdm`` is no model without a latent, its weights have no place in ``denoiser``, or the
                result differs from ``mdm`` (checked on random inputs).
        """
        require_kind("mdm", mdm, VADDModel, "load a stored one first, VADDModel.from_pretrained(folder)")
        model = cls(denoiser, prior, mdm.process, latent_dropout=latent_dropout, latents=latents)
        model.load_mdm(mdm)
        return model

    def load_mdm(self, mdm: "VADDModel") -> None:
        """Take the denoiser's weights from a trained masked diffusion model; see :meth:`from_mdm`.

        :func:`vadd.training.start_from_mdm` also compares the masking processes, and reads stored models.

        Raises:
            ConfigError: as there; the model is left as it was.
        """
        require_kind("mdm", mdm, VADDModel, "load a stored one first, VADDModel.from_pretrained(folder)")
        if mdm.has_latent:
            raise ConfigError(f"mdm must have no latent, got one of shape {tuple(mdm.latent_shape)}.")
        weights, own = mdm.denoiser.state_dict(), self.denoiser.state_dict()
        misfits = [k for k, v in weights.items() if k not in own or (own[k].shape, own[k].dtype) != (v.shape, v.dtype)]
        if misfits:
            raise ConfigError(
                f"denoiser has no matching place for the weights {', '.join(misfits)}; build it with the same "
                "options as the mdm's, but for latent_shape."
            )
        with restored_on_error(self.denoiser), evaluating(self, mdm):  # dropout would make any two networks differ
            self.denoiser.load_state_dict(weights, strict=False)
            self._require_same_start(mdm)

    def _require_same_start(self, mdm: "VADDModel") -> None:
        device = self.null_latent.device
        generator = torch.Generator().manual_seed(0)
        length = self.denoiser.num_tokens or 8
        x_t = torch.randint(self.process.mask_id + 1, (2, length), generator=generator).to(device)
        t = torch.tensor([0.3, 1.0], device=device)
        z = torch.randn(2, *self.latent_shape, generator=generator).to(device)
        if not torch.equal(self.denoise(x_t, t, z).logits, mdm.denoise(x_t, t, z.new_zeros(2, 0)).logits):
            raise ConfigError(
                "the denoiser does not start as the mdm: the path of its latent must be initialized to zero, so "
                "that its output does not depend on z, and no other weight may be missing from the mdm."
            )


def check_latent(name: str, distribution: Distribution, latent_shape: torch.Size, batch: int) -> None:
    """Raise a ShapeError unless the distribution is one over latents for a batch of sequences."""
    got = (tuple(distribution.batch_shape), tuple(distribution.event_shape))
    expected = ((batch,), tuple(latent_shape))
    if got != expected:
        raise ShapeError(
            f"{name} returned a distribution of batch_shape {got[0]} and event_shape {got[1]}; expected "
            f"{expected[0]} and {expected[1]}. Declare latent axes with .to_event({len(latent_shape)}) and "
            "expand to the batch."
        )


def _repeat(value: Tensor, copies: int) -> Tensor:
    """Stack ``copies`` of a batch along its first axis."""
    return value if copies == 1 else value.repeat(copies, *[1] * (value.ndim - 1))
