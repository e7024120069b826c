"""The main example runs from beginning to end and leaves what it promises."""

import importlib.util
import json
from pathlib import Path

import torch

from vadd.training import load_checkpoint

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "digits_svi.py"


def test_smoke_run_leaves_pictures_table_and_checkpoints(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("digits_svi", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--smoke", "--quiet", "--out", str(tmp_path)])

    report = json.loads((tmp_path / "digits.json").read_text())["results"]
    rows = {(row["model"], row["steps"]): row for row in report["rows"]}
    assert set(rows) == {("real data", None)} | {(m, t) for m in ("MDM", "VADD") for t in (1, 2, 4, 8, 64)}
    # Models of twenty updates must be far worse than real digits, or the distance measures nothing.
    assert rows["real data", None]["mean"]["frechet"] < 10 < rows["VADD", 1]["mean"]["frechet"]
    assert all(0 <= row["mean"]["precision"] <= 1 for row in rows.values())
    # 64 tokens of 17 levels: a bound of an untrained model is near 64 log 17, and no less than that of a trained one.
    assert 80 < rows["MDM", 1]["nats"] < 190
    for name in ("samples.png", "curves.png"):
        assert (tmp_path / name).stat().st_size > 10_000

    model = load_checkpoint(tmp_path / "checkpoint-vadd").model
    samples = model.sample(3, num_steps=2, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (3, 64)
    assert int(samples.max()) <= 16
    assert "Fréchet distance in the features of a small digit classifier" in capsys.readouterr().out
