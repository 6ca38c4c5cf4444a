"""Stored items are complete or absent, and are found under their own key alone."""

import os
import time

import numpy as np
import pytest
import torch

from finetune.errors import RunError
from finetune.feature_cache import shard_store
from finetune.feature_cache.cache_folder import list_cache_entries, make_room, remove_cache_entry
from finetune.feature_cache.shard_store import MISSING, ShardStore, item_keys

ITEM = (2, 3)


def open_store(root, *, storage_dtype="fp16", item=ITEM, **cache_key):
    return ShardStore(root, cache_key or {"weights": "a"}, item=item, storage_dtype=storage_dtype)


def filled(root, count=5, **settings):
    store = open_store(root, **settings)
    with store.writer() as writer:
        writer.add(item_keys([(number,) for number in range(count)]), items(count).to(store.dtype))
    store.refresh()
    return store


def items(count):
    return torch.arange(count * 6, dtype=torch.float32).reshape(count, *ITEM)


@pytest.mark.parametrize("storage_dtype", ["fp16", "bf16", "fp32"])
def test_items_come_back_as_they_were_kept_in_any_order(tmp_path, storage_dtype):
    with filled(tmp_path, storage_dtype=storage_dtype) as store:
        places = store.find(item_keys([(3,), (0,), (3,)]))
        assert torch.equal(store.read(places).float(), items(5)[[3, 0, 3]])


def test_what_was_never_kept_is_missing(tmp_path):
    with filled(tmp_path) as store, open_store(tmp_path, weights="b") as empty:
        assert store.find(item_keys([(99,)]))["shard"].tolist() == [MISSING]
        assert empty.find(item_keys([(0,)]))["shard"].tolist() == [MISSING]


def test_shards_of_several_writers_are_one_set(tmp_path):
    one, two = open_store(tmp_path), open_store(tmp_path)
    for store, numbers in ((one, (0, 2)), (two, (1, 3))):
        with store.writer() as writer:
            for number in numbers:
                writer.add(item_keys([(number,)]), items(4)[number : number + 1].half())
                writer.write()
    one.refresh()
    assert torch.equal(one.read(one.find(item_keys([(n,) for n in range(4)]))).float(), items(4))
    assert len(one.shards) == 4


def test_a_writer_ends_a_shard_by_bytes_and_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_store, "SHARD_BYTES", 2 * 12)
    store = open_store(tmp_path)
    with store.writer() as writer:
        for number in range(5):
            writer.add(item_keys([(number,)]), items(5)[number : number + 1].half())
    store.refresh()
    assert len(store.shards) == 3
    monkeypatch.setattr(shard_store, "SHARD_SECONDS", 0.0)
    with store.writer() as writer:
        time.sleep(0.01)
        writer.add(item_keys([("late",)]), items(1).half())
        store.refresh()
        assert len(store.shards) == 4


def test_what_was_collected_is_kept_when_something_ends_it(tmp_path):
    store = open_store(tmp_path)

    def interrupted():
        with store.writer() as writer:
            writer.add(item_keys([("first",)]), items(1).half())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    store.refresh()
    assert store.find(item_keys([("first",)]))["shard"].tolist() == [0]


@pytest.mark.parametrize("harm", ["half", "empty", "header", "longer"])
def test_a_shard_that_is_not_whole_is_never_read_and_goes(tmp_path, harm):
    with filled(tmp_path) as store:
        (path,) = store.shards
    data = path.read_bytes()
    damaged = {"half": data[: len(data) // 2], "empty": b"", "header": b"x" * len(data), "longer": data + b"0"}[harm]
    path.write_bytes(damaged)
    with open_store(tmp_path) as again:
        assert not again.shards and not path.exists()


def test_a_file_under_way_is_not_a_shard(tmp_path):
    with filled(tmp_path) as store:
        (path,) = store.shards
        path.rename(path.with_name(f"{path.name}.partial"))
    with open_store(tmp_path) as again:
        assert not again.shards


def test_a_bit_that_has_turned_is_noticed(tmp_path):
    with filled(tmp_path) as store:
        path = store.shards[0]
        data = bytearray(path.read_bytes())
        data[64 + 3] ^= 1
        path.write_bytes(data)
        with pytest.raises(RunError, match=r"was damaged and has been deleted; run the command again"):
            store.read(store.find(item_keys([(0,)])))
        assert not path.exists()


def test_what_was_removed_while_it_is_read_is_said(tmp_path):
    with filled(tmp_path) as store:
        store.shards[0].unlink()
        with pytest.raises(RunError, match="cannot be read"):
            store.read(store.find(item_keys([(0,)])))


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be used: .*; set train.cache_dir"):
        open_store(tmp_path / "file")


def test_sets_are_listed_with_the_last_used_first(tmp_path):
    for number, name in enumerate(("old", "new")):
        with filled(tmp_path, weights=name) as store:
            os.utime(store.folder / "set.json", (number, number))
    found = list_cache_entries(tmp_path)
    assert [each.cache_key["weights"] for each in found] == ["new", "old"]
    assert all(each.size_bytes > 5 * 16 for each in found)


def test_room_is_made_by_what_was_not_used_for_longest(tmp_path):
    for number, name in enumerate(("oldest", "older", "new")):
        with filled(tmp_path, weights=name) as store:
            os.utime(store.folder / "set.json", (number, number))
    size = list_cache_entries(tmp_path)[0].size_bytes
    assert make_room(tmp_path, size, budget_gb=3.5 * size / 1e9) is None
    assert [each.cache_key["weights"] for each in list_cache_entries(tmp_path)] == ["new", "older"]
    assert "more are needed" in make_room(tmp_path, 4 * size, budget_gb=3.5 * size / 1e9)
    assert len(list_cache_entries(tmp_path)) == 2, "nothing goes for what does not fit anyway"


def test_a_set_in_use_stays_and_others_do_not_go_in_vain(tmp_path):
    with filled(tmp_path, weights="other"):
        pass
    with filled(tmp_path) as store:
        size = list_cache_entries(tmp_path)[0].size_bytes
        assert not remove_cache_entry(store.folder)
        assert make_room(tmp_path, size, budget_gb=1.5 * size / 1e9)
        assert len(list_cache_entries(tmp_path)) == 2
        assert store.read(store.find(item_keys([(0,)]))).shape == (1, *ITEM)
    assert remove_cache_entry(store.folder) and not store.folder.exists()


def test_a_set_that_stays_empty_goes(tmp_path):
    with open_store(tmp_path) as store:
        assert store.folder.is_dir()
    assert not store.folder.exists()


def test_what_cannot_be_locked_is_in_use(tmp_path, monkeypatch):
    with filled(tmp_path) as store:
        pass

    def fails(*_):
        raise OSError("no locks here")

    monkeypatch.setattr("finetune.storage.atomic.fcntl.flock", fails)
    assert not remove_cache_entry(store.folder)
    with open_store(tmp_path) as again:
        assert len(again.keys) == 5


def test_keys_tell_apart_whatever_differs():
    different = [("a", 1, 2, "drawn", 0), ("a", 1, 2, "drawn", 1), ("a", 1, 3, "drawn", 0), ("a", 12, "drawn", 0)]
    different += [("b", 1, 2, "drawn", 0), ("a", 1, 2, "view", 0, 1), ("a", 1, 2, "view", 0, 3), ("\udcff", 1)]
    assert len(np.unique(item_keys(different))) == len(different)
