"""Drawing sequences, whole or around known tokens."""

import torch
from torch import Tensor

from vadd._checks import require_integer
from vadd.distributions import sample_categorical
from vadd.errors import ConfigError, DomainError, DtypeError, NonFiniteError, ShapeError
from vadd.process import require_data
from vadd.samplers.base import Sampler
from vadd.samplers.generation import Generation
from vadd.samplers.latents import LatentChoice
from vadd.samplers.methods import Method
from vadd.samplers.run import SampledModel
from vadd.samplers.shaping import Shaping
from vadd.samplers.time_grid import TimeGrid
from vadd.samplers.trajectory import Trajectory
from vadd.types import Flags, Tokens

__all__ = ["infill", "sample"]


def sample(
    model: SampledModel,
    num_samples: int,
    *,
    num_steps: int | None = None,
    method: Method | Sampler = "ancestral",
    latents: LatentChoice | None = None,
    time_grid: TimeGrid | None = None,
    temperature: float = 1.0,
    latent_temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    length: int | None = None,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    is_padding: Flags | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    progress: bool = True,
    record: Trajectory | None = None,
) -> Tokens:
    """Draw sequences, from all-masked to clean.

    ====================== ======================== ================== ================================
    method                 its law                  network calls      steps
    ====================== ======================== ================== ================================
    "ancestral"            the model's              T                  needed
    "cached"               the same, sample by      at most T          needed
                           sample
    "static"               the model's              T                  needed, all of equal shapes
    "first-hitting"        the model's              at most T and N    None: infinitely many, in N calls
    "confidence"           its own (MaskGIT)        at most T and N    needed
    "entropy-bounded"      its own                  at most N          not taken
    "remasking"            its own (ReMDM)          T                  needed, more than N are of use
    "predictor-corrector"  its own                  2 T - 1            needed
    ====================== ======================== ================== ================================

    The model's law is that of ancestral sampling with these steps, this grid and these latents, what
    :func:`~vadd.evaluation.log_likelihood_bound` with ``bound="finite-step"`` is a bound for; shaping, guidance and
    a latent temperature change it. The classes of the methods have further options.

    Args:
        model: a :class:`~vadd.model.VADDModel`; sampled from with dropout off. Call it as ``model.sample(...)``.
        num_samples: number of sequences.
        num_steps: number of reverse steps ``T``.
        method: a name of the table, or a :class:`~vadd.samplers.Sampler`.
        latents: default what the model was made for: its gate, else its ``latents``. ``"fresh"``: a draw from
            ``p(z | x_t, t)`` at every step; ``"shared"``: one draw a trajectory, at its start; ``"null"``: the null
            latent; one of these for each step; a :class:`~vadd.samplers.LatentGate`;
            :class:`~vadd.samplers.LatentBlocks`: a draw every few steps; :class:`~vadd.samplers.PosteriorLatents`:
            several draws weighted by the model; or a :class:`~vadd.samplers.LatentPolicy` of your own.
        time_grid: ``"uniform"`` (default), ``"cosine"``, ``num_steps + 1`` times from 1 to 0 (a tensor or a list), or
            a function from ``num_steps`` to them.
        temperature, top_k, top_p, min_p: of the token probabilities; see :class:`~vadd.samplers.Shaping`.
        latent_temperature: of the draws of the latent; see :func:`~vadd.samplers.latent_draw.temper`.
        length: number of tokens; default the denoiser's.
        condition: one condition a sample, passed on to prior and denoiser.
        guidance: weight ``w`` of classifier-free guidance (Ho and Salimans, arXiv 2207.12598): logits
            ``(1 - w) * l + w * l_c`` of the network without and with its condition, for networks trained with dropped
            conditions; twice the network calls. 1: the condition alone; 0: the network without it. Tokens that either
            of the two gives probability zero stay out.
        is_padding: positions without data, shape ``(num_samples, length)``; hidden from the networks, they carry 0.
        batch_size: rows that run together; default all. It bounds the memory and leaves the law of a sample alone.
        generator: source of randomness, on the model's device; default the global one.
        seed: in its place, a number: same samples on the same device.
        progress: whether a run of more than a few seconds shows a bar, on a terminal.
        record: takes down every ``x_t`` and ``z``.

    Returns:
        Clean tokens, shape ``(num_samples, length)``.

    Raises:
        DomainError, ConfigError, ShapeError: on options out of range, or that do not fit together or fit the model.
        NonFiniteError: if the denoiser returns NaN.
    """
    require_integer("num_samples", num_samples)
    length = model.denoiser.num_tokens if length is None else length
    if length is None:
        raise ConfigError("length must be given: the denoiser takes sequences of any length.")
    require_integer("length", length)
    generation = Generation.of(
        model,
        length,
        num_steps=num_steps,
        method=method,
        latents=latents,
        time_grid=time_grid,
        shaping=Shaping(temperature, top_k, top_p, min_p),
        latent_temperature=latent_temperature,
        guidance=guidance,
        batch_size=batch_size,
        generator=generator,
        seed=seed,
        progress=progress,
        record=record,
    )
    start = torch.full((num_samples, length), model.process.mask_id, device=model.null_latent.device)
    if is_padding is not None:
        _require_flags("is_padding", is_padding, start, "(num_samples, length)")
        require_data(is_padding)
        start = start.masked_fill(is_padding, 0)
    return generation(start, {"is_padding": is_padding, "condition": condition})[0]


def infill(
    model: SampledModel,
    x: Tokens,
    is_known: Flags,
    *,
    num_steps: int | None = None,
    method: Method | Sampler = "ancestral",
    latents: LatentChoice | None = None,
    num_candidates: int = 1,
    time_grid: TimeGrid | None = None,
    temperature: float = 1.0,
    latent_temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    is_padding: Flags | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    progress: bool = True,
    record: Trajectory | None = None,
) -> Tokens:
    r"""Complete sequences of which some tokens are known: prompts, parts of images, labels among the tokens.

    The sampler starts at time 1 with the known tokens in place and never changes them. Its law is that of the chain
    that starts there. That is not the law of whole samples given that they agree with the known tokens (Bayes
    conditioning of the law in ``T`` steps), for there the known tokens, too, come step by step, and latents are
    drawn before they are seen.

    With ``num_candidates`` above 1 the law tends to that: each row is sampled so often from all-masked, with the known
    tokens taken instead of drawn where they come up, and one candidate is kept with probability proportional to
    the product of the probabilities of the tokens so taken (importance resampling). The more tokens are known, the
    more candidates it takes; ``record.log_weights`` tells how evenly they are weighted.

    Args:
        model: a :class:`~vadd.model.VADDModel`. Call it as ``model.infill(...)``.
        x: tokens, shape ``(batch, dim)``; those at unknown positions do not matter. For several
            completions of a row repeat it.
        is_known: which tokens are known, of the shape of ``x``.
        latents: as in :func:`sample`. A prior that reads ``x_t`` reads the known tokens; with any prior,
            ``"posterior"`` is a latent for the trajectory that explains them: ``PosteriorLatents(64)``, see
            :class:`~vadd.samplers.PosteriorLatents`.
        num_candidates: as above; for methods and latents with the model's law, not for ``"posterior"``. Candidates are
            the rows that ``batch_size`` counts and ``record`` takes down.
        is_padding: positions without data; they keep their token of ``x``, which must be a clean one.
        num_steps, method, time_grid, temperature, latent_temperature, top_k, top_p, min_p, condition, guidance,
            batch_size, generator, seed, progress, record: as in :func:`sample`.

    Returns:
        Clean tokens, shape ``(batch, dim)``.

    Raises:
        DomainError, ConfigError, ShapeError, DtypeError: on known tokens outside the vocabulary, flags of another
            shape, options out of range, or that do not fit together or fit the model.
        NonFiniteError: if the denoiser returns NaN, or the known tokens are impossible under all candidates.
    """
    _require_tokens(model, x, is_known, is_padding)
    require_integer("num_candidates", num_candidates)
    generation = Generation.of(
        model,
        x.shape[1],
        num_steps=num_steps,
        method=method,
        latents=latents,
        time_grid=time_grid,
        shaping=Shaping(temperature, top_k, top_p, min_p),
        latent_temperature=latent_temperature,
        guidance=guidance,
        batch_size=batch_size,
        generator=generator,
        seed=seed,
        progress=progress,
        record=record,
    )
    is_fixed = is_known if is_padding is None else is_known | is_padding
    if num_candidates == 1:
        start = x.masked_fill(~is_fixed, model.process.mask_id)
        return generation(start, {"is_padding": is_padding, "condition": condition})[0]
    if not generation.sampler.has_model_law:
        raise ConfigError(
            f"num_candidates is for methods with the model's law, not for {type(generation.sampler).__name__}."
        )
    if not getattr(generation.latents, "has_model_law", True):
        raise ConfigError(
            "num_candidates is for latents with the model's law, and several draws weighted by the model have another: "
            "give latents of the prior, or leave num_candidates out."
        )
    start = torch.full_like(x, model.process.mask_id)
    if is_padding is not None:
        start, is_known = torch.where(is_padding, x, start), is_known & ~is_padding
    start, x, is_known = (value.repeat_interleave(num_candidates, 0) for value in (start, x, is_known))
    options = {
        name: None if value is None else value.repeat_interleave(num_candidates, 0)
        for name, value in (("is_padding", is_padding), ("condition", condition))
    }
    candidates, log_weights = generation(start, options, given=(x, is_known))
    assert log_weights is not None
    log_weights = log_weights.reshape(-1, num_candidates)
    chosen = sample_categorical(log_weights, generator=generation.generator)
    if bool((chosen == num_candidates).any()):
        raise NonFiniteError("the known tokens have probability zero, or NaN, in every candidate of a row.")
    candidates = candidates.reshape(*log_weights.shape, -1)
    return candidates[torch.arange(len(candidates), device=x.device), chosen]


def _require_tokens(model: SampledModel, x: Tensor, is_known: Tensor, is_padding: Tensor | None) -> None:
    if not isinstance(x, Tensor) or x.dtype != torch.int64:
        raise DtypeError(f"x must hold int64 tokens, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}.")
    if x.ndim != 2 or 0 in x.shape:
        raise ShapeError(f"x must have shape (batch, dim), both at least 1, got {tuple(x.shape)}.")
    _require_flags("is_known", is_known, x, "the shape of x,")
    fixed = is_known
    if is_padding is not None:
        _require_flags("is_padding", is_padding, x, "the shape of x,")
        require_data(is_padding)
        fixed = is_known | is_padding
    vocab_size = model.process.vocab_size
    if bool((fixed & ((x < 0) | (x >= vocab_size))).any()):
        wrong = x[fixed & ((x < 0) | (x >= vocab_size))]
        raise DomainError(
            f"known tokens must lie in [0, {vocab_size}), got {int(wrong[0])}; positions to be filled in are those "
            "that is_known leaves out."
        )


def _require_flags(name: str, flags: Tensor, x: Tensor, expected: str) -> None:
    if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
        raise DtypeError(
            f"{name} must be boolean, got {flags.dtype if isinstance(flags, Tensor) else type(flags).__name__}."
        )
    if flags.shape != x.shape:
        raise ShapeError(f"{name} must have {expected} {tuple(x.shape)}, got {tuple(flags.shape)}.")
