"""A run on a stream goes on from the row where it stopped, and ends as one that was not stopped does."""

import json
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from parts import LENGTH, VOCAB, averaged_weights, make_trainer, weights  # noqa: E402

from vadd.errors import CheckpointError, ConfigError, DataError  # noqa: E402
from vadd.streams import RowStream  # noqa: E402
from vadd.text.base import Tokenizer  # noqa: E402
from vadd.text.stream import TextStream  # noqa: E402
from vadd.training import Callback  # noqa: E402
from vadd.training.feed import Feed  # noqa: E402
from vadd.training.streaming import stream_batches  # noqa: E402


class Letters(Tokenizer):
    """``a``, ``b`` and ``c``."""

    def __init__(self):
        super().__init__(name="letters", vocab_size=VOCAB, separator=None, fingerprint="letters")

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        return [[ord(letter) - 97 for letter in text] for text in texts]

    def decode_rows(self, rows: list[list[int]], mask: str) -> list[str]:
        raise NotImplementedError


TEXTS = ["abc"[i % 3] + "aabb" * (1 + i % 3) + "cab"[i % 3] * (i % 4) for i in range(17)]


class Texts(list):
    """Documents that break off once."""

    lost_at: int | None = None

    def __iter__(self):
        for i, text in enumerate(super().__iter__()):
            if i == self.lost_at:
                self.lost_at = None
                raise ConnectionResetError("connection lost")
            yield text


def stream(texts=TEXTS, **options):
    return TextStream(texts, Letters(), LENGTH, **{"shuffle_block": 6, **options})


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.step == self.step:
            raise KeyboardInterrupt


class Numbers(RowStream):
    """Rows 0, 1, 2, ..., of which every item is its number."""

    def __init__(self, last=None, fails_at=None, name="x_0"):
        self.at, self.last, self.fails_at, self.name = 0, last, fails_at, name

    def __iter__(self):
        while self.at != self.last:
            if self.at == self.fails_at:
                raise OSError("the disk is gone")
            self.at += 1
            yield {self.name: torch.full((2,), self.at - 1)}

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


@pytest.mark.parametrize("read_ahead", [False, True])
def test_batches_follow_each_other_and_positions_are_behind_them(read_ahead):
    batches = list(stream_batches(Numbers(), 3, 4, start=1, num=2, read_ahead=read_ahead))
    assert [batch["x_0"][:, 0].tolist() for batch, _ in batches] == [[1, 2], [5, 6], [9, 10]]
    assert [position for _, position in batches] == [{"at": 4}, {"at": 8}, {"at": 12}]


def test_rows_may_be_plain_tokens():
    class Plain(Numbers):
        def __iter__(self):
            return (row["x_0"] for row in super().__iter__())

    (batch, _) = next(stream_batches(Plain(), 1, 2))
    assert isinstance(batch["x_0"], Tensor)
    assert batch["x_0"].tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("flagged", [0, 1])
def test_a_row_with_other_keywords_is_refused_whichever_comes_first(flagged):
    class Uneven(Numbers):
        def __iter__(self):
            for row in super().__iter__():
                flags = {"is_padding": torch.tensor([False, True])} if int(row["x_0"][0]) == flagged else {}
                yield row | flags

    with pytest.raises(ConfigError, match="is_padding: give every row"):
        next(stream_batches(Uneven(), 1, 2))


@pytest.mark.parametrize("read_ahead", [False, True])
def test_what_cannot_be_read_is_an_error_at_its_batch(read_ahead):
    for data, message in ((Numbers(fails_at=5), "the disk is gone"), (Numbers(last=5), "ended after 1 of a batch's 4")):
        batches = stream_batches(data, 3, 4, read_ahead=read_ahead)
        next(batches)
        with pytest.raises(DataError, match=message):
            next(batches)
    with pytest.raises(ConfigError, match="got \\['label'\\]"):
        next(stream_batches(Numbers(name="label"), 3, 4, read_ahead=read_ahead))


def test_the_thread_ends_with_the_batches():
    batches = stream_batches(Numbers(), 100, 4, read_ahead=True)
    next(batches)
    assert any(thread.name == "vadd-stream" for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name == "vadd-stream" for thread in threading.enumerate())


def trained(folder=None, num=12, *, callbacks=(), **options):
    data = options.pop("data", None) or stream()
    every = None if folder is None else 5
    trainer = make_trainer(num, 8, data=data, folder=folder, callbacks=callbacks, save_every=every, **options)
    trainer.fit()
    return trainer


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, packing, num_workers):
    options = {"num_workers": num_workers}
    reference = trained(data=stream(packing=packing))
    for step in (7, 11):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, callbacks=[StopAt(step)], data=stream(packing=packing), **options)
    resumed = trained(tmp_path, data=stream(packing=packing), **options)
    assert torch.equal(weights(resumed), weights(reference))
    assert torch.equal(averaged_weights(resumed), averaged_weights(reference))
    other = trained(data=stream(packing=packing, seed=1))
    assert not torch.equal(weights(other), weights(reference))


def test_a_lost_connection_saves_and_goes_on_exactly(tmp_path):
    reference = trained(num=30)
    texts = Texts(TEXTS)
    texts.lost_at = 14
    with pytest.raises(DataError, match="connection lost") as caught:
        trained(tmp_path, num=30, data=stream(texts))
    assert "saved to" in caught.value.__notes__[0]
    assert torch.equal(weights(trained(tmp_path, num=30, data=stream(texts))), weights(reference))


def test_a_trainer_goes_on_within_the_program():
    reference = trained()
    trainer = make_trainer(12, 8, data=stream(), callbacks=[StopAt(5)], num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    trainer.callbacks.pop(0)
    trainer.fit()
    assert torch.equal(weights(trainer), weights(reference))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_update_that_failed_is_made_with_its_rows(num_workers):
    reference = trained()
    trainer = make_trainer(12, 8, data=stream(), num_workers=num_workers)
    forward, is_bad = trainer.loss.forward, iter([False, False, True])

    def fail_once(part):
        if next(is_bad, False):
            raise RuntimeError("out of memory")
        return forward(part)

    trainer.loss.forward = fail_once
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        trainer.fit()
    assert trainer.step == 2
    trainer.fit()
    assert caught.traceback  # it holds the first try's frames
    assert torch.equal(weights(trainer), weights(reference))


def test_snapshots_hold_the_position_of_their_update(tmp_path):
    trainer = trained(tmp_path, 5)
    found = trainer.run.snapshots.load_latest()
    expected = stream()
    rows = iter(expected)
    for _ in range(5 * 8):
        next(rows)
    assert found.state["data"] == expected.state_dict()
    assert len(json.dumps(found.state["data"])) < 500
    assert (found.metadata["num_rows"], found.metadata["epoch"]) == (None, None)


def test_processes_share_out_the_rows_of_a_stream():
    shares = [Feed(stream(), make_trainer(3, 8).config).batches(0, start, 4, False) for start in (0, 4)]
    (whole,) = [list(Feed(stream(), make_trainer(3, 8).config).batches(0, 0, 8, False))]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(batch["x_0"], torch.cat([first["x_0"], second["x_0"]]))


def test_other_data_are_refused(tmp_path):
    trained(tmp_path, 5)
    with pytest.raises(CheckpointError, match="a stream of data, now 50"):
        make_trainer(12, 8, folder=tmp_path, save_every=5).fit()
    with pytest.raises(CheckpointError, match="another tokenizer"):
        trained(tmp_path, data=stream(seed=4))
