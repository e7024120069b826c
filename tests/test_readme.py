"""The code of the README runs as it stands, but for the number of training steps."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    assert "range(1000)" in blocks[0]
    names = {}
    exec(blocks[0].replace("range(1000)", "range(5)"), names)
    exec(blocks[1], names)
    printed = capsys.readouterr().out
    assert "ancestral sampling in 1 step, with a fresh latent at each step" in printed
    assert "units active" in printed


def test_the_recipe_of_the_latents_page_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (README.parent / "docs" / "latents.md").read_text(), re.DOTALL)
    assert "range(300)" in block
    names = {}
    exec(block.replace("range(300)", "range(5)"), names)
    assert names["x"].shape == (1000, 2)
    assert set(names["model"].gate.plans) == {1, 2}
    assert "GateCosts" in capsys.readouterr().out
