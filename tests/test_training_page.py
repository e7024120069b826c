"""The code of the page on training runs as it stands, but for the number of updates."""

import re
from dataclasses import fields
from pathlib import Path

from vadd.training import TrainerConfig, read_metrics

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"


def test_the_blocks_run_in_one_go(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # they write to outputs
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "num_updates=500" in blocks[0]
    names = {"__name__": "page"}
    for block in blocks:
        exec(block.replace("num_updates=500", "num_updates=6").replace("_every=100", "_every=3"), names)
    assert names["x"].shape == (1000, 6)
    assert names["result"].step == 6
    assert read_metrics("outputs/words")["validation/score"]["step"] == [3, 6]
    assert len(list(Path("outputs/watched/samples").iterdir())) == 2
    assert len(list(Path("outputs/words/snapshots").iterdir())) <= 3
    assert "[5, 10, 15, 20, 25, 30, 35, 40]" in capsys.readouterr().out


def test_the_table_of_settings_is_complete_and_tells_the_defaults():
    table = PAGE.read_text().split("| setting | default | |")[1].split("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    told = {name: default.strip() for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(told) == {field.name for field in fields(TrainerConfig)}
    config = TrainerConfig(1, 1)
    for names, default in rows:
        defaults = [default] if len(re.findall("`", names)) == 2 else re.split(r", (?![^(]*\))", default)
        for i, name in enumerate(re.findall(r"`(\w+)`", names)):
            value = defaults[min(i, len(defaults) - 1)].strip().strip("`")
            if name not in ("num_updates", "batch_size"):
                assert eval(value) == getattr(config, name), name
