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
