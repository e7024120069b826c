"""A stream that stops anywhere and goes on gives the rows of one that never stopped."""

import json
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from text_parts import Words, letters  # noqa: E402

from vadd.errors import CheckpointError, ConfigError, DataError, DomainError  # noqa: E402
from vadd.text.rows import text_rows  # noqa: E402
from vadd.text.stream import TextStream  # noqa: E402

PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
NAMES = [chr(97 + i) * (1 + i % 5) for i in range(23)]


def generated(texts):
    for text in texts:
        yield {"text": text}


def source_of(kind, texts):
    """The same documents in one of the forms that a stream takes."""
    if kind == "list":
        return list(texts)
    if kind == "generator":
        return datasets.IterableDataset.from_generator(generated, gen_kwargs={"texts": list(texts)})
    data = datasets.Dataset.from_dict({"text": list(texts)})
    if kind == "dataset":
        return data
    stream = data.to_iterable_dataset(num_shards=min(3, len(texts)))
    return stream.map(lambda row: {"text": row["text"].lower()}) if kind == "mapped" else stream


def taken(stream, num):
    rows = iter(stream)
    return [{name: value.tolist() for name, value in next(rows).items()} for _ in range(num)]


def shown(rows):
    return [letters(row["x_0"]) for row in rows]


KINDS = ["list", "generator", "dataset", "shards", "mapped"]
OPTIONS = {
    "length": st.integers(1, 8),
    "packing": st.sampled_from(["packed", "padded", "split"]),
    "shuffle_block": st.integers(1, 9),
    "separator": st.sampled_from([None, 28]),
}


def make(source, *, length=4, packing="packed", shuffle_block=5, separator=28, **options):
    options |= {"split": True} if packing == "split" else {}
    packing = "padded" if packing == "split" else packing
    return TextStream(source, Words(separator), length, packing=packing, shuffle_block=shuffle_block, **options)


@PROPERTY
@given(
    kind=st.sampled_from(KINDS),
    texts=st.lists(st.text(st.sampled_from("abc"), max_size=20), min_size=1, max_size=12).filter(any),
    breaks=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    **OPTIONS,
)
def test_rows_after_breaks_are_those_without(kind, texts, breaks, **options):
    whole = taken(make(source_of("list", texts), **options), sum(breaks) + 5)
    found, state = [], None
    for num in [*breaks, 5]:
        stream = make(source_of(kind, texts), **options)
        if state is not None:
            stream.load_state_dict(json.loads(json.dumps(state)))
        found += taken(stream, num)
        state = stream.state_dict()
    assert found == whole


def test_positions_are_small_and_may_be_returned_to():
    stream = make(["a" * 1000, "b" * 1000], length=7)
    first = taken(stream, 100)
    state = stream.state_dict()
    assert len(json.dumps(state)) < 300
    later = taken(stream, 50)
    stream.load_state_dict(state)
    assert taken(stream, 50) == later != first[:50]


def test_iterating_again_goes_on():
    stream = make(NAMES)
    assert [*taken(stream, 3), *taken(stream, 8), *taken(stream, 40)] == taken(make(NAMES), 51)


class Breaking:
    """Texts whose connection is lost at given numbers of documents read in all, each time once."""

    def __init__(self, texts, lost):
        self.texts, self.lost, self.count = texts, sorted(lost), 0

    def __iter__(self):
        for text in self.texts:
            self.count += 1
            if self.lost and self.count >= self.lost[0]:
                self.lost.pop(0)
                raise ConnectionResetError("connection lost")
            yield text


class BreakingState(Breaking):
    """The same with a position of its own."""

    at = 0

    def __iter__(self):
        for k in range(self.at, len(self.texts)):
            self.count += 1
            if self.lost and self.count >= self.lost[0]:
                self.lost.pop(0)
                raise ConnectionResetError("connection lost")
            self.at = k + 1
            yield {"text": self.texts[k]}

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = 0 if state is None else state["at"]


@PROPERTY
@given(
    kind=st.sampled_from([Breaking, BreakingState]),
    lost=st.lists(st.integers(1, 150), min_size=1, max_size=4),
    retries=st.integers(0, 1),
    **OPTIONS,
)
def test_a_lost_connection_loses_and_repeats_nothing(kind, lost, retries, **options):
    whole = taken(make(NAMES, **options), 40)
    stream, found, failures = make(kind(NAMES, lost), retries=retries, pause=0.0, **options), [], 0
    while len(found) < 40:
        try:
            for row in stream:
                found.append({name: value.tolist() for name, value in row.items()})
                if len(found) == 40:
                    break
        except DataError as error:
            failures += 1
            assert "connection lost" in str(error)  # noqa: PT017
    assert found == whole
    assert failures <= len(lost)


def test_retries_have_a_limit_and_growing_pauses(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    stream = make(Breaking(NAMES, [1, 2, 3]), retries=3, pause=0.5)
    assert taken(stream, 9) == taken(make(NAMES), 9)
    assert pauses == [0.5, 1.0, 2.0]
    with pytest.raises(DataError, match="connection lost"):
        taken(make(Breaking(NAMES, [1, 2, 3]), retries=2), 9)


@pytest.mark.parametrize("block", [1, 4, 100])
def test_an_epoch_holds_every_document_once_and_epochs_differ(block):
    stream = make(NAMES, length=5, packing="padded", shuffle_block=block)
    epochs = [shown(taken(stream, 23)) for _ in range(3)]
    padded = [name.ljust(5) for name in NAMES]
    for epoch in epochs:
        assert sorted(epoch) == padded
        for start in range(0, 23, block):  # shuffled within blocks
            assert sorted(epoch[start : start + block]) == padded[start : start + block]
    if block == 1:
        assert epochs[0] == epochs[1] == padded
    else:
        assert padded != epochs[0] != epochs[1] != epochs[2]
        assert epochs[0] != shown(taken(make(NAMES, length=5, packing="padded", shuffle_block=block, seed=1), 23))


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_rows_are_those_of_text_rows_in_the_shuffled_order(packing):
    options = {"packing": packing, "frame": (26, 25), "detokenize": str.lower}
    order = shown(taken(make(NAMES, length=5, packing="padded", shuffle_block=100), 23))
    texts = [name.strip() for name in order]
    rows = text_rows(texts, Words(28), 4, **options)
    found = taken(make([name.upper() for name in NAMES], shuffle_block=100, **options), len(rows))
    assert found == [{name: value.tolist() for name, value in rows[i].items()} for i in range(len(rows))]


def test_packing_crosses_the_border_of_epochs():
    assert shown(taken(make(["ab", "c"], length=4, shuffle_block=1), 5)) == ["ab|c", "|ab|", "c|ab", "|c|a", "b|c|"]


def test_positions_of_other_streams_are_refused():
    stream = make(NAMES)
    taken(stream, 5)
    state = stream.state_dict()
    for change in ({"length": 5}, {"packing": "padded"}, {"shuffle_block": 6}, {"separator": None}, {"seed": 3}):
        with pytest.raises(CheckpointError, match="another tokenizer, length"):
            make(NAMES, **change).load_state_dict(state)
    with pytest.raises(CheckpointError, match="not that of a stream"):
        stream.load_state_dict({})
    other = make([name.upper().lower() + "x" for name in NAMES])
    other.load_state_dict(state)
    with pytest.raises(DataError, match="documents of block 0 in epoch 0 are others"):
        next(iter(other))
    taken(stream, 12)
    short = make(NAMES[:3])
    short.load_state_dict(stream.state_dict())
    with pytest.raises(DataError, match="fewer than the"):
        next(iter(short))


def test_documents_that_datasets_shuffles_are_found_out():
    data = datasets.Dataset.from_dict({"text": NAMES}).to_iterable_dataset().shuffle(seed=0, buffer_size=10)
    stream = make(data, shuffle_block=2)
    taken(stream, 15)
    again = make(data, shuffle_block=2)
    again.load_state_dict(stream.state_dict())
    with pytest.raises(DataError, match="without shuffle of datasets"):
        taken(again, 1)


def test_empty_documents_make_no_row_and_no_endless_loop():
    assert shown(taken(make(["", "ab", ""], packing="padded", separator=None), 2)) == ["ab  ", "ab  "]
    for texts in ([], ["", ""]):
        with pytest.raises(DataError, match="no token"):
            taken(make(texts, separator=None), 1)


@pytest.mark.usefixtures("_unchecked")
def test_wrong_input():
    for wrong in (iter(NAMES), "text", 3):
        with pytest.raises(ConfigError, match="from their start again and again"):
            make(wrong)
    for name, value in (("shuffle_block", 0), ("seed", -1), ("retries", True), ("pause", -1.0)):
        with pytest.raises(DomainError, match=name):
            make(NAMES, **{name: value})
    with pytest.raises(DataError, match="must be text, or a mapping"):
        taken(make([b"ab"]), 1)
    with pytest.raises(DataError, match=r"got \['t'\]"):
        taken(make([{"t": "ab"}]), 1)


def test_reading_draws_no_random_numbers():
    before = torch.get_rng_state()
    taken(make(NAMES), 30)
    assert torch.equal(before, torch.get_rng_state())
