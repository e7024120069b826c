"""Train and keep a small autoregressive judge of a corpus, under which samples have a generative perplexity.

Writes ``judge.safetensors``, ``judge.json`` and the folder ``tokenizer``, and prints the held-out nats per token. It is
a judge of this corpus, trained on the same text as the models that it judges; perplexities under it compare only with
those under the same files, and with none under GPT-2. For example::

    python benchmarks/train_judge.py --text tinyshakespeare/input.txt.gz --tokenizer chars --minutes 5
    python benchmarks/train_judge.py --text wikitext2/wiki.valid.tokens.gz --tokenizer gpt2 --detokenizer wikitext
"""

import argparse
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vadd.metrics import TrainedJudge, save_causal_judge, train_causal_judge

ROOT = Path(__file__).resolve().parent.parent


def load(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Training rows, held-out rows and their tokenizer: the last share of the documents is held out."""
    from vadd.text.documents import load_documents
    from vadd.text.rows import text_rows
    from vadd.text.tokenizers import load_tokenizer

    documents = load_documents(options.text, root=options.data_root, unit=options.unit)
    num_train = len(documents) - max(1, round(options.held_out * len(documents)))
    if num_train < 1:
        raise SystemExit(f"{options.text} has {len(documents)} documents, too few to hold some out; try --unit line.")
    # The lines come without their ends, which separate them in packed rows.
    texts = ["\n", *documents["text"]] if options.tokenizer == "chars" else None
    tokenizer = load_tokenizer(options.tokenizer, texts=texts, root=options.data_root)
    form = {"packing": options.packing, "detokenize": options.detokenizer, "cache": options.cache}
    train = text_rows(documents.select(range(num_train)), tokenizer, options.length, **form)
    held_out = text_rows(documents.select(range(num_train, len(documents))), tokenizer, options.length, **form)
    return train, held_out, tokenizer


def main(arguments: Sequence[str] | None = None) -> TrainedJudge:
    """Train, store, and return the judge with its held-out score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="file, folder, or name on the Hugging Face Hub")
    parser.add_argument("--data-root", default=os.environ.get("VADD_DATA"), help="default: the variable VADD_DATA")
    parser.add_argument("--unit", choices=("line", "paragraph", "file"), default="line", help="what a document is")
    parser.add_argument("--tokenizer", default="chars", help="chars, wiki27, gpt2, bert-base-uncased, or a folder")
    parser.add_argument("--detokenizer", help="rules for the text, such as wikitext; default none")
    parser.add_argument("--packing", choices=("packed", "padded"), default="packed")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row: as long as the samples to be judged")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of the documents, from the end")
    parser.add_argument("--cache", type=Path, help="folder of the tokens; default that of datasets")
    parser.add_argument("--out", type=Path, help="folder; default outputs/judges/NAME-OF-THE-TEXT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--num-heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch; default its own choice")
    duration = parser.add_mutually_exclusive_group()
    duration.add_argument("--updates", type=int, help="default 2000")
    duration.add_argument("--minutes", type=float, help="instead; the weights then depend on the machine's speed")
    options = parser.parse_args(arguments)
    if not 0 < options.held_out < 1:
        raise SystemExit(f"--held-out must lie between 0 and 1, got {options.held_out}.")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    updates = 2000 if options.updates is None and options.minutes is None else options.updates

    train, held_out, tokenizer = load(options)
    start = time.monotonic()
    trained = train_causal_judge(
        train,
        tokenizer.vocab_size,
        seed=options.seed,
        num_updates=updates,
        minutes=options.minutes,
        held_out=held_out,
        hidden_size=options.hidden_size,
        depth=options.depth,
        num_heads=options.num_heads,
        dropout=options.dropout,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        device=options.device,
    )
    seconds = time.monotonic() - start
    found = trained.held_out
    assert found is not None
    notes = {name: getattr(options, name) for name in ("text", "unit", "detokenizer", "packing", "length", "seed")}
    notes |= {"tokenizer": tokenizer.name, "fingerprint": tokenizer.fingerprint, "num_updates": trained.num_updates}
    stderr = None if math.isnan(found.stderr) else found.stderr  # of a single row; JSON has no NaN
    notes |= {"num_train_rows": len(train), "held_out_nats_per_token": found.mean, "held_out_stderr": stderr}
    notes |= {"num_held_out_tokens": found.num_tokens, "held_out_share": options.held_out}
    folder = options.out or ROOT / "outputs" / "judges" / Path(options.text).name.split(".")[0]
    save_causal_judge(trained.judge, folder, notes=notes)
    tokenizer.save(folder / "tokenizer")
    print(
        f"{options.text}: {found.mean:.4f} ± {found.stderr:.4f} nats per held-out token ({found.num_tokens:,} tokens "
        f"of {tokenizer.name}) after {trained.num_updates:,} updates in {seconds:.0f} s, by {trained.judge.name}; "
        f"kept in {folder}"
    )
    return trained


if __name__ == "__main__":
    main()
