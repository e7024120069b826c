"""Weights in shares make the updates of whole ones."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_processes import run  # noqa: E402


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_two_processes_with_shares_make_the_updates_of_one(tmp_path):
    settings = {"float64": True, "pair": "sharing", "validates": True, "samples": True, "validate_every": 4}
    one = run(tmp_path / "one", **settings)
    two = run(tmp_path / "two", num=2, shard=True, accumulate=2, **settings)
    assert one["weights"].dtype == torch.float64
    assert "samples-2" in one
    assert_same(two, one)
