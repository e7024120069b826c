"""The code of the page on text runs as it stands, but for the number of updates, and names what is there."""

import re
from pathlib import Path

import pytest

from vadd.text import PROTOCOLS

pytest.importorskip("datasets")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "text.md"


def test_the_block_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block.count("300") == 2
    names = {"__name__": "page"}
    exec(block.replace("300", "4"), names)
    assert len(names["rows"]) == 550
    decoded = names["tokenizer"].decode(names["samples"].cpu())
    assert len(decoded) == 4
    assert "bits_per_character" in capsys.readouterr().out


def test_the_options_and_protocols_that_it_names_are_there():
    text, examples = PAGE.read_text(), PAGE.parents[1] / "examples"
    paths = [examples / name for name in ("texts.py", "runs.py", "text_infill.py")]
    paths += [examples.parent / "benchmarks" / name for name in ("model_comparison.py", "train_judge.py")]
    code = "".join(path.read_text() for path in paths)
    for option in set(re.findall(r"[` ](--[a-z][a-z-]+)", text)):
        assert f'"{option}"' in code, option
    assert set(re.findall(r'PROTOCOLS\["(.*?)"\]', text)) <= set(PROTOCOLS)
