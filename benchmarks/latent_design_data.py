"""Images and toys that latent designs are compared on."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vadd.data import TOY_LIMITS, discretize, load_digits_tokens, load_mnist_tokens, sample_toy

GATE_STEPS = (1, 2, 4, 8, 16)  # more steps take the plan of the last


@dataclass(frozen=True)
class Data:
    """A data set, split, and the networks and training that fit it.

    Attributes:
        train, validation, test: tokens; the gate is chosen on the validation part.
        vocab_size: number of tokens.
        latent_size: components of a vector latent.
        denoiser: options of the MLP denoiser.
        recognition: options of a recognition network of the denoiser's size.
        light: options of the default recipe's smaller one.
        num_updates, batch_size, learning_rate, weight_decay: of the optimizer.
        gate_draws: masks drawn for each validation sequence when the gate is chosen.
        gate_steps: numbers of steps that it is chosen for.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    vocab_size: int
    latent_size: int
    denoiser: dict[str, Any]
    recognition: dict[str, Any]
    light: dict[str, Any]
    num_updates: int
    batch_size: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    gate_draws: int = 1
    gate_steps: tuple[int, ...] = GATE_STEPS


def digits(args: argparse.Namespace) -> Data:
    """8x8 digits of 17 grey levels."""
    data = load_digits_tokens()
    size = {"hidden_size": 256, "depth": 2, "embedding_size": 4, "modulation_size": 64}
    return Data(
        data.train[:-180],
        data.train[-180:],
        data.heldout,
        data.num_levels,
        16,
        denoiser={**size, "feature_size": 8, "dropout": 0.4},
        recognition={**size, "dropout": 0.1},
        light={**size, "hidden_size": 128, "dropout": 0.1},
        num_updates=2500,
        batch_size=128,
        weight_decay=1.0,
    )


def mnist14(args: argparse.Namespace) -> Data:
    """MNIST of 14x14 pixels, binarized at 0.5."""
    if args.data_root is None:
        raise SystemExit("mnist14 needs --data-root or the environment variable VADD_DATA: a folder with MNIST/raw.")
    train = load_mnist_tokens(args.data_root, train=True, side=14).tokens
    test = load_mnist_tokens(args.data_root, train=False, side=14).tokens
    size = {"hidden_size": 256, "depth": 2, "embedding_size": 2, "modulation_size": 128}
    return Data(
        train[:-1000],
        train[-1000:][:300],
        test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:400]],
        2,
        32,
        denoiser={**size, "feature_size": 8},
        recognition=size,
        light={**size, "hidden_size": 128},
        num_updates=4000,
        batch_size=128,
    )


def toy(name: str) -> Callable[[argparse.Namespace], Data]:
    """Two tokens of 50 values."""

    def load(args: argparse.Namespace) -> Data:
        def draw(num: int, seed: int) -> Tensor:
            return discretize(sample_toy(name, num, torch.Generator().manual_seed(seed)), 50, TOY_LIMITS)

        size = {"hidden_size": 128, "depth": 2, "embedding_size": 32, "modulation_size": 32}
        return Data(
            draw(200_000, 1),
            draw(1000, 3),
            draw(1000, 2),
            50,
            8,
            denoiser={**size, "feature_size": 32},
            recognition=size,
            light={**size, "hidden_size": 64},
            num_updates=3000,
            batch_size=512,
            learning_rate=2e-3,
            weight_decay=0.0,
            gate_draws=8,
            gate_steps=(*GATE_STEPS, 64),
        )

    return load


DATA: dict[str, Callable[[argparse.Namespace], Data]] = {
    "digits": digits,
    "mnist14": mnist14,
    "checkerboard": toy("checkerboard"),
    "swiss_roll": toy("swiss_roll"),
}
