"""The code of the page on images runs as it stands, but for the number of updates."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "images.md"


def test_the_block_runs():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block.count("400") == 2
    names = {"__name__": "page"}
    exec(block.replace("400", "4"), names)
    assert names["result"].step == 4
    assert names["samples"].shape == (8, 12, 10)
    assert set(names["images"].tokens.unique().tolist()) == {0, 3}
    assert torch.equal(names["images"].images[0], 3 * (names["grey"][0] // 255).long())


def test_the_options_that_it_names_are_there():
    examples = PAGE.parents[1] / "examples"
    code = "".join(
        (examples / name).read_text() for name in ("images.py", "runs.py", "cifar10_svi.py", "binarized_mnist_svi.py")
    )
    for option in set(re.findall(r"`(--[a-z-]+)", PAGE.read_text())):
        assert f'"{option}"' in code, option
