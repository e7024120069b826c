"""What to say and keep where a gradient is not finite."""

from typing import TYPE_CHECKING

import torch

from vadd.errors import NonFiniteError
from vadd.objectives import DrawnBatch
from vadd.storage.files import save_tensors

if TYPE_CHECKING:
    from vadd.training.trainer import Trainer

__all__ = ["explain_nonfinite"]


def explain_nonfinite(trainer: "Trainer", drawn: DrawnBatch) -> NonFiniteError:
    """Save the batch and run it again with checks on, to find the term at fault."""
    number = trainer.step + 1
    where = "the batch was not saved, as there is no folder"
    if trainer.folder is not None:
        path = trainer.folder / f"nonfinite-{number}.safetensors"
        if trainer.is_main:
            trainer.folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: value for name, value in vars(drawn.batch).items() if value is not None}
            save_tensors({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path)
        where = f"tokens, masks and times of the batch are in {path}"
    process, had_checks = trainer.objective.process, trainer.objective.process.validate_args
    process.validate_args = True
    try:
        with torch.no_grad(), trainer._autocast():
            trainer.loss(drawn)
        fault = "with latents drawn again the loss is finite, and so it may be its gradient that is not."
    except NonFiniteError as error:
        fault = str(error)
    finally:
        process.validate_args = had_checks
    in_a_row = trainer.skipped_in_a_row + 1  # with this one
    skipped = f" after {in_a_row} skipped updates in a row" if in_a_row > 1 else ""
    skip = "" if trainer.config.on_nonfinite == "skip" else 'set on_nonfinite="skip" and go on, or '
    remedy = f"{skip}start in another folder with a lower learning_rate or clip_norm."
    return NonFiniteError(
        f"update {number} stopped{skipped}: {fault} The weights are those before the update; {where}. "
        f"{remedy[0].upper()}{remedy[1:]}"
    )
