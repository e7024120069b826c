"""The page for those who come from torchtyping: its code runs, prints what it shows, and its table is what happens."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vadd.testing.torchtyping import as_jaxtyping

torchtyping = pytest.importorskip("torchtyping", reason="needs the extra torchtyping")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "torchtyping.md"


def test_the_blocks_run_in_one_go_and_print_what_the_page_shows(capsys):
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [language for language, _ in blocks] == ["python", "text"] * 3
    assert "range(100)" in blocks[0][1]
    names = {"__name__": "page"}
    for language, content in blocks:
        if language == "python":
            exec(content.replace("range(100)", "range(2)"), names)
        else:
            assert capsys.readouterr().out.split() == content.split()


def test_the_table_of_translations_is_what_happens():
    table = PAGE.read_text().split("| torchtyping | jaxtyping |")[1].split("\n\n")[0]
    names = {"TensorType": torchtyping.TensorType, "is_float": torchtyping.is_float, "torch": torch, "Any": Any}
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) > 10
    for annotation, told in rows:
        parts = as_jaxtyping(eval(annotation.strip("`"), names))
        assert " and ".join(f"`{part.__name__}`" for part in parts).replace("'", '"') == told
