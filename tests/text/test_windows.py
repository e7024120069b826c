"""Windows over long documents: every token is scored once, and sees what came before."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vadd.errors import DomainError, DtypeError, ShapeError
from vadd.text.windows import sliding_windows


@st.composite
def cases(draw):
    length = draw(st.integers(1, 9))
    return draw(st.integers(1, 40)), length, draw(st.integers(1, length))


@given(cases())
def test_every_token_is_free_exactly_once_and_in_order(case):
    num, length, stride = case
    tokens = torch.arange(num) + 5  # all different
    rows = sliding_windows(tokens, length, stride)
    is_free = ~rows["is_frozen"] & ~rows["is_padding"]
    assert torch.equal(rows["x_0"][is_free], tokens)
    assert is_free.any(-1).all()  # no window in vain
    for flags in rows.values():
        assert flags.shape == rows["x_0"].shape
    assert rows["x_0"].shape[1] == length


@given(cases())
def test_the_context_is_the_tokens_right_before(case):
    num, length, stride = case
    rows = sliding_windows(torch.arange(num) + 5, length, stride)
    assert not rows["is_frozen"][0].any()
    for k, (x_0, is_frozen, is_padding) in enumerate(zip(*rows.values(), strict=True)):
        known = int((~is_padding).sum())
        assert torch.equal(x_0[:known], torch.arange(known) + 5 + k * stride)
        assert not is_padding[:known].any()
        assert (x_0[known:] == 0).all()
        if k:
            assert is_frozen.tolist() == [True] * (length - stride) + [False] * stride
            assert k < len(rows["x_0"]) - 1 or known > length - stride


def test_a_document_by_hand():
    rows = sliding_windows([1, 2, 3, 4, 5, 6], 4, 3)
    assert rows["x_0"].tolist() == [[1, 2, 3, 4], [4, 5, 6, 0]]
    assert rows["is_frozen"].tolist() == [[False] * 4, [True, False, False, False]]
    assert rows["is_padding"].tolist() == [[False] * 4, [False, False, False, True]]
    assert {name: value.dtype for name, value in rows.items()} == {
        "x_0": torch.int64,
        "is_frozen": torch.bool,
        "is_padding": torch.bool,
    }


def test_a_document_that_fits_is_one_window():
    assert sliding_windows([1, 2, 3], 3, 1)["x_0"].tolist() == [[1, 2, 3]]
    assert sliding_windows([1, 2], 3, 1)["is_padding"].tolist() == [[False, False, True]]


@pytest.mark.parametrize(
    ("tokens", "length", "stride", "error", "match"),
    [
        ([1, 2], 0, 1, DomainError, "length"),
        ([1, 2], 2, 0, DomainError, "stride"),
        ([1, 2], 2, 3, DomainError, "left out"),
        ([], 2, 1, DomainError, "empty"),
        (torch.tensor([], dtype=torch.int64), 2, 1, DomainError, "empty"),
    ],
    ids=str,
)
def test_what_is_no_document_is_refused(tokens, length, stride, error, match):
    with pytest.raises(error, match=match):
        sliding_windows(tokens, length, stride)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(
    "tokens", [torch.zeros(2), torch.tensor([True, False]), [0.5, 1.0], "ab", ["ab"], None], ids=str
)
def test_other_dtypes_are_refused_also_without_the_type_checker(tokens):
    with pytest.raises(DtypeError, match="integers"):
        sliding_windows(tokens, 2, 1)


@pytest.mark.usefixtures("_unchecked")
def test_several_documents_are_refused_also_without_the_type_checker():
    for tokens in (torch.zeros(2, 2, dtype=torch.int64), [[0, 1], [1, 0]], 3):
        with pytest.raises(ShapeError, match="one document"):
            sliding_windows(tokens, 2, 1)
