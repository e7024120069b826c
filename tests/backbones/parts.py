"""What the tests of networks share."""

import torch

__all__ = ["perturb"]


def perturb(module, scale=0.1):
    """Noise on all parameters, so that no path is closed by a zero."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p))
    return module
