"""The training program that ``throughput.py`` runs in one process and in several, to compare their updates.

``python throughput_program.py SETTINGS`` (JSON) trains the default recipe's pair of the example on text on random
tokens. Settings: ``num_updates``, ``batch_size``, ``seed``, ``is_smoke``, ``device``. The main process prints the
seconds of each update but the first two, and the most memory that it has had, in bytes: resident, libraries included.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from vadd.recipes import get_recipe
from vadd.training import Callback, Trainer, TrainerConfig

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measuring import synchronize  # noqa: E402
from throughput_shared import Bench  # noqa: E402

VOCAB_SIZE = 1000
WARMUP = 2  # updates: the first allocates the optimizer's state, the second the buckets of gradients


class Watch(Callback):
    """Notes when each update ends."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step(self, trainer: Trainer) -> None:
        synchronize(trainer.device)
        self.moments.append(time.perf_counter())


def main(settings: dict[str, Any]) -> None:
    """Train and print."""
    torch.set_num_threads(1)
    bench = Bench(torch.device("cpu"), seed=settings["seed"], is_smoke=settings["is_smoke"])
    preset = bench.text_preset("cpu")
    model, guide = bench.text_pair("default", VOCAB_SIZE, preset)
    watch, batch_size = Watch(), settings["batch_size"]
    trainer = Trainer(
        model,
        guide,
        get_recipe("default").objective(model.process),
        bench.tokens(VOCAB_SIZE, 8 * batch_size, preset.length),
        TrainerConfig(settings["num_updates"], batch_size, seed=settings["seed"], log_every=1000),
        callbacks=[watch],
        progress=False,
    )
    if trainer.device.type != settings["device"]:
        raise SystemExit(f"error: --device is {settings['device']}, and the trainer takes {trainer.device.type}.")
    trainer.fit()
    if trainer.is_main:
        spans = zip(watch.moments[WARMUP - 1 :], watch.moments[WARMUP:], strict=False)
        print(json.dumps({"seconds": [after - before for before, after in spans], "memory": most_memory()}))


def most_memory() -> int:
    """Bytes that this process has had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # what resource tells begins with what the parent had
        kibibytes = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:")).split()[1]
        return 1024 * int(kibibytes)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
