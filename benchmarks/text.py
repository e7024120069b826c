"""MDM, the paper's recipe and the default on a text, at equal numbers of updates and at equal time.

Writes ``results/text_NAME.json`` and a picture of its curves; the runs are under ``outputs/text_NAME``. Options of
``examples/text_svi.py`` that are not named here are passed on to it. For example, with the folder of the texts in the
variable ``VADD_DATA``::

    python benchmarks/text.py wiki27 --data wiki27/wiki27.txt.xz --tokenizer wiki27 --length 256
    python benchmarks/text.py wikitext2-gpt2 --data wikitext2 --tokenizer gpt2 --detokenizer wikitext
"""

import argparse
import re
import sys
from pathlib import Path

import model_comparison

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import text_svi  # noqa: E402
import texts  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Compare the models."""
    # No help of its own: that of the comparison has the other options.
    parser = argparse.ArgumentParser(prog="text.py NAME", description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("name", nargs="?", default="", help="of the text and its tokens: of the results")
    args, rest = parser.parse_known_args(argv)
    if not re.fullmatch(r"[\w-]+", args.name) and not {"-h", "--help"} & {*rest}:
        raise SystemExit(f"error: the first argument is a name of letters, digits and dashes, got {args.name!r}.")
    model_comparison.compare(text_svi, texts, f"text_{args.name}", rest)


if __name__ == "__main__":
    main()
