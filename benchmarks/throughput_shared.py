"""What the sections of ``throughput.py`` share: the settings of a run, and pairs on random tokens."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vadd.recipes import Pair

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples")]
import text_svi  # noqa: E402
import texts  # noqa: E402
from measuring import Rounds, Step, compare  # noqa: E402
from text_data import Preset  # noqa: E402


@dataclass
class Bench:
    """The settings of a run.

    Attributes:
        device: that is measured.
        seed: of weights, tokens and the first round.
        rounds: of every comparison; None for as many as fit into its seconds.
        is_smoke: whether sizes are small, to see that everything runs.
        minutes: after which a section begins no further case.
    """

    device: torch.device
    seed: int = 0
    rounds: int | None = None
    is_smoke: bool = False
    minutes: float = 15.0

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin a section: its time runs from here."""
        self._began = time.monotonic()
        torch.manual_seed(self.seed)

    @property
    def has_time(self) -> bool:
        """Whether the section may begin another case."""
        return time.monotonic() - self._began < 60 * self.minutes

    @property
    def clock(self) -> str:
        """Which time is taken: that of the processor, where it is one thread's, is disturbed less by other work."""
        return "processor" if self.device.type == "cpu" and torch.get_num_threads() == 1 else "wall"

    def timing(self, *, least: int = 5, most: int = 20, seconds: float = 10.0, warmup: int = 1) -> dict[str, Any]:
        """Options of ``compare``, from what a comparison takes at least and at most."""
        return {
            "rounds": Rounds(least, most, seconds) if self.rounds is None else self.rounds,
            "warmup": warmup,
            "seed": self.seed,
            "device": self.device,
            "clock": time.process_time if self.clock == "processor" else time.perf_counter,
        }

    def compare(self, steps: Mapping[str, Step], **options: int | float) -> dict[str, Any]:
        """Time steps in turns, with the options of :meth:`timing`."""
        return compare(steps, **self.timing(**options))  # pyright: ignore[reportArgumentType]

    def tokens(self, vocab_size: int, *shape: int) -> Tensor:
        """Random tokens."""
        return torch.randint(vocab_size, shape, device=self.device)

    def text_preset(self, name: str) -> Preset:
        """A size of the example on text; the smallest in a smoke run."""
        return text_svi.PRESETS["smoke" if self.is_smoke else name]

    def text_pair(
        self,
        recipe: str,
        vocab_size: int,
        preset: Preset,
        *,
        recognition: str = "own",
        length: int | None = None,
        latent_size: int | None = None,
    ) -> Pair:
        """A fresh pair as the example on text builds it.

        Args:
            recipe: its name.
            vocab_size: number of clean tokens.
            preset: of the example.
            recognition: what the recognition network shares with the denoiser.
            length, latent_size: instead of the preset's.
        """
        argv = ["--baseline", "mdm"] if recipe == "mdm" else ["--recipe", recipe, "--recognition", recognition]
        data: Any = SimpleNamespace(
            tokenizer=SimpleNamespace(vocab_size=vocab_size), length=preset.length if length is None else length
        )
        sized = preset if latent_size is None else replace(preset, latent_size=latent_size)
        model, guide = texts.build(data, sized, text_svi.parse(argv))
        return Pair(model.to(self.device), guide.to(self.device))
