"""The tokens that a language model has read, with their keys and values: a run reads further ones behind them."""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from threading import Lock
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import INPUT_IDS, LAST_TOKEN, LOGITS_AT, MASK, POSITIONS, TOKENS_SO_FAR, Generation
from edgeml_runtime import engines
from edgeml_runtime.engines import Bound, Session
from edgeml_runtime.hardware import board
from edgeml_runtime.tensors import Array

#: Tokens of one run.
RUN_TOKENS_MAX: Final = 512
#: Scores of one attention head in a run: the tokens of the run times all until its end. They take 4 bytes each.
SCORES_MAX: Final = 512 * 1024
#: Tokens by which the memory of a cache grows.
GROWTH_TOKENS: Final = 256
#: Conversations of a model whose caches are kept, so that their next turn reads its new tokens only.
KEPT_MAX: Final = 8
#: Bytes of the kept caches of all models together: an eighth of the smallest board's memory.
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
#: Fraction of this process's memory for the caches of all conversations that are written at a time.
MEMORY_FRACTION: Final = 1 / 8

#: Bytes of a huge page on x86 and Arm with pages of 4 KiB: a smaller array has none.
_HUGE_PAGE_BYTES: Final = 2 * 1024 * 1024

#: The inputs that are made of token ids and their numbers.
COUNTED: Final = (INPUT_IDS, MASK, POSITIONS, LAST_TOKEN, TOKENS_SO_FAR, LOGITS_AT)
#: A run of new tokens, with the number of tokens before them in its cache.
ReadBehind: TypeAlias = Callable[[Mapping[str, Array], int], dict[str, Array]]


def run_tokens(before: int) -> int:
    """Return how many tokens one run may read behind those that a cache has: fewer in a long conversation.

    >>> run_tokens(0), run_tokens(4096)
    (512, 124)
    """
    # The largest count with count * (before + count) <= SCORES_MAX.
    count = (math.isqrt(before * before + 4 * SCORES_MAX) - before) // 2
    return max(1, min(RUN_TOKENS_MAX, count))


class Decoder:
    """The inputs of a language model, and how it keeps its cache.

    Args:
        inputs: the manifest's.
        spec: names the cache's inputs and outputs.
    """

    def __init__(self, inputs: Sequence[TensorSpec], spec: Generation) -> None:
        self.spec: Final = spec
        self._inputs = {it.name: it for it in inputs}
        self._presents = dict(zip(spec.past, spec.present, strict=True))

    def tensors(self, ids: Sequence[int], before: int = 0, *, at: Sequence[int]) -> dict[str, Array]:
        """Make the counted inputs of a run.

        Args:
            ids: the new tokens.
            before: the number of tokens before them.
            at: the numbers of the new tokens whose logits are wanted; a model without this input computes all.
        """
        total = before + len(ids)
        rows: dict[str, Sequence[int]] = {INPUT_IDS: ids, MASK: [1] * total, POSITIONS: range(before, total)}
        flat: dict[str, Sequence[int]] = {LAST_TOKEN: [total - 1], TOKENS_SO_FAR: [total], LOGITS_AT: at}
        shaped = {name: [row] for name, row in rows.items()} | flat
        return {
            name: np.array(values, dtype=self._inputs[name].dtype)
            for name, values in shaped.items()
            if name in self._inputs
        }

    def tensors_of_rows(self, ids: Sequence[int], before: Sequence[int]) -> dict[str, Array]:
        """Make the counted inputs of a run in which each row reads one token, in place.

        Args:
            ids: the new token of each row.
            before: the number of tokens before it.
        """
        column = (len(ids), 1)
        made = {
            INPUT_IDS: np.reshape(ids, column),
            POSITIONS: np.reshape(before, column),
            LAST_TOKEN: np.array(before),
            TOKENS_SO_FAR: np.array([max(before) + 1]),
            LOGITS_AT: np.zeros(1),
        }
        return {name: values.astype(self._inputs[name].dtype) for name, values in made.items()}

    def empty(self, tokens: int, rows: int = 1) -> dict[str, Array]:
        """Make arrays of caches: float32 [rows, heads, tokens, size] by input name. Untouched ones take no memory."""
        shapes = {name: self._inputs[name].shape for name in self.spec.past}
        return {
            name: _zeros((rows, heads, tokens, size), np.dtype(self._inputs[name].dtype))
            for name, (_, heads, _, size) in shapes.items()
        }

    def token_bytes(self) -> int:
        """The memory of one token in a cache."""
        return sum(array.nbytes for array in self.empty(1).values())

    def bound(self, arrays: Mapping[str, Array]) -> Bound:
        """Name the output that replaces each array of a cache."""
        return {name: (present, arrays[name]) for name, present in self._presents.items()}

    def bind(self, session: Session, arrays: Mapping[str, Array]) -> ReadBehind:
        """Return a run of the loaded model whose cache is in `arrays`."""
        bound = self.bound(arrays)
        if self.spec.in_place:
            run = engines.bind(session, bound)
            return lambda inputs, _: run(inputs)
        return functools.partial(_run_and_copy, session, bound)


def _run_and_copy(session: Session, bound: Bound, inputs: Mapping[str, Array], before: int) -> dict[str, Array]:
    """Run a model that gives its whole cache back as outputs."""
    outputs = session.run({**inputs, **{name: array[:, :, :before] for name, (_, array) in bound.items()}})
    for output, array in bound.values():
        present = outputs.pop(output)
        array[:, :, before : present.shape[2]] = present[:, :, before:]
    return outputs


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Make zeros that take memory by small pages. NumPy requests huge ones, of which a token touches one a head."""
    size = math.prod(shape) * dtype.itemsize
    if size < _HUGE_PAGE_BYTES:
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


def rounded(tokens: int) -> int:
    """Return the capacity of arrays for this number of tokens."""
    return -(-tokens // GROWTH_TOKENS) * GROWTH_TOKENS


class Cache:
    """The cache of one conversation: the model has read `tokens`. One thread at a time may use the model.

    Args:
        decoder: makes the inputs.
        session: the loaded model.
    """

    def __init__(self, decoder: Decoder, session: Session) -> None:
        self._decoder = decoder
        self.session: Final = session
        #: The tokens that the arrays have room for.
        self.capacity = 0
        self._arrays = decoder.empty(0)
        self._run: ReadBehind | None = None
        self.tokens: list[int] = []

    @property
    def bytes(self) -> int:
        """The memory that the cache may take."""
        return sum(array.nbytes for array in self._arrays.values())

    def reserve(self, tokens: int) -> None:
        """Make room for this many tokens in all."""
        if tokens > self.capacity:
            capacity = rounded(tokens)
            self.move(self._decoder.empty(capacity), capacity)

    def shrink(self) -> None:
        """Give back the room that no token has taken."""
        if (capacity := rounded(len(self.tokens))) < self.capacity:
            self.move(self._decoder.empty(capacity), capacity)

    def move(self, arrays: dict[str, Array], capacity: int) -> None:
        """Move to other arrays, of one row, which no other cache uses.

        Args:
            arrays: float [1, heads, capacity, size] by input name.
            capacity: the tokens that they have room for, at least those read.
        """
        for name, array in self._arrays.items():
            arrays[name][:, :, : len(self.tokens)] = array[:, :, : len(self.tokens)]
        self._arrays, self.capacity, self._run = arrays, capacity, None

    def shared(self, ids: Sequence[int]) -> int:
        """Count the tokens at the beginning of `ids` that the model has read here."""
        pairs = enumerate(zip(self.tokens, ids, strict=False))
        return next((at for at, (have, wanted) in pairs if have != wanted), min(len(self.tokens), len(ids)))

    def rewind(self, count: int) -> None:
        """Forget all tokens but the first `count`."""
        del self.tokens[count:]

    def copied(self, count: int) -> Cache:
        """Return a cache of its own with the first `count` tokens."""
        other = Cache(self._decoder, self.session)
        other.reserve(count)
        for name, array in self._arrays.items():
            other._arrays[name][:, :, :count] = array[:, :, :count]
        other.tokens = self.tokens[:count]
        return other

    def read(self, ids: Sequence[int]) -> Array:
        """Read further tokens; return the logits after the last one, float [vocabulary]."""
        *_, (_, logits) = self._runs(ids, last=True)
        after: Array = logits[-1]
        return after

    def read_all(self, ids: Sequence[int]) -> Iterator[tuple[Sequence[int], Array]]:
        """Read further tokens; yield them in parts, with the logits after each token, float [tokens, vocabulary]."""
        return self._runs(ids, last=False)

    def _runs(self, ids: Sequence[int], *, last: bool) -> Iterator[tuple[Sequence[int], Array]]:
        self.reserve(len(self.tokens) + len(ids))
        self._run = run = self._run or self._decoder.bind(self.session, self._arrays)
        while ids:
            before = len(self.tokens)
            count = run_tokens(before)
            some, ids = ids[:count], ids[count:]
            at = [len(some) - 1] if last else range(len(some))
            outputs = run(self._decoder.tensors(some, before, at=at), before)
            self.tokens += some
            yield some, outputs[self._decoder.spec.output][0]


class _KeptCaches:
    """The caches of ended conversations, by model. The threads of all models share it; a closed model's go with it."""

    def __init__(self) -> None:
        self._lock = Lock()
        #: By model, in the order of the numbers, which tell the oldest of all.
        self._caches: WeakKeyDictionary[Caches, list[tuple[int, Cache]]] = WeakKeyDictionary()
        self._numbers = count()

    def of(self, model: Caches) -> list[Cache]:
        """Return a model's caches."""
        with self._lock:
            return [cache for _, cache in self._caches.get(model, ())]

    def add(self, model: Caches, cache: Cache) -> None:
        """Keep a cache, and drop the oldest ones past the bounds."""
        with self._lock:
            self._caches[model] = [*self._caches.get(model, ()), (next(self._numbers), cache)][-KEPT_MAX:]
            while sum(cache.bytes for kept in self._caches.values() for _, cache in kept) > KEPT_BYTES_MAX:
                del min(filter(None, self._caches.values()), key=lambda kept: kept[0][0])[0]

    def remove(self, model: Caches, cache: Cache) -> None:
        """Forget a cache; the thread of another model may have dropped it meanwhile."""
        with self._lock:
            self._caches[model] = [it for it in self._caches.get(model, ()) if it[1] is not cache]


_KEPT: Final = _KeptCaches()


class Caches:
    """The caches of a model's last conversations, and those in use, from which others that begin alike are copied.

    Args:
        decoder: makes the inputs.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._used: list[Cache] = []

    @property
    def kept(self) -> list[Cache]:
        """Return the caches of ended conversations, the oldest first."""
        return _KEPT.of(self)

    def take(self, session: Session, ids: Sequence[int]) -> Cache:
        """Take the cache that shares the longest beginning with `ids`, rewound to it, or a new one.

        At least one token is left to read, since its logits are wanted.
        """
        kept = self.kept
        usable = (it for it in (*kept, *self._used) if it.session is session)
        best = max(usable, key=lambda it: it.shared(ids), default=None)
        shared = best.shared(ids) if best else 0
        if best is None or not shared:
            cache = Cache(self._decoder, session)
        elif best in self._used or (len(best.tokens) > 2 * shared and len(kept) < KEPT_MAX):
            cache = best.copied(shared)  # another conversation: it would forget more than it gains
        else:
            _KEPT.remove(self, best)
            cache = best
        cache.rewind(min(shared, len(ids) - 1))
        self._used.append(cache)
        return cache

    def drop(self, cache: Cache) -> None:
        """Forget a cache that is no longer used."""
        self._used = [it for it in self._used if it is not cache]

    def keep(self, cache: Cache) -> None:
        """Keep a cache that is no longer used, unless it is too long, and drop the oldest ones past the bounds."""
        self.drop(cache)
        if cache.tokens and rounded(len(cache.tokens)) * self._decoder.token_bytes() <= KEPT_BYTES_MAX:
            cache.shrink()
            _KEPT.add(self, cache)


class CacheMemory:
    """The memory for the caches of several models, whose threads share it.

    Args:
        free_bytes: for all; a conversation that is the first one of its model may take more.
    """

    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._lock = Lock()

    def take(self, wanted_bytes: int, *, is_first: bool) -> bool:
        """Take memory until `give_back`, if there is room."""
        with self._lock:
            has_room = is_first or wanted_bytes <= self._free_bytes
            self._free_bytes -= wanted_bytes if has_room else 0
            return has_room

    def give_back(self, taken_bytes: int) -> None:
        """Give memory back."""
        with self._lock:
            self._free_bytes += taken_bytes


@functools.cache
def memory_of_all() -> CacheMemory:
    """Return the memory for the caches of all models in this process."""
    return CacheMemory(int(board.memory_max_bytes() * MEMORY_FRACTION))
