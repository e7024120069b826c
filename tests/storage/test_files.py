"""Files that are there as a whole, for those who may read other files."""

import io
import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from vadd.storage.files import put_in_place, save_tensors, write_text


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_tensors_get_the_permissions_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "other").touch()
        save_tensors({"x": torch.ones(2)}, tmp_path / "partial")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "partial")}
    assert modes == {0o666 & ~mask}


def test_tensors_replace_what_an_interrupted_save_left(tmp_path):
    (tmp_path / "partial").write_text("half")
    (tmp_path / "partial").chmod(0o400)
    save_tensors({"x": torch.ones(2)}, tmp_path / "partial")
    put_in_place(tmp_path / "partial", tmp_path / "whole")
    assert torch.equal(load_file(tmp_path / "whole")["x"], torch.ones(2))
    assert not (tmp_path / "partial").exists()
    (tmp_path / "other").touch()
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_text_is_utf8_whatever_the_locale(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")
    write_text(tmp_path / "text", "κλ")
    assert (tmp_path / "text").read_bytes() == "κλ".encode()


def test_a_text_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "text"
    write_text(path, "old")

    def fail(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space left"):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
