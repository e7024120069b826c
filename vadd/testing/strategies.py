"""Hypothesis strategies for property-based tests of schedules, processes and models.

They need Hypothesis, which the library itself does not. Their annotations leave the contents of tuples and
dictionaries open: a runtime checker would pick one at random, and strategies must not touch that state.
"""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from vadd.model import VADDModel
from vadd.schedules import (
    CosineSchedule,
    GeometricSchedule,
    LinearSchedule,
    NoiseSchedule,
    PolynomialSchedule,
)
from vadd.testing.tiny import tiny_model

__all__ = [
    "corruptible_batches",
    "dtypes",
    "flags",
    "generators",
    "ordered_times",
    "schedules",
    "times",
    "tiny_models",
    "token_batches",
    "vocab_sizes",
]

_Draw = Callable[..., Any]  # Hypothesis' own protocol cannot be checked at runtime


def schedules() -> st.SearchStrategy[NoiseSchedule]:
    """Every schedule of the library, with random parameters."""
    return st.one_of(
        st.builds(LinearSchedule),
        st.builds(CosineSchedule),
        st.builds(PolynomialSchedule, power=st.floats(0.25, 6.0)),
        st.builds(GeometricSchedule, sigma_min=st.floats(1e-4, 0.5), sigma_max=st.floats(1.0, 100.0)),
    )


def dtypes() -> st.SearchStrategy[torch.dtype]:
    """The dtypes that times and logits may have."""
    return st.sampled_from([torch.float32, torch.float64])


def vocab_sizes(max_size: int = 6) -> st.SearchStrategy[int]:
    """Sizes of the vocabulary, from 2 on."""
    return st.integers(2, max_size)


def generators() -> st.SearchStrategy[torch.Generator]:
    """Seeded generators."""
    return st.integers(0, 2**31 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@st.composite
def token_batches(draw: _Draw, vocab_size: int, *, max_batch: int = 4, max_dim: int = 6) -> Tensor:
    """Clean tokens of shape ``(batch, dim)``, both at least 1."""
    batch, dim = draw(st.integers(1, max_batch)), draw(st.integers(1, max_dim))
    row = st.lists(st.integers(0, vocab_size - 1), min_size=dim, max_size=dim)
    return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))


@st.composite
def flags(draw: _Draw, shape: torch.Size) -> Tensor:
    """Booleans of the given shape."""
    size = shape.numel()
    return torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(shape)


def _float(dtype: torch.dtype, low: float, high: float) -> st.SearchStrategy[float]:
    # Evenly spread and logarithmic near 0, where the digits are lost; the ends drawn often.
    low = torch.nextafter(torch.tensor(low), torch.tensor(2.0)).item() if low > 0 else 0.0
    small = st.floats(-20.0, 0.0).map(lambda e: 10.0**e).filter(lambda t: low <= t <= high)
    width = 32 if dtype == torch.float32 else 64
    return st.one_of(st.sampled_from([low, high]), st.floats(low, high, width=width), small)


@st.composite
def times(
    draw: _Draw, batch: int, dtype: torch.dtype = torch.float32, *, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Times of shape ``(batch,)`` between ``low`` and ``high``, small ones and the ends drawn often."""
    values = st.lists(_float(dtype, low, high), min_size=batch, max_size=batch)
    return torch.tensor(draw(values), dtype=dtype)


@st.composite
def ordered_times(draw: _Draw, batch: int, dtype: torch.dtype = torch.float32, *, num: int = 2) -> tuple:
    """``num`` tensors of times, each row increasing from one to the next, not strictly."""
    drawn = torch.stack([draw(times(batch, dtype)) for _ in range(num)])
    return tuple(drawn.sort(0).values)


@st.composite
def corruptible_batches(draw: _Draw) -> tuple[int, Tensor, dict]:
    """A vocabulary size, clean tokens, and some of the flags ``is_frozen`` and ``is_padding``.

    Each row has data at one position or more.
    """
    vocab_size = draw(vocab_sizes())
    x_0 = draw(token_batches(vocab_size))
    names = draw(st.sets(st.sampled_from(["is_frozen", "is_padding"])))
    drawn = {name: draw(flags(x_0.shape)) for name in sorted(names)}
    if "is_padding" in drawn:
        drawn["is_padding"][:, 0] &= ~drawn["is_padding"].all(-1)
    return vocab_size, x_0, drawn


@st.composite
def tiny_models(draw: _Draw, *, max_vocab: int = 3, max_tokens: int = 3, max_scale: float = 2.0) -> VADDModel:
    """Tabular models with a discrete, a normal or no latent, on any schedule; networks do not read ``t``."""
    latent = draw(st.sampled_from(["atoms", "normal", "none"]))
    return tiny_model(
        draw(vocab_sizes(max_vocab)),
        draw(st.integers(1, max_tokens)),
        atoms=[-1.0, 0.5, 2.0] if latent == "atoms" else None,
        latent_dim=0 if latent == "none" else 1,
        schedule=draw(schedules()),
        is_conditional=latent == "atoms" and draw(st.booleans()),
        scale=draw(st.floats(0.1, max_scale)),
        seed=draw(st.integers(0, 2**31 - 1)),
    )
