"""A training run as a program of its own: ``python worker.py OUT [settings as JSON]``.

Writes the weights to OUT, with the last gradient norm, from the main process. Settings are those of ``make_trainer``,
and ``float64``, ``killed_at`` (update after which ``killed_rank`` kills itself), ``validates``, ``pair`` (of
``PAIRS``) and ``samples`` (the seed of samples of the averaged model after every other update).
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from parts import PAIRS, averaged_weights, make_trainer, weights  # noqa: E402

from vadd.training import BoundValidation, Callback  # noqa: E402


class Kill(Callback):
    """Kills this process after an update, as a machine does that goes down."""

    def __init__(self, step):
        self.at = step

    def on_step(self, trainer):
        if trainer.step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class Sample(Callback):
    """Samples in the main process alone, of what all have gathered."""

    def __init__(self):
        self.samples = []

    def on_step(self, trainer):
        if trainer.step % 2 == 0:
            trainer.gather()
            if trainer.is_main:
                self.samples.append(trainer.averaged[0].sample(8, num_steps=2, seed=trainer.step, progress=False))


def main(out, settings):
    torch.set_num_threads(1)
    if settings.pop("float64", False):
        torch.set_default_dtype(torch.float64)
    rank = int(os.environ.get("RANK", 0))
    killed_at, killed_rank = settings.pop("killed_at", None), settings.pop("killed_rank", 0)
    callbacks = [Kill(killed_at)] if killed_at is not None and rank == killed_rank else []
    if settings.pop("validates", False):
        from parts import tokens

        settings["validation"] = BoundValidation(tokens(13, seed=5), num_steps=2, num_latents=2, batch_rows=4)
    if "pair" in settings:
        settings["pair"] = PAIRS[settings["pair"]](rank)
    sample = Sample()
    if settings.pop("samples", False):
        callbacks.append(sample)
    trainer = make_trainer(callbacks=callbacks, **settings)
    result = trainer.fit()
    whole = weights(trainer)
    if trainer.is_main:
        tensors = {"weights": whole, "average": averaged_weights(trainer)}
        tensors |= {f"samples-{i}": value for i, value in enumerate(sample.samples)}
        tensors["grad_norm"] = trainer.grad_norm.detach().reshape(1)
        if trainer.validation is not None:
            tensors["score"] = torch.tensor([trainer.run.score], dtype=torch.float64)
        save_file(tensors, out)
    return result.exit_code


if __name__ == "__main__":
    code = main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # One interpreter in some twenty aborts while it takes itself down with torch's threads in it, on a busy machine.
    sys.stderr.flush()
    os._exit(code)
