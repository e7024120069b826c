"""Operations of the published protocols, counted: one update of each network, and one call of it in sampling.

The networks are those of the examples' presets ``paper``, with the tokens of each protocol. PyTorch counts their matrix
products on tensors without memory, so that nothing is computed and any machine will do. Writes
``results/published.json``; ``tables_full_scale.py`` makes GPU hours of it. Run ``python benchmarks/published.py``.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses import FakeTensorMode

from vadd.recipes import Pair
from vadd.reporting import write_report

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
import binarized_mnist_svi  # noqa: E402
import cifar10_svi  # noqa: E402
import images  # noqa: E402
import text_svi  # noqa: E402
import texts  # noqa: E402
from measuring import RESULTS, count_operations, count_parameters  # noqa: E402
from tables_published import PROTOCOLS  # noqa: E402

ROWS = 2  # their mean number of scored tokens is a whole one, whatever the length
MODELS = {"mdm": ["--baseline", "mdm"], "paper": ["--recipe", "paper"]}
EXAMPLES = {
    "binarized_mnist_svi": (binarized_mnist_svi, images),
    "cifar10_svi": (cifar10_svi, images),
    "text_svi": (text_svi, texts),
}


@contextmanager
def without_memory() -> Iterator[None]:
    """Tensors made inside have a shape and no values; weights that are drawn until they suit are not drawn."""
    with FakeTensorMode(), patch.object(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor):
        yield


def fresh_pair(example: str, data: Any, argv: list[str]) -> tuple[Pair, Any]:
    """A pair as the example builds it, and the preset that it is of.

    Args:
        example: its name.
        data: what the example's ``build`` reads of the data.
        argv: the example's command line.
    """
    module, shared = EXAMPLES[example]
    args = module.parse(argv)
    preset = module.PRESETS[args.preset]
    return shared.build(data, preset, args), preset


def operations_of_update(pair: Pair, length: int, *, rows: int = ROWS, num_scored: int | None = None) -> int:
    """Floating-point operations of an update's matrix products: the DELBO's value and its gradient.

    Args:
        pair: model and guide.
        length: tokens of a row.
        rows: of the batch.
        num_scored: masked tokens of the batch; default their mean, as their number is uniform in each row.
    """
    denoiser: Any = pair.model.denoiser
    num_scored = rows * (length + 1) // 2 if num_scored is None else num_scored

    def update() -> None:
        tokens, t = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows)
        target = torch.zeros(rows, length, dtype=torch.bool)
        z: Any = pair.guide.recognition(tokens, target, t).rsample()
        features = denoiser.features(tokens, t, z)
        denoiser.head(features.flatten(0, 1)[:num_scored]).sum().backward()

    return count_operations(update)[1]


@torch.no_grad()
def operations_of_call(pair: Pair, length: int) -> int:
    """Those of one row in one sampling step, all its tokens projected."""
    inputs = torch.zeros(1, length, dtype=torch.long), torch.zeros(1), torch.zeros(1, *pair.model.latent_shape)
    return count_operations(lambda: pair.model.denoiser(*inputs))[1]


def count(name: str) -> dict[str, Any]:
    """The counts of a protocol."""
    protocol = PROTOCOLS[name]
    shape = protocol["image_shape"] if "image_shape" in protocol else (protocol["length"],)
    length, vocab_size = torch.Size(shape).numel(), protocol["vocab_size"]
    data = SimpleNamespace(
        train=SimpleNamespace(image_shape=shape, num_levels=vocab_size),
        tokenizer=SimpleNamespace(vocab_size=vocab_size),
        length=length,
    )
    counted: dict[str, Any] = {"tokens": length, "vocab_size": vocab_size, "models": {}}
    for model, options in MODELS.items():
        with without_memory():
            pair, preset = fresh_pair(protocol["example"], data, ["--preset", "paper", *options])
            of_update = operations_of_update(pair, length) * preset.batch_size / ROWS
            of_call = operations_of_call(pair, length)
        counted |= {"batch_size": preset.batch_size, "updates": preset.num_updates}
        counted["models"][model] = {
            "parameters": {part: count_parameters(module) for part, module in pair._asdict().items()},
            "operations_of_update": of_update,
            "operations_of_call": of_call,
        }
    return counted


def main(argv: list[str] | None = None) -> None:
    """Count all protocols and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    args = parser.parse_args(argv)
    results = {name: count(name) for name, protocol in PROTOCOLS.items() if "vocab_size" in protocol}
    for name, counted in results.items():
        found = ", ".join(f"{model} {row['operations_of_update']:.3g}" for model, row in counted["models"].items())
        print(f"{name}: {found} operations an update")
    write_report("published", results, seed=0, folder=args.out)


if __name__ == "__main__":
    main()
