"""Which rows a batch holds depends on its number alone."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from vadd.errors import ConfigError, DataError, DomainError
from vadd.training.batches import BatchOrder, num_rows_of, read_batches

COUNTS = st.integers(1, 20)


@given(num_rows=COUNTS, batch_size=COUNTS, seed=st.integers(0, 9))
def test_every_epoch_holds_every_row_once(num_rows, batch_size, seed):
    order = BatchOrder(num_rows, batch_size, seed)
    stream = [row for batch in range(3 * num_rows) for row in order.rows(batch)][: 3 * num_rows]
    for epoch in range(3):
        assert sorted(stream[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


@given(num_rows=COUNTS, parts=st.integers(1, 4), size=st.integers(1, 5), batch=st.integers(0, 30))
def test_shares_do_not_overlap_and_make_up_the_batch(num_rows, parts, size, batch):
    whole = BatchOrder(num_rows, parts * size, 0).rows(batch)
    shares = [BatchOrder(num_rows, parts * size, 0).rows(batch, k * size, size) for k in range(parts)]
    assert sum(shares, []) == whole


def test_orders_differ_between_epochs_and_seeds():
    first, second = (BatchOrder(50, 50, 0).rows(k) for k in (0, 1))
    assert first != second
    assert first != BatchOrder(50, 50, 1).rows(0)
    assert first != list(range(50))


class Rows(Dataset):
    def __init__(self, num=10, fails_at=None, kill=False):
        self.num, self.fails_at, self.kill = num, fails_at, kill
        self.may_die = multiprocessing.Event()

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        if index == self.fails_at:
            if self.kill:
                self.may_die.wait(60)
                os._exit(9)
            raise OSError("the disk is gone")
        return {"x_0": torch.full((3,), index), "condition": torch.tensor(index)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_set_gives_the_batches_of_the_tensors(num_workers):
    order = BatchOrder(10, 4, 0)
    rows = torch.arange(10)
    tensors = {"x_0": rows[:, None].expand(10, 3), "condition": rows}
    expected = list(read_batches(tensors, order, 2, 6, start=1, num=2))
    found = list(read_batches(Rows(), order, 2, 6, start=1, num=2, num_workers=num_workers))
    assert len(found) == len(expected) == 4
    for own, other in zip(found, expected, strict=True):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)
    assert expected[0]["condition"].tolist() == order.rows(2, 1, 2)


def test_plain_tokens_are_x_0():
    (batch,) = read_batches(torch.arange(6).reshape(3, 2), BatchOrder(3, 3, 0), 0, 1)
    assert batch.keys() == {"x_0"}


class Uneven(Dataset):
    """Rows of which one has flags."""

    def __init__(self, flagged):
        self.flagged = flagged

    def __len__(self):
        return 4

    def __getitem__(self, index):
        row = {"x_0": torch.full((2,), index)}
        return row | {"is_padding": torch.tensor([False, True])} if index == self.flagged else row


@pytest.mark.parametrize(("place", "num_workers"), [(0, 0), (2, 0), (2, 1)])
def test_a_row_with_other_keywords_is_refused_whichever_comes_first(place, num_workers):
    order = BatchOrder(4, 4, 0)
    data = Uneven(order.rows(0)[place])
    with pytest.raises(ConfigError, match="is_padding: give every row"):
        next(read_batches(data, order, 0, 1, num_workers=num_workers))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_row_that_cannot_be_read_is_an_error(num_workers):
    with pytest.raises(DataError, match="the disk is gone"):
        list(read_batches(Rows(fails_at=3), BatchOrder(10, 5, 0), 0, 2, num_workers=num_workers))


def test_a_worker_that_dies_is_an_error_at_the_next_batch_and_nowhere_else():
    order = BatchOrder(10, 5, 0)
    handler = signal.getsignal(signal.SIGCHLD)
    data = Rows(fails_at=order.rows(1)[0], kill=True)
    batches = read_batches(data, order, 0, 2, num_workers=1)
    next(batches)
    data.may_die.set()
    time.sleep(1)  # the worker dies in it, as it may do in the middle of an update
    with pytest.raises(DataError, match=r"a process that reads them died \(exit code 9\)"):
        next(batches)
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_wrong_data():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(ConfigError, match="map-style"):
        num_rows_of(Stream())
    with pytest.raises(ConfigError, match="one length"):
        num_rows_of({"x_0": torch.zeros(3, 2), "condition": torch.zeros(2)})
    with pytest.raises(ConfigError, match="got \\['label', 'x_0'\\]"):
        next(read_batches({"x_0": torch.zeros(3, 2), "label": torch.zeros(3)}, BatchOrder(3, 1, 0), 0, 1))
    with pytest.raises(ConfigError, match="got tuple"):
        next(read_batches(TensorDataset(torch.zeros(3, 2), torch.zeros(3)), BatchOrder(3, 1, 0), 0, 1))
    for counts in [(0, 1), (1, 0), (True, 1)]:
        with pytest.raises(DomainError, match="integer of at least 1"):
            BatchOrder(*counts, 0)
