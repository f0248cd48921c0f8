"""A bundle's model, loaded: request -> items -> tensors -> run -> answers. The same code runs on host and device.

It leaves queues, threads and deadlines to the server. One thread at a time may use a Model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeml_core.errors import DeviceError, RejectedError, TransportError, UsageError
from edgeml_core.manifest import Manifest
from edgeml_core.processing import AudioInput, PromptInput, TensorInput, TensorOutput, TextInput, TokenClasses
from edgeml_runtime import engines, requests, tasks, tensors
from edgeml_runtime.drift_features import Run
from edgeml_runtime.engines import Session
from edgeml_runtime.inputs import Prepared, Preparer, preparer
from edgeml_runtime.postprocess import table
from edgeml_runtime.tasks import Answer, Chat, Item, ItemInfo, Prompt, Row, TokenDelta
from edgeml_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeml_runtime.generate.conversation import Conversation

#: Bytes of the inputs of one run, where a client's tensors have more than `BATCH_MAX` rows: the memory that a model
#: takes grows with them. 21 texts of 512 tokens, in three tensors of int64.
SLICE_BYTES: Final = 256 * 1024
#: Items in one run of a model that takes batches; more gain nothing on a CPU, and each row costs memory.
BATCH_MAX: Final = 16


class Model:
    """One bundle's model, loaded. Make it with `Model.open`."""

    def __init__(self, session: Session, manifest: Manifest, prepare: Preparer, *, threads: int | None = None) -> None:
        self.manifest: Final = manifest
        self.threads: Final = engines.thread_count(manifest, threads)
        self.session: Final = session
        self.prepare: Final = prepare
        takes_batches = all(spec.shape[:1] == (-1,) for spec in manifest.inputs)
        # Whole tensors bring their own batch dimension, sounds differ in length, and prompts end at different times.
        alone = isinstance(manifest.preprocess, TensorInput | AudioInput | PromptInput)
        #: Whether several items share a run.
        self.takes_batches: Final = takes_batches and not alone
        self._run_items = BATCH_MAX if self.takes_batches else 1
        has_rows = takes_batches and all(spec.shape[:1] == (-1,) for spec in manifest.outputs)
        #: Whether requests for raw outputs share a run, the rows of one below those of the other.
        self.stacks: Final = has_rows and not isinstance(manifest.preprocess, PromptInput)
        #: Called for each token written, in the thread that uses the model.
        self.wrote: Callable[[], object] = lambda: None
        #: Called after each run of items, in the thread that uses the model; its errors reach the caller of the run.
        self.observed: Callable[[Run], object] = lambda _: None

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, *, threads: int | None = None, path: Path | None = None) -> Model:
        """Load the model in `folder`.

        Args:
            folder: holds the manifest's files, already verified.
            manifest: the bundle's.
            threads: instead of the manifest's number.
            path: the model's file, instead of the manifest's.

        Raises:
            DeviceError: `runtime-missing` or `runtime-failed`; `store-failed`, when a file can't be read.
            RejectedError: `bundle-format`, when the manifest's parts don't fit each other.
        """
        if isinstance(manifest.postprocess, TokenClasses) and not isinstance(manifest.preprocess, TextInput):
            raise RejectedError(
                "bundle-format", "the postprocessing gives token classes, but the preprocessing takes no text"
            )
        prepare = preparer(folder, manifest)
        session = engines.load(path or folder / manifest.model, manifest, threads=threads)
        return cls(session, manifest, prepare, threads=threads)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on whole input tensors.

        Args:
            inputs: arrays by name, with the manifest's data types and shapes.

        Returns:
            The outputs by name.

        Raises:
            UsageError: `input-invalid`, when they don't fit the model's signature.
            DeviceError: `runtime-failed`.
            RejectedError: `bundle-format`, when the model lacks an output that its manifest lists.
        """
        tensors.check_inputs(self.manifest.inputs, inputs)
        outputs = self.session.run(inputs)
        if missing := [spec.name for spec in self.manifest.outputs if spec.name not in outputs]:
            raise RejectedError("bundle-format", f"the model has no output {', '.join(missing)}")
        return outputs

    def infer_given(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on a client's own tensors: a failure of the runtime is then the client's fault.

        Raises:
            UsageError: `input-invalid`, also when the runtime fails, such as for an id beyond the vocabulary.
            RejectedError: `bundle-format`, when the model lacks an output that its manifest lists.
        """
        try:
            return self.infer(inputs)
        except DeviceError as error:
            hint = "send values such as the model was trained on"
            raise UsageError("input-invalid", f"the model can't be run on these tensors: {error}", hint) from error

    def parse(self, request: object) -> list[Item]:
        """Parse the items of a decoded JSON request: see `edgeml_runtime.requests`.

        Raises:
            UsageError: `input-invalid`.
        """
        return requests.parse(request, self.manifest)

    def predict(self, items: Sequence[Item], stopped: Callable[[], bool] = lambda: False) -> list[Answer]:
        """Answer each item, in order.

        Items share a run where the model takes batches. A dynamically quantized model scales its activations over the
        whole run, so the last digits of an answer may depend on the other items.

        Args:
            items: of the model's kind.
            stopped: whether the client has left; checked between the tokens of a generated text and between the windows
                of a long context.

        Raises:
            UsageError: `input-invalid`, when an item is of another kind or too large, or there are too many;
                `prompt-too-long`.
            DeviceError: `runtime-failed`.
            TransportError: `client-left`, when `stopped` is true.
        """
        answers = list[Answer]()
        for part in self.predict_runs(items, stopped):
            if isinstance(part, Sequence):
                answers += part
            elif stopped():
                raise TransportError("client-left", "the client left before the text was complete")
            else:
                self.read([part])
        return answers

    def predict_runs(
        self, items: Sequence[Item], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Sequence[Answer] | Conversation]:
        """Answer each item, in order, one run after the other; between two of them the model may be used for others.

        Yields:
            Answers, or a conversation, which `read` must let read before the next step.

        Raises:
            As `predict`.
        """
        requests.check_count(len(items))
        yield from self._runs(items, stopped)

    def generate(self, prompt: Prompt | Chat) -> Iterator[TokenDelta]:
        """Answer token by token; each is computed when the caller takes it.

        Raises:
            UsageError: `input-invalid`, when the model generates no text or has no chat template; `prompt-too-long`.
            DeviceError: `runtime-failed`.
        """
        deltas = deque[TokenDelta]()
        steps = self.write(prompt, deltas.append)
        return self._deltas(steps, deltas)

    def write(self, prompt: Prompt | Chat, emit: Callable[[TokenDelta], object]) -> Generator[Conversation]:
        """Answer in steps, so that other conversations may be written at the same time.

        Args:
            prompt: of the answer.
            emit: called with each token.

        Yields:
            The conversation, which `read` must let read before the next step.

        Raises:
            As `generate`.
        """
        begin = self.prepare([prompt]).begin if isinstance(self.manifest.preprocess, PromptInput) else None
        if begin is None:
            raise UsageError("input-invalid", f"the model {self.manifest.name!r} generates no text")
        return self._steps(begin, emit)

    def read(self, conversations: Sequence[Conversation]) -> None:
        """Let conversations of this model read; those that write share a run: see `Rounds.read`.

        Raises:
            DeviceError: `runtime-failed`.
        """
        if conversations:
            conversations[0].rounds.read(conversations)

    def close(self) -> None:
        """Free the model."""
        self.session.close()

    def run(self, items: Sequence[Item], prepared: Prepared) -> dict[str, Array]:
        """Run the prepared tensors of some items, and call `observed`.

        Args:
            items: of one run; empty where a client made the tensors.
            prepared: from these items.

        Raises:
            UsageError, DeviceError, RejectedError: as for `infer`, or `infer_given` where the tensors are the client's.
        """
        running = self.run_slices(items, prepared)
        while True:
            try:
                next(running)
            except StopIteration as done:
                outputs: dict[str, Array] = done.value
                return outputs

    def run_slices(self, items: Sequence[Item], prepared: Prepared) -> Generator[None, None, dict[str, Array]]:
        """Do the same in slices of many rows, where the model takes them, which bounds the memory of a run.

        Yields:
            Nothing, between two slices: the model may be used for others.

        Raises:
            UsageError, DeviceError, RejectedError: as for `run`.
        """
        is_given = not items or isinstance(self.manifest.preprocess, TensorInput)
        infer = self.infer_given if is_given else self.infer
        parts = tensors.slices(prepared.tensors, BATCH_MAX, SLICE_BYTES) if self.stacks else [prepared.tensors]
        if len(parts) > 1:
            tensors.check_inputs(self.manifest.inputs, prepared.tensors)  # by the client's own shapes
        done: list[dict[str, Array]] = []
        for part in parts:
            done.append(infer(part))
            rows = len(next(iter(part.values())))
            if len(parts) > 1 and any(it.shape[:1] != (rows,) for it in done[-1].values()):
                done = [infer(prepared.tensors)]  # its outputs have no row for each row
                break
            if len(done) < len(parts):
                yield
        outputs = done[0] if len(done) == 1 else {name: np.concatenate([it[name] for it in done]) for name in done[0]}
        self._observe(items, prepared, outputs)
        return outputs

    def run_together(self, runs: Sequence[tuple[Sequence[Item], Prepared]]) -> list[dict[str, Array]]:
        """Do several runs as one where shapes allow it, else one after the other."""
        together = tensors.stack([prepared.tensors for _, prepared in runs], BATCH_MAX) if self.stacks else None
        if together is None:
            return [self.run(*one) for one in runs]
        inputs, rows = together
        parts = tensors.unstack(self.infer_given(inputs), rows)
        if parts is None:
            return [self.run(*one) for one in runs]
        for (items, prepared), outputs in zip(runs, parts, strict=True):
            self._observe(items, prepared, outputs)
        return parts

    def _observe(self, items: Sequence[Item], prepared: Prepared, outputs: Mapping[str, Array]) -> None:
        if items:
            self.observed(Run(items, prepared, outputs))

    def _runs(self, items: Sequence[Item], stopped: Callable[[], bool]) -> Iterator[Sequence[Answer] | Conversation]:
        if self.stacks and isinstance(self.manifest.preprocess, TensorInput) and len(items) > 1:
            yield from self._answers_stacked(items)
            return
        for start in range(0, len(items), self._run_items):
            together = items[start : start + self._run_items]
            prepared = self.prepare(together)
            if prepared.begin:
                deltas = list[TokenDelta]()
                yield from self._steps(prepared.begin, deltas.append)
                yield [tasks.join(deltas)]
            elif prepared.answer:
                yield [prepared.answer(self.session, stopped)]
            else:
                yield list(self._answers_of_run(together, prepared, stopped))

    def _answers_stacked(self, items: Sequence[Item]) -> Iterator[Sequence[Answer]]:
        spec = self.manifest.postprocess
        task: Any = table.TASKS[type(spec)]
        for start in range(0, len(items), BATCH_MAX):
            runs = [((item,), self.prepare((item,))) for item in items[start : start + BATCH_MAX]]
            outputs_of_runs = self.run_together(runs)
            yield [task(row, spec) for outputs in outputs_of_runs for row in self._rows(outputs, [None])]

    def _infer_unless(self, stopped: Callable[[], bool], inputs: Mapping[str, Array]) -> dict[str, Array]:
        if stopped():
            raise TransportError("client-left", "the client left before all of the context was read")
        return self.infer(inputs)

    def _steps(
        self, begin: Callable[[Session], Conversation], emit: Callable[[TokenDelta], object]
    ) -> Generator[Conversation]:
        with closing(begin(self.session)) as conversation:
            while not conversation.finished:
                yield conversation
                if delta := conversation.write():
                    self.wrote()
                    emit(delta)

    def _deltas(self, steps: Generator[Conversation], deltas: deque[TokenDelta]) -> Iterator[TokenDelta]:
        with closing(steps):
            for conversation in steps:
                while deltas:
                    yield deltas.popleft()
                self.read([conversation])
            yield from deltas

    def _answers_of_run(
        self, items: Sequence[Item], prepared: Prepared, stopped: Callable[[], bool]
    ) -> Iterator[Answer]:
        outputs = self.run(items, prepared)
        if prepared.further:
            yield from prepared.further(outputs, partial(self._infer_unless, stopped))
            return
        spec = self.manifest.postprocess
        task: Any = table.TASKS[type(spec)]
        for row in self._rows(outputs, prepared.about):
            yield task(row, spec)

    def _rows(self, outputs: Mapping[str, Array], about: Sequence[ItemInfo]) -> list[Row]:
        if isinstance(self.manifest.preprocess, TensorInput) and isinstance(self.manifest.postprocess, TensorOutput):
            return [Row(outputs=outputs)]  # tensors in, tensors out: whole, with the request's own batch dimension
        return tasks.rows(outputs, about, self.manifest.postprocess)
