"""What the pictures share: a mark of the results that one was drawn from, in the file itself."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 140


def stamp(name: str, results: dict[str, Any]) -> dict[str, str]:
    """The name of a result file and the SHA-256 of its results, as they stand in a picture's metadata."""
    # Unsorted, as the order of the curves is theirs; a file's text reads and writes as what it was written from.
    digest = hashlib.sha256(json.dumps(results).encode()).hexdigest()
    return {"Results": f"{name}.json", "Results SHA-256": digest}


def save(figure: "Figure", path: Path, name: str, results: dict[str, Any]) -> None:
    """Write a figure that was drawn from ``results`` of the result file ``name``, and the stamp with it.

    Args:
        figure: with the resolution that it is to have.
        path: of a PNG file; its folder is created if missing.
        name: of the benchmark, without suffix.
        results: all that the file has under ``"results"``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi="figure", metadata=stamp(name, results))
