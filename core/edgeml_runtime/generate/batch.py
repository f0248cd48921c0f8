"""Several conversations in one run: each reads its newest token in a row of its own.

The weights of a language model are read from memory for each run. So eight rows of one run take much less time than
eight runs. Rows differ in length, and each token attends to its own row only. The caches of a batch lie in one set of
arrays, one behind the other, where a run finds them without a copy. A conversation moves there when it first shares a
run, and moves away at its end. One alone stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Final

import numpy as np

from edgeml_runtime import engines
from edgeml_runtime.engines import Run, Session
from edgeml_runtime.generate.cache import Cache, Decoder, rounded
from edgeml_runtime.tensors import Array

#: Conversations that share a run. More gain little on a CPU, and each one waits for all.
ROWS_MAX: Final = 8
#: Tokens that have taken memory, as a multiple of those that are there: a row keeps what a longer cache has left.
_TOUCHED_MAX: Final = 2
#: Tokens for the test of independence: the first row's, and others for the second row.
_PROBED: Final = (0, 1, 2)


class Batch:
    """The caches that share runs of one loaded model. One thread at a time may use it.

    Args:
        decoder: makes the inputs.
        session: the loaded model.
    """

    def __init__(self, decoder: Decoder, session: Session) -> None:
        self._decoder = decoder
        self._session = session
        self._caches: list[Cache] = []
        self._capacity = 0
        self._arrays: dict[str, Array] = {}
        self._runs: dict[int, Run] = {}
        #: Tokens of each row that have taken memory, as seen when a cache last left.
        self._touched = [0] * ROWS_MAX

    @cached_property
    def is_possible(self) -> bool:
        """Whether conversations get the same tokens together as alone.

        A model that scales its activations over a whole run gives a row other logits beside another row.
        """
        if not self._decoder.spec.in_place:
            return False
        first, *others = _PROBED
        run = self._bound(self._decoder.empty(2, rows=2))
        beside = [run(self._decoder.tensors_of_rows([first, it], [1, 1]))[self._decoder.spec.output] for it in others]
        return np.array_equal(beside[0][0], beside[1][0])

    def read(self, caches: Sequence[Cache], ids: Sequence[int]) -> list[Array]:
        """Let each cache read one token.

        Args:
            caches: at most `ROWS_MAX`. Others leave the batch.
            ids: the token of each.

        Returns:
            For each cache the logits after its token, float [vocabulary].
        """
        for cache in [it for it in self._caches if it not in caches]:
            self.leave(cache)
        self._join(caches)
        given = dict(zip(caches, ids, strict=True))
        tokens = [given[cache] for cache in self._caches]
        inputs = self._decoder.tensors_of_rows(tokens, [len(it.tokens) for it in self._caches])
        logits = self._run(len(tokens))(inputs)[self._decoder.spec.output]
        after = {}
        for cache, token, row in zip(self._caches, tokens, logits, strict=True):
            cache.tokens.append(token)
            after[cache] = row[-1]
        return [after[cache] for cache in caches]

    def leave(self, cache: Cache) -> None:
        """Move a cache to arrays of its own, if it is in the batch."""
        if cache in self._caches:
            capacity = rounded(len(cache.tokens))
            cache.move(self._decoder.empty(capacity), capacity)
            self.drop(cache)

    def drop(self, cache: Cache) -> None:
        """Give the row of a cache that isn't used any more to the last one, if it is in the batch."""
        if cache not in self._caches:
            return
        lengths = [len(it.tokens) for it in self._caches]
        self._touched = [max(pair) for pair in zip_longest(self._touched, lengths, fillvalue=0)]
        row, last = self._caches.index(cache), self._caches.pop()
        if last is not cache:
            self._caches[row] = last
            last.move(self._row(row), self._capacity)
        if not self._caches:
            self._capacity, self._arrays, self._runs = 0, {}, {}
        elif sum(self._touched) > _TOUCHED_MAX * sum(rounded(len(it.tokens)) for it in self._caches):
            self._renew(self._capacity)

    def _join(self, caches: Sequence[Cache]) -> None:
        """Give each cache a row. A cache that has outgrown its row has moved away by itself, and gets another."""
        needed = max(max(it.capacity, len(it.tokens) + 1) for it in caches)
        if needed > self._capacity:
            self._renew(rounded(needed))
        for cache in caches:
            if cache not in self._caches:
                cache.move(self._row(len(self._caches)), self._capacity)
                self._caches.append(cache)

    def _renew(self, capacity: int) -> None:
        """Move all caches to new arrays, whose other rows take no memory."""
        # A system may refuse untouched rows all the same, which must change nothing.
        self._arrays = self._decoder.empty(capacity, ROWS_MAX)
        self._capacity, self._runs, self._touched = capacity, {}, [0] * ROWS_MAX
        for row, cache in enumerate(self._caches):
            cache.move(self._row(row), capacity)

    def _row(self, row: int) -> dict[str, Array]:
        return {name: array[row : row + 1] for name, array in self._arrays.items()}

    def _run(self, rows: int) -> Run:
        if rows not in self._runs:
            self._runs[rows] = self._bound({name: array[:rows] for name, array in self._arrays.items()})
        return self._runs[rows]

    def _bound(self, arrays: dict[str, Array]) -> Run:
        return engines.bind(self._session, self._decoder.bound(arrays))
