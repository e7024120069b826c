"""Trained judges as files: perplexities compare only if they were measured with the same one."""

from pathlib import Path
from typing import Any

from vadd.metrics._stored import load_network, save_network
from vadd.metrics.judge import CausalJudge

__all__ = ["load_causal_judge", "save_causal_judge"]

_ARGUMENTS = ("vocab_size", "max_length", "hidden_size", "depth", "num_heads", "dropout")


def save_causal_judge(judge: CausalJudge, folder: str | Path, *, notes: dict[str, Any] | None = None) -> Path:
    """Write a judge to ``judge.safetensors`` and ``judge.json``; replaces one that is there.

    Args:
        judge: the judge.
        folder: created if missing.
        notes: JSON-ready values kept beside it (text, fingerprint of the tokenizer, held-out nats per token).

    Returns:
        The folder.

    Raises:
        CheckpointError: if the folder cannot be written or the notes are not JSON.
    """
    return save_network(judge, _ARGUMENTS, folder, "judge", notes)


def load_causal_judge(folder: str | Path) -> tuple[CausalJudge, dict[str, Any]]:
    """Read what :func:`save_causal_judge` wrote: the judge, in evaluation mode on the CPU, and its notes.

    Nothing that was stored is executed.

    Raises:
        CheckpointError: if files are missing, damaged, of another format, or do not belong together.
    """
    remedy = "train one with train_causal_judge and save it with save_causal_judge"
    return load_network(CausalJudge, _ARGUMENTS, folder, "judge", remedy)
