"""Python's garbage collection is turned off in a context, and turned on again afterwards."""

from __future__ import annotations

import gc

import pytest

from erc_bench.garbage import no_garbage_collection


def test_collection_is_on_again_after_an_error() -> None:
    @no_garbage_collection()
    def fails() -> None:
        assert not gc.isenabled()
        raise ValueError("inside")

    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"):
        fails()
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_only_frozen_objects_are_left_out_of_later_collections() -> None:
    try:
        with no_garbage_collection():
            inside = [[]]
        assert any(each is inside for each in gc.get_objects())
        with no_garbage_collection(freeze=True):
            frozen = [[]]
        assert not any(each is frozen for each in gc.get_objects())
    finally:
        gc.unfreeze()
