"""Fill in the gaps of a text, or go on with it, by a model that ``examples/text_svi.py`` trained.

``[MASK]`` stands for one unknown token, ``[MASK:12]`` for twelve, ``[MASK:*]``, once, for as many as the model's length
leaves. So ``python examples/text_infill.py --checkpoint outputs/text/RUN --text "the [MASK:12] of the house"``;
``--text "Once upon a time[MASK:*]"`` goes on. VADD's latent comes from the prior, or with ``--latents posterior`` is
one of several draws, taken by how well it explains the known tokens.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vadd import VADDModel
from vadd.errors import ConfigError, DataError
from vadd.samplers import PosteriorLatents
from vadd.text import CharTokenizer, Tokenizer, check_vocabulary, load_tokenizer
from vadd.training import load_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parent))
import runs  # noqa: E402

GAP = re.compile(r"\[MASK(?::(\d+|\*))?\]")


class Form(NamedTuple):
    """How the rows were made that a model knows: padded or packed, and the two tokens that frame each, if any."""

    is_padded: bool
    frame: tuple[int, int] | None


def load(folder: Path) -> tuple[VADDModel, Tokenizer, Form]:
    """The model of a run's folder, the tokenizer that was stored with it, and the form of its rows.

    Raises:
        DataError: if there is no such run.
        ConfigError: if model and tokenizer do not belong together.
    """
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / "tokenizer").is_dir():
        raise DataError(f"{folder} holds no model of text with its tokenizer; name a run of examples/text_svi.py.")
    model, _, notes = load_checkpoint(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    fingerprint = notes.get("tokenizer")
    check_vocabulary(tokenizer, model.process.vocab_size, source=str(folder), fingerprint=fingerprint)
    frame = notes.get("frame")
    return model, tokenizer, Form(notes.get("packing") == "padded", None if frame is None else tuple(frame))


def parse_gaps(text: str, tokenizer: Tokenizer, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """One row of the model's length: tokens, which of them are known, and which are padding behind the text.

    Raises:
        DataError: if the text is longer than the row, has no gap, or more than one of open size.
    """
    parts = GAP.split(text)  # texts, and between them the sizes of the gaps
    known, sizes = parts[::2], [size or "1" for size in parts[1::2]]
    if wrong := next((part for part in known if "[MASK" in part), None):
        raise DataError(f"--text has a gap that is none of [MASK], [MASK:12] and [MASK:*]: {wrong!r}.")
    if not isinstance(tokenizer, CharTokenizer):  # a blank belongs to the word behind it, which is unknown
        known = [part.removesuffix(" ") for part in known[:-1]] + known[-1:]
    if any(size != "*" and int(size) == 0 for size in sizes):
        raise DataError("--text has a gap of no tokens, [MASK:0]; leave it out, or give its size.")
    if not sizes:
        raise DataError("--text has no gap; write [MASK], [MASK:12] or [MASK:*] where tokens are unknown.")
    if sizes.count("*") > 1:
        raise DataError("--text has several [MASK:*]; only one gap can take what the others leave.")
    encoded = tokenizer.encode(known)
    needed = sum(map(len, encoded)) + sum(int(size) for size in sizes if size != "*")
    if needed + ("*" in sizes) > length:
        raise DataError(f"--text has {needed} tokens, gaps included, and the model reads {length}; shorten it.")
    row, is_known = [], []
    for i, tokens in enumerate(encoded):
        row += tokens
        is_known += [True] * len(tokens)
        if i < len(sizes):
            size = length - needed if sizes[i] == "*" else int(sizes[i])
            row += [0] * size
            is_known += [False] * size
    rest = length - len(row)
    is_padding = [False] * len(row) + [True] * rest
    return torch.tensor([row + [0] * rest]), torch.tensor([is_known + [True] * rest]), torch.tensor([is_padding])


def frame_row(row: tuple[Tensor, Tensor, Tensor], form: Form) -> tuple[Tensor, Tensor, Tensor]:
    """A row of ``parse_gaps`` between the tokens of the frame: around the text, or if packed the whole row."""
    if form.frame is None:
        return row
    end = int((~row[2]).sum()) if form.is_padded else row[2].shape[1]
    begin, stop = form.frame
    framed = []
    for value, around in zip(row, ((begin, stop), (True, True), (False, False)), strict=True):
        first, last = (value.new_tensor([[token]]) for token in around)
        framed.append(torch.cat([first, value[:, :end], last, value[:, end:]], 1))
    return framed[0], framed[1], framed[2]


def complete(
    model: VADDModel,
    tokenizer: Tokenizer,
    form: Form,
    text: str,
    *,
    num: int,
    num_steps: int,
    latents: str,
    draws: int,
    seed: int,
) -> list[str]:
    """Several completions of a text with gaps; behind it a model of packed rows goes on, which is not shown."""
    length = model.denoiser.num_tokens
    if length is None:
        raise ConfigError("the model has no length of its own; build its denoiser with num_tokens.")
    parsed = parse_gaps(text, tokenizer, length - (0 if form.frame is None else 2))
    x, is_known, is_padding = (value.expand(num, -1) for value in frame_row(parsed, form))
    options = {"is_padding": is_padding} if form.is_padded and bool(is_padding.any()) else {}
    is_known = is_known if form.is_padded else is_known & ~is_padding
    if latents == "posterior" and model.has_latent:
        options["latents"] = PosteriorLatents(draws)
    filled = model.infill(x, is_known, num_steps=num_steps, seed=seed, progress=False, **options)
    shown = ~is_padding[0]
    if form.frame is not None:
        shown[[0, int(shown.nonzero().max())]] = False
    return tokenizer.decode(filled[:, shown].tolist())


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="folder of a run of examples/text_svi.py")
    add("--text", required=True, help="with [MASK], [MASK:12] or [MASK:*] where tokens are unknown")
    add("--num", type=int, default=3, help="completions for each number of steps")
    add("--num-steps", type=int, nargs="+", default=[1, 4, 16])
    add("--latents", choices=("prior", "posterior"), default="prior")
    add("--num-draws", type=int, default=64, help="latents of which the posterior takes one")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[int, list[str]]:
    """Print completions by number of steps; these."""
    args = parse(argv)
    found = {}
    with runs.explained():
        if args.num < 1:
            raise ConfigError(f"--num must be at least 1, got {args.num}.")
        model, tokenizer, form = load(args.checkpoint)
        if args.latents == "posterior" and not model.has_latent:
            raise ConfigError("--latents posterior is of a latent, which this model has not.")
        for steps in args.num_steps:
            options = {"latents": args.latents, "draws": args.num_draws, "seed": args.seed}
            found[steps] = complete(model, tokenizer, form, args.text, num=args.num, num_steps=steps, **options)
            print(f"== {steps} step{'s' if steps > 1 else ''}")
            print(*found[steps], sep="\n--\n", end="\n\n")
    return found


if __name__ == "__main__":
    main()
