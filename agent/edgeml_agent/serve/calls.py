"""Calls of a model, in a form in which several requests can share a run; and the facts that place a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from edgeml_core.errors import UsageError
from edgeml_runtime.inputs import Prepared
from edgeml_runtime.model import BATCH_MAX, Model
from edgeml_runtime.tasks import Answer, Item
from edgeml_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeml_runtime.generate.conversation import Conversation

T = TypeVar("T")
#: A call that is done step by step. After one that yields a conversation, `Model.read` must let it read.
Steps: TypeAlias = "Generator[Conversation | None, None, T]"


class RequestInfo(NamedTuple):
    """Facts about a request that decide when and where it runs.

    Attributes:
        size_bytes: of the request, where its call is one run; None where a call may take any time.
        client: identifies the client, such as its connection; None where that is unknown.
        deadline_s: on the clock `time.monotonic`; past it the call isn't begun.
    """

    size_bytes: int | None = None
    client: Hashable = None
    deadline_s: float | None = None

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline_s is not None and time.monotonic() > self.deadline_s


NO_INFO: Final = RequestInfo()


@dataclass(slots=True)
class Predict(Generic[T]):
    """A call that predicts items, so that several of them can share a run.

    Attributes:
        parse: returns the items in a request.
        write: returns the result for the answers to them.
    """

    parse: Callable[[Model], Sequence[Item]]
    write: Callable[[Model, Sequence[Answer]], T]

    def __call__(self, model: Model) -> T:
        """Predict alone."""
        return self.write(model, model.predict(self.parse(model)))

    def steps(self, model: Model, stopped: Callable[[], bool]) -> Steps[T]:
        """Predict run by run; between two of them the model may be used for others, and the client may leave."""
        items, answers = self.parse(model), list[Answer]()
        for part in model.predict_runs(items, stopped):
            if not isinstance(part, Sequence):
                yield part
                continue
            answers += part
            if len(answers) < len(items):
                yield None
        return self.write(model, answers)


@dataclass(slots=True)
class Infer(Generic[T]):
    """A call for a model's raw outputs.

    Attributes:
        prepare: returns the items in a request and the inputs made of them; no items, where the client made the inputs.
        write: returns the result for the outputs.
    """

    prepare: Callable[[Model], tuple[Sequence[Item], Prepared]]
    write: Callable[[Model, Mapping[str, Array]], T]

    def __call__(self, model: Model) -> T:
        """Infer alone."""
        return self.write(model, model.run(*self.prepare(model)))

    def steps(self, model: Model, _stopped: Callable[[], bool]) -> Steps[T]:
        """Infer slice by slice; between two of them the model may be used for others, and the client may leave."""
        outputs = yield from model.run_slices(*self.prepare(model))
        return self.write(model, outputs)


@dataclass(slots=True)
class Stream(Generic[T]):
    """A call that emits pieces in steps; between two of them the model may be used for others, or the client leave."""

    call: Callable[[Model], Steps[T]]

    def steps(self, model: Model, _stopped: Callable[[], bool]) -> Steps[T]:
        """Begin the call."""
        return self.call(model)


def can_share(one: object, other: object) -> bool:
    """Whether two calls can share a run."""
    return isinstance(one, Predict | Infer) and type(one) is type(other)


def run_together(model: Model, calls: Sequence[Any]) -> Iterator[Any]:
    """Yield the results of calls of one kind, from a run that they share.

    Raises:
        UsageError: `input-invalid`, when they have more items together than a run takes.
    """
    if isinstance(calls[0], Infer):
        outputs = model.run_together([call.prepare(model) for call in calls])
        yield from (call.write(model, one) for call, one in zip(calls, outputs, strict=True))
        return
    parsed = [call.parse(model) for call in calls]
    if sum(map(len, parsed)) > BATCH_MAX:
        raise UsageError("input-invalid", "the requests have too many items for a run", "run each by itself")
    answers = iter(model.predict([item for items in parsed for item in items]))
    for call, items in zip(calls, parsed, strict=True):
        yield call.write(model, [next(answers) for _ in items])
