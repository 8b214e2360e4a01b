"""Python's search for garbage is left out where it is asked to be, and comes back."""

from __future__ import annotations

import gc

import pytest

from erc_bench.garbage import no_garbage_collection


def test_the_search_comes_back_after_an_error() -> None:
    @no_garbage_collection()
    def fails() -> None:
        assert not gc.isenabled()
        raise ValueError("inside")

    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"):
        fails()
    assert gc.isenabled()


def test_who_had_switched_it_off_finds_it_off() -> None:
    gc.disable()
    try:
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_only_what_is_frozen_is_left_out_for_good() -> None:
    try:
        with no_garbage_collection():
            inside = [[]]
        assert any(each is inside for each in gc.get_objects())
        with no_garbage_collection(freeze=True):
            frozen = [[]]
        assert not any(each is frozen for each in gc.get_objects())
    finally:
        gc.unfreeze()
