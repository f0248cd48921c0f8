"""The caches of conversations: which are kept for a next turn, and which take memory."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import Generation
from edgeml_runtime.generate.batch import ROWS_MAX, Batch
from edgeml_runtime.generate.cache import (
    COUNTED,
    GROWTH_TOKENS,
    KEPT_BYTES_MAX,
    Cache,
    CacheMemory,
    Caches,
    Decoder,
)
from edgeml_runtime.generate.conversation import Rounds, Text
from support.own_process import in_own_process

HEADS, SIZE = 8, 64
PROMPT = list(range(10, 50))
ROOM = 24


class Session:
    """A session of a model whose logits and cache are zeros, in place or not."""

    def bind(self, _):
        """Leave the cache as it is."""
        return lambda inputs: {"logits": np.zeros((len(inputs["input_ids"]), 1, 8), np.float32)}

    def close(self):
        """Free nothing."""

    def run(self, inputs):
        """Give back a cache with the new tokens."""
        total = inputs["past"].shape[2] + inputs["input_ids"].shape[1]
        return {"logits": np.zeros((1, 1, 8), np.float32), "present": np.zeros((1, HEADS, total, SIZE), np.float32)}


@pytest.fixture
def decoder():
    """The inputs of a model with one array as its cache."""
    inputs = (
        TensorSpec(name="input_ids", dtype="int64", shape=(-1, -1)),
        TensorSpec(name="past", dtype="float32", shape=(-1, HEADS, -1, SIZE)),
    )
    return Decoder(inputs, Generation(output="logits", stop_ids=(), past=("past",), present=("present",)))


def test_keep_counts_no_room_for_an_answer_that_was_not_written(decoder):
    """A chat without a limit has room for the model's whole context, and its next turn reads its new tokens only."""
    kept, session = Caches(decoder), Session()
    cache = kept.take(session, PROMPT)
    cache.reserve(2 * KEPT_BYTES_MAX // decoder.token_bytes())
    cache.read(PROMPT)
    kept.keep(cache)
    assert kept.take(session, [*PROMPT, 1]).tokens == PROMPT


def test_keep_a_cache_beyond_the_bound_drops_no_other(decoder):
    """A conversation that takes more than all may costs the next turn of no other one."""
    kept, session = Caches(decoder), Session()
    cache, long = (kept.take(session, ids) for ids in (PROMPT, [1]))
    cache.read(PROMPT)
    kept.keep(cache)
    too_many = KEPT_BYTES_MAX // decoder.token_bytes() + 1
    long.reserve(too_many)
    long.tokens += [1] * too_many
    kept.keep(long)
    assert kept.take(session, [*PROMPT, 1]).tokens == PROMPT


def test_kept_caches_of_all_models_share_the_bound(decoder):
    """The oldest of all is dropped, whose model has it read again. A model that is gone has none."""
    half = KEPT_BYTES_MAX // decoder.token_bytes() // 2

    def keep(kept, first):
        cache = kept.take(session, [first])
        cache.reserve(half)
        cache.tokens += [first] * half
        kept.keep(cache)

    models, session = [Caches(decoder) for _ in range(3)], Session()
    for number, kept in enumerate(models):
        keep(kept, number)
    assert [len(kept.kept) for kept in models] == [0, 1, 1]
    keep(models[0], 3)
    assert [len(kept.kept) for kept in models] == [1, 0, 1]
    del kept, models[2]
    keep(models[0], 4)
    assert [len(kept.kept) for kept in models] == [2, 0]


def test_empty_takes_memory_for_the_tokens_that_are_written(decoder):
    """A chat without a limit has room for the model's whole context. Huge pages would make all of it resident."""
    size_bytes, taken_bytes = in_own_process(_write_one_token, decoder)
    assert size_bytes == 64 * 1024**2
    assert 0 < taken_bytes < 8 * 1024**2


def _write_one_token(decoder):
    before = _resident_bytes()
    (array,) = decoder.empty(16 * 1024, rows=2).values()
    array[:, :, 0] = 1
    return array.nbytes, _resident_bytes() - before


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_conversations_that_wait_for_memory_take_none(decoder):
    """Also where they begin as one that is written, whose cache they get a copy of."""
    text = Text(room=ROOM, stop_ids=(), answer=None, sampler=None)
    rounds, session = Rounds(decoder, CacheMemory((len(PROMPT) + ROOM) * decoder.token_bytes())), Session()
    first = rounds.begin(session, PROMPT, text)
    rounds.read([first])
    waiting = [rounds.begin(session, PROMPT, text) for _ in range(3)]
    rounds.read([first, *waiting])
    assert [it.waits for it in (first, *waiting)] == [False, True, True, True]
    assert [it.bytes for it in rounds._caches._used if it.tokens] == [first.cache.bytes]
    first.close()
    rounds.read(waiting)
    assert [it.tokens for it in rounds._caches._used if it.tokens] == [PROMPT]
    for conversation in waiting:
        conversation.close()
    assert not rounds._caches._used


def test_conversations_of_several_models_share_the_memory(decoder):
    """One alone of each model may take more; the others wait until there is room again."""
    text, session = Text(room=ROOM, stop_ids=(), answer=None, sampler=None), Session()
    memory = CacheMemory(3 * (len(PROMPT) + ROOM) * decoder.token_bytes())
    models = [Rounds(decoder, memory) for _ in range(2)]
    written = [[rounds.begin(session, PROMPT, text) for _ in range(2)] for rounds in models]
    for rounds, conversations in zip(models, written, strict=True):
        rounds.read(conversations)
    assert [[it._cache is not None for it in conversations] for conversations in written] == [[True] * 2, [True, False]]
    written[0][1].close()
    models[1].read(written[1])
    assert written[1][1]._cache is not None


@pytest.fixture
def batch():
    """The batch of a model with one array as its cache, written in place."""
    inputs = [TensorSpec(name=name, dtype="int64", shape=(-1,)) for name in COUNTED]
    past = TensorSpec(name="past", dtype="float32", shape=(-1, HEADS, -1, SIZE))
    spec = Generation(output="logits", stop_ids=(), past=("past",), present=("present",), in_place=True)
    return Batch(Decoder((*inputs, past), spec), Session())


def test_read_without_memory_for_all_rows_leaves_the_caches_as_they_were(batch, monkeypatch):
    """A system refuses the rows of one that has room for a long answer; the next round doesn't take them for given."""
    caches = [Cache(batch._decoder, batch._session) for _ in range(3)]
    batch.read(caches[:2], [1, 2])
    caches[2].reserve(1000)
    whole, room = Decoder.empty, caches[2].capacity

    def empty(self, tokens, rows=1):
        if rows * tokens >= ROWS_MAX * room:
            raise MemoryError
        return whole(self, tokens, rows)

    monkeypatch.setattr(Decoder, "empty", empty)
    for _ in range(2):
        with pytest.raises(MemoryError):
            batch.read(caches, [1, 2, 3])
    assert [len(it.tokens) for it in caches] == [1, 1, 0]


def test_rows_of_longer_caches_that_left_are_given_back(batch):
    """One long conversation after the other leaves a row behind it, while short ones go on."""
    active = list[Cache]()
    for _ in range(ROWS_MAX - 1):
        active.append(_filled(batch, 10))
        long = _filled(batch, 3000)
        batch.read([*active, long], [1] * (len(active) + 1))
        batch.leave(long)
        (array,) = batch._arrays.values()
        assert np.count_nonzero(array[:, 0, :, 0]) <= 2 * GROWTH_TOKENS * len(active)
        assert all(it._arrays["past"][0, 0, :10, 0].all() for it in active)


def _filled(batch, tokens):
    """A cache that has read this number of tokens."""
    cache = Cache(batch._decoder, batch._session)
    cache.reserve(tokens)
    cache._arrays["past"][:, :, :tokens] = 1
    cache.tokens = [1] * tokens
    return cache


@pytest.fixture
def rounds(batch):
    """The conversations of that model."""
    return Rounds(batch._decoder)


def test_end_without_memory_to_move_a_cache_forgets_it(rounds, monkeypatch):
    """It would be compared with each later prompt, and move with each later run, which has no memory for it either."""
    text, session = Text(room=ROOM, stop_ids=(), answer=None, sampler=None), Session()
    conversations = [rounds.begin(session, [token], text) for token in (1, 2, 3)]
    rounds.read(conversations)
    assert len(rounds._batch._caches) == len(conversations)

    def empty(_decoder, _tokens, _rows=1):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "empty", empty)
        with pytest.raises(MemoryError):
            conversations[0].close()
    others = [it.cache for it in conversations[1:]]
    assert rounds._caches._used == others
    assert set(rounds._batch._caches) == set(others)
    for conversation in conversations[1:]:
        conversation.unread = (4,)
    rounds.read(conversations[1:])
    assert [it.tokens for it in others] == [[2, 4], [3, 4]]
