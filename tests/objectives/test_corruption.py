"""Batches put together from rows of several, and rows that share their latent beside rows that do not."""

from dataclasses import fields

import pytest
import torch

from vadd import CorruptedBatch, MaskingProcess
from vadd.errors import ConfigError
from vadd.objectives.corruption import merge_rows, share_latent
from vadd.schedules import LinearSchedule

VOCAB, LENGTH = 5, 4
PROCESS = MaskingProcess(LinearSchedule(), VOCAB)


def batch_of(rows, t=0.5, **options):
    return PROCESS.corrupt(torch.randint(VOCAB, (rows, LENGTH)), torch.full((rows,), t), **options)


def with_field(batch, **values):
    return CorruptedBatch(**{**{item.name: getattr(batch, item.name) for item in fields(batch)}, **values})


def test_rows_are_counted_through_all_batches():
    first, second = batch_of(3, 0.9), batch_of(2, 0.3)
    merged = merge_rows([first, second], torch.tensor([4, 0, 2, 3, 1]))
    for name in ("x_0", "x_t", "t", "s", "is_masked", "target"):
        a, b = getattr(first, name), getattr(second, name)
        assert torch.equal(getattr(merged, name), torch.stack([b[1], a[0], a[2], b[0], a[1]])), name
    for name in ("is_frozen", "is_padding", "is_null", "condition", "x_1", "shares_latent", "num_steps", "part"):
        assert getattr(merged, name) is None


def test_every_field_is_merged():
    """Also a field that is added later."""
    values = {
        "x_1": torch.full((3, LENGTH), VOCAB),
        "condition": torch.arange(3),
        "num_steps": torch.ones(3),
        "part": torch.arange(3),
    }
    for item in fields(CorruptedBatch):
        default = torch.ones(3, LENGTH) if item.name in ("is_frozen", "is_padding") else torch.ones(3)
        values.setdefault(item.name, default.bool())
    whole = with_field(batch_of(3), **{name: v for name, v in values.items() if getattr(batch_of(3), name) is None})
    merged = merge_rows([whole, whole], torch.tensor([5, 1]))
    for item in fields(CorruptedBatch):
        assert torch.equal(getattr(merged, item.name), getattr(whole, item.name)[[2, 1]]), item.name


def test_a_batch_without_flags_beside_one_with_them_has_none_set():
    flags = torch.rand(2, LENGTH) < 0.5
    first = with_field(
        batch_of(2, is_frozen=flags, is_padding=flags.flip(0)),
        is_null=torch.tensor([True, False]),
        num_steps=torch.tensor([3.0, 4.0]),
    )
    merged = merge_rows([first, batch_of(1)], torch.arange(3))
    assert torch.equal(merged.is_frozen[:2], flags)
    assert not merged.is_frozen[2].any()
    assert not merged.is_padding[2].any()
    assert merged.is_null.tolist() == [True, False, False]
    assert merged.num_steps[:2].tolist() == [3.0, 4.0]
    assert merged.num_steps[2].isnan()


@pytest.mark.parametrize("name", ["condition", "part"])
def test_what_has_no_neutral_value_must_be_in_all_batches_or_none(name):
    first = with_field(batch_of(2), **{name: torch.arange(2)})
    with pytest.raises(ConfigError, match=name):
        merge_rows([first, batch_of(2)], torch.arange(4))


def test_rows_that_share_their_latent_read_the_start_and_others_their_jump():
    is_frozen = torch.rand(4, LENGTH) < 0.3
    own = batch_of(4, 0.6, is_frozen=is_frozen)
    s = torch.full((4,), 0.2)
    jump = PROCESS.corrupt(own.x_0, own.t, s, is_frozen=is_frozen)
    shared = share_latent(own, VOCAB)
    rows = torch.tensor([0, 5, 2, 7])
    merged = merge_rows([shared, jump], rows)
    assert merged.shares_latent.tolist() == [True, False, True, False]
    for k, (whole, a, b) in enumerate(
        zip(
            (*merged.latent_inputs, *merged.recognition_inputs),
            (*shared.latent_inputs, *shared.recognition_inputs),
            (*jump.latent_inputs, *jump.recognition_inputs),
            strict=True,
        )
    ):
        assert torch.equal(whole, torch.stack([a[0], b[1], a[2], b[3]])), k
    again = merge_rows([merged, jump], torch.tensor([1, 0, 4]))
    assert again.shares_latent.tolist() == [False, True, False]


def test_batches_that_all_share_their_latent_need_no_flags():
    shared = share_latent(batch_of(2), VOCAB)
    merged = merge_rows([shared, shared], torch.arange(4))
    assert merged.shares_latent is None
    assert (merged.x_1 == VOCAB).all()
    assert (merged.latent_inputs[1] == 1).all()


def test_all_rows_share_where_the_start_alone_is_given():
    batch = share_latent(batch_of(3), VOCAB)
    alike = with_field(batch, shares_latent=torch.ones(3, dtype=torch.bool))
    for a, b in zip(
        (*batch.latent_inputs, *batch.recognition_inputs),
        (*alike.latent_inputs, *alike.recognition_inputs),
        strict=True,
    ):
        assert torch.equal(a, b)
    # And sharing anew overrides what was said before.
    assert share_latent(merge_rows([batch, batch_of(3)], torch.tensor([0, 4])), VOCAB).shares_latent is None


def test_sharing_without_a_start_is_refused():
    with pytest.raises(ConfigError, match="x_1"):
        with_field(batch_of(2), shares_latent=torch.ones(2, dtype=torch.bool))
