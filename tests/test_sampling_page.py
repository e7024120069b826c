"""The code of the page on sampling runs as it stands, but for the number of training steps."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sampling.md"


def test_the_blocks_run_in_one_go(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "range(500)" in blocks[0]
    names = {}
    for block in blocks:
        exec(block.replace("range(500)", "range(5)"), names)
    assert names["trajectory"].x.shape == (5, 8, 6)
    assert names["grid"](3).shape == (4,)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_known_tokens_of_the_page_are_kept():
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "infill" in b)
    names = {"torch": torch}
    first = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    exec(first.replace("range(500)", "range(5)"), names)
    exec(block, names)
    assert names["x"].shape == (5, 6)
    assert bool((names["x"][:, :2] == 3).all())
