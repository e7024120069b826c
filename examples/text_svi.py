"""Text with and without a latent: characters or subwords, from a file, a folder, or the Hugging Face Hub.

Run ``python examples/text_svi.py --data FILE`` on any text, for example on Tiny Shakespeare; after an interruption the
same command goes on. ``--tokenizer chars`` (the default) is a model of characters, ``gpt2`` and ``bert-base-uncased``
are of subwords. ``--packing padded`` makes a row of every document. ``--preset smoke`` takes seconds, ``cpu`` about an
hour on two cores, ``gpu-30min`` means half an hour on a GPU, ``paper`` is the published size. ``--baseline mdm``
trains the masked diffusion model with the same code, and ``--from-mdm RUN/model`` starts from it.

The last rows are held out. Samples are judged at several numbers of steps by a small autoregressive model of the same
text, or by ``--judge NAME``, any causal language model that transformers can load; ``--zero-shot NAME=FILE`` evaluates
on other texts. Model, samples, curves and ``report.json`` are in a folder of the run under ``outputs/text``.
"""

import argparse
import sys
from pathlib import Path

from vadd.backbones import DIT_PRESETS

sys.path.insert(0, str(Path(__file__).resolve().parent))
import runs  # noqa: E402
import texts  # noqa: E402
from text_data import Preset, load  # noqa: E402

STEPS = (1, 2, 4, 8, 16, 32, 64)
PRESETS = {
    "smoke": Preset(
        {"hidden_size": 16, "depth": 1, "num_heads": 2},
        length=16,
        latent_size=4,
        latent_per_position=2,
        num_updates=6,
        batch_size=8,
        num_validation=8,
        num_test=8,
        num_refit=20,
        num_rows=6,
        num_latents=2,
        num_draws=1,
        num_jumps=2,
        steps=(1, 2),
        num_samples=8,
        judge={"hidden_size": 16, "depth": 1, "num_heads": 2, "num_updates": 5, "batch_size": 8},
    ),
    "cpu": Preset(
        {"hidden_size": 128, "depth": 3, "num_heads": 4},
        latent_size=32,
        num_updates=4000,
        batch_size=32,
        minutes=50,
        num_validation=300,
        num_test=500,
        num_refit=1000,
        num_rows=64,
        num_latents=4,
        num_jumps=8,
        steps=STEPS,
        num_samples=128,
        judge={"hidden_size": 128, "depth": 3, "num_heads": 4, "num_updates": 2000, "batch_size": 32},
    ),
    "gpu-30min": Preset(
        {"hidden_size": 384, "depth": 6, "num_heads": 6},
        latent_size=64,
        num_updates=20_000,
        batch_size=256,
        learning_rate=6e-4,
        precision="bf16",
        minutes=22,
        warmup=500,
        num_latents=8,
        steps=STEPS,
        num_samples=512,
        rows_per_call=128,
        judge={"hidden_size": 384, "depth": 6, "num_heads": 6, "num_updates": 5000, "batch_size": 128},
    ),
    "paper": Preset(
        DIT_PRESETS["small"],
        length=1024,
        latent_size=128,
        num_updates=1_000_000,
        batch_size=512,
        learning_rate=3e-4,
        ema_decay=0.9999,
        warmup=2500,
        precision="bf16",
        num_rows=1000,
        num_latents=16,
        steps=(*STEPS, 128, 256, 512),
        num_samples=1000,
        rows_per_call=32,
        judge={"hidden_size": 768, "depth": 12, "num_heads": 12, "num_updates": 50_000, "batch_size": 128},
    ),
}
HINT = "--data FILE names the text, --data-root a folder of texts and vocabularies."


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    texts.add_options(parser, PRESETS, "outputs/text")
    with runs.explained():
        return texts.settle(parser.parse_args(argv))


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, and write everything down; the report."""
    args = parse(argv)
    preset = PRESETS[args.preset]
    with runs.explained():
        return texts.run(runs.load_or_explain(lambda: load(args, preset), HINT), preset, args)


if __name__ == "__main__":
    main()
