"""Bounds on documents that are longer than the sequences of the model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vadd.errors import ConfigError
from vadd.evaluation.bounds import Kind, log_likelihood_bound
from vadd.evaluation.result import BoundResult
from vadd.guide import RecognitionGuide
from vadd.model import VADDModel
from vadd.objectives.pairs import check_pair
from vadd.text.windows import sliding_windows

__all__ = ["document_bound"]


def document_bound(
    model: VADDModel,
    guide: RecognitionGuide,
    documents: Sequence[Int[Tensor, " _tokens"] | Sequence[int]],
    *,
    length: int,
    stride: int,
    bound: Kind,
    condition: Tensor | None = None,
    **options: Any,
) -> BoundResult:
    r"""Upper bounds on the negative log-likelihood of whole documents, in nats a document.

    The sampler that they bound writes a document window by window: ``model.infill`` fills in the next ``stride`` tokens
    given the ``length - stride`` before them. With :math:`w_k` the new tokens of window ``k`` and :math:`c_k` its
    context, the document's probability among those of its number of tokens is :math:`\prod_k p(w_k \mid c_k)`, each
    factor a distribution over new tokens given earlier ones; the bounds of the windows add up to one of the document.
    A latent that is shared by a trajectory is one of its window.

    Args:
        model, guide: the pair.
        documents: tokens of each document, at least one.
        length, stride: of :func:`~vadd.text.windows.sliding_windows`.
        bound: as in :func:`~vadd.evaluation.log_likelihood_bound`, but for ``"conditional"``, which scores only a
            part of the tokens.
        condition: one a document.
        **options: further ones of :func:`~vadd.evaluation.log_likelihood_bound`.

    Returns:
        One estimate a document. Masks of windows are counted as independent.

    Raises:
        ConfigError, DomainError: if model and guide do not fit each other, on options that do not fit, a document
            without tokens, or none.
        DtypeError, ShapeError: if a document is not one row of integers.
    """
    check_pair(model, guide)
    if bound == "conditional":
        raise ConfigError(
            'bound="conditional" scores a part of each window, which is no bound of a document; for one jump a window '
            'use bound="finite-step", num_steps=1.'
        )
    own = sorted({"is_frozen", "is_padding"} & options.keys())
    if own:
        raise ConfigError(f"{', '.join(own)} follow from the windows of the documents: leave them out.")
    if not len(documents):
        raise ConfigError("documents is empty: there is nothing to evaluate.")
    windows = [sliding_windows(tokens, length, stride) for tokens in documents]
    device = model.null_latent.device
    rows = {name: torch.cat([part[name] for part in windows]).to(device) for name in windows[0]}
    counts = torch.tensor([len(part["x_0"]) for part in windows], device=device)
    index = torch.arange(len(windows), device=device).repeat_interleave(counts)
    if condition is not None:
        if len(condition) != len(windows):
            raise ConfigError(f"condition must have one entry for each of {len(windows)} documents: {len(condition)}.")
        condition = condition.to(device)[index]
    # Flags that are nowhere set are left out: networks are faster without.
    flags = {name: value for name, value in rows.items() if name != "x_0" and bool(value.any())}
    result = log_likelihood_bound(model, guide, rows["x_0"], bound=bound, condition=condition, **flags, **options)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(windows)).index_add(0, index, values)

    claim = result.bounds
    if claim is not None:
        claim = claim.removesuffix(" given the frozen tokens")
        claim = f"{claim}, window by window: {stride} new tokens given the {length - stride} before them"
    return replace(
        result,
        bounds=claim,
        nats_per_sequence=total(result.nats_per_sequence),
        stderr_per_sequence=total(result.stderr_per_sequence.square()).sqrt(),
        num_scored=total(result.num_scored),
    )
