"""Terms of an objective, read from the traces of model and guide."""

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from vadd.errors import NonFiniteError
from vadd.objectives.divergence import latent_divergence

__all__ = ["diagnose_loss", "sum_particles", "weighted_sum"]


def weighted_sum(divergence: Tensor, site: dict[str, Any]) -> Tensor:
    """Sum under the weights of the site; rows of weight zero do not count, even if infinite."""
    weighted = scale_and_mask(divergence, site["scale"], site["mask"])
    return torch.where(torch.as_tensor(site["scale"], device=weighted.device) == 0, 0.0, weighted).sum()


def sum_particles(value: Tensor) -> Tensor:
    """Sum over the axis of vectorized particles, if there is one."""
    return value.reshape(-1, value.shape[-1]).sum(0)


def diagnose_loss(model_trace: Any, guide_trace: Any) -> NonFiniteError:
    """Say which term broke, and at which times."""
    (batch,) = model_trace.nodes["_INPUT"]["args"]
    parts = []
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            term, value = f"log-likelihood of {name!r}", site["log_prob"]
        else:
            guide_site = guide_trace.nodes[name]
            value = latent_divergence(guide_site["fn"], site["fn"], guide_site["value"])
            value = value.masked_fill(torch.as_tensor(guide_site["scale"]) == 0, 0.0)
            term = f"KL of {name!r}"
        is_bad = ~torch.isfinite(value.reshape(-1, value.shape[-1])).all(0)
        if bool(is_bad.any()):
            times = ", ".join(f"{float(t):.4g}" for t in batch.t[is_bad][:8])
            parts.append(f"{term} in {int(is_bad.sum())} of {is_bad.numel()} rows, at t = {times}")
    where = "; ".join(parts) or "their sum overflows"
    return NonFiniteError(
        f"the loss is not finite: {where}. Check the networks' outputs and the data, lower the learning rate, or "
        "clip gradients."
    )
