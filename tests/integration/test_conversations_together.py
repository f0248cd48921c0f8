"""Conversations written at the same time: each has the tokens that it has alone, whatever the others do."""

import asyncio
import random
from contextlib import closing

import numpy as np
import onnx
import pytest
from tests.integration.test_language_models import NEW, PROMPTS, continued
from tests.integration.test_openai import LONG, serving
from tests.support.waiting import until

from edgeml.quantize.onnx.dynamic import Dynamic
from edgeml.quantize.onnx.graph_pass import run
from edgeml.quantize.onnx.nbits import BlockWeights
from edgeml.quantize.onnx.row_scales import RowScales
from edgeml_core.errors import DeviceError
from edgeml_runtime.generate import cache as caches
from edgeml_runtime.generate import conversation as conversations
from edgeml_runtime.generate.batch import ROWS_MAX, Batch
from edgeml_runtime.generate.cache import CacheMemory, Decoder
from edgeml_runtime.model import Model
from edgeml_runtime.unpack import unpacked
from edgeml_runtime.verify.golden import cosine

ONE_SCALE = Dynamic(signed=True, reduced=False)
RECIPES = {
    "fp32": [],
    "4 bits": [BlockWeights(bits=4)],
    "dynamic int8": [ONE_SCALE, RowScales()],
    "one scale": [ONE_SCALE],
}
#: For tests of recipes whose tokens depend on no other token of a run.
INDEPENDENT = pytest.mark.parametrize("recipe", [it for it in RECIPES if it != "one scale"], indirect=True)
#: Greedy and drawn answers of several lengths.
REQUESTS = [
    *({"prompt": prompt, "max_new_tokens": NEW} for prompt in PROMPTS),
    {"prompt": PROMPTS[0], "max_new_tokens": 25, "temperature": 1.5, "seed": 4, "repetition_penalty": 1.2},
    {"prompt": PROMPTS[3], "max_new_tokens": 9, "temperature": 0.7, "seed": 5, "top_k": 20, "logprobs": 2},
    {"prompt": "The", "max_new_tokens": 60, "temperature": 2.0, "seed": 6},
    {"prompt": PROMPTS[1] + PROMPTS[2], "max_new_tokens": 3},
    {"prompt": "T", "max_new_tokens": 1},
    {"prompt": "C", "max_new_tokens": 30},
]


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request):
    """The name of a recipe."""
    return request.param


@pytest.fixture(scope="module")
def opened(chatting, recipe, tmp_path_factory):
    """A function that loads the model that chats, by the recipe."""
    path = tmp_path_factory.mktemp("quantized") / "model.onnx"
    with unpacked(chatting[1].path) as bundle:
        onnx.save(run(RECIPES[recipe], onnx.load(bundle.folder / bundle.manifest.model)), path)
        yield lambda: Model.open(bundle.folder, bundle.manifest, threads=1, path=path)


class Written:
    """The answer to a request, step by step."""

    def __init__(self, model, request):
        (item,) = model.parse(request)
        self.deltas = []
        self.steps = model.write(item, self.deltas.append)
        self.conversation = next(self.steps)

    def step(self):
        """Take the next step."""
        self.conversation = next(self.steps, None)


def alone(model, request):
    """The tokens of an answer that no other one is written beside."""
    (item,) = model.parse(request)
    return list(model.generate(item))


def together(model, requests, seed, leaving=(), joining=0.3):
    """The tokens of each request, begun at random moments; some clients leave after a few tokens."""
    chance = random.Random(seed)  # noqa: S311 -- not for secrets
    waiting = chance.sample(range(len(requests)), len(requests))
    running, done = {}, {}
    while waiting or running:
        while waiting and len(running) < ROWS_MAX and (not running or chance.random() < joining):
            number = waiting.pop()
            running[number] = Written(model, requests[number])
        model.read([it.conversation for it in running.values()])
        for number, written in list(running.items()):
            written.step()
            if written.conversation is None or (number in leaving and len(written.deltas) > 2):
                written.steps.close()
                done[number] = running.pop(number).deltas
    return [done[number] for number in range(len(requests))]


def nearly(deltas):
    """All but the last digits of log probabilities."""
    return [(it.text, it.finish, it.tokens, it.prompt_tokens) for it in deltas]


@pytest.mark.parametrize("seed", [1, 2])
def test_conversations_that_join_and_leave_have_the_tokens_that_they_have_alone(opened, recipe, seed, monkeypatch):
    """Of several lengths, in caches that grow, with clients that leave amid their answers."""
    monkeypatch.setattr(caches, "GROWTH_TOKENS", 16)
    monkeypatch.setattr(conversations, "PART_TOKENS", 5)
    monkeypatch.setattr(caches.Caches, "keep", lambda *_: None)  # a dynamic scale depends on what was read before
    monkeypatch.setattr(caches.Caches, "take", lambda self, session, _: caches.Cache(self._decoder, session))
    model = opened()
    expected = [nearly(alone(model, request)) for request in REQUESTS]
    leaving = (2, 6)
    for number, deltas in enumerate(together(model, REQUESTS, seed, leaving)):
        found = nearly(deltas)
        assert found == expected[number][: len(found)]
        assert len(found) == len(expected[number]) or number in leaving


@pytest.mark.parametrize("recipe", ["fp32"], indirect=True)
def test_conversations_with_kept_caches_are_continued_as_by_transformers(opened, chatting):
    """Each prompt four times, twice: their caches begin as kept ones and as those in use."""
    import transformers  # noqa: PLC0415 -- for this test alone

    original = transformers.AutoModelForCausalLM.from_pretrained(chatting[0]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(chatting[0])
    model, requests = opened(), REQUESTS[: len(PROMPTS)]
    expected = [continued(original, tokenizer, prompt) for prompt in PROMPTS]
    for seed in range(2):
        found = together(model, requests * 4, seed)
        assert ["".join(it.text for it in deltas) for deltas in found] == expected * 4


def test_rows_share_a_run_unless_a_scale_depends_on_them(opened, recipe):
    """One scale of all rows depends on them."""
    model = opened()
    runs = []
    whole = Batch.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "read", lambda self, *given: runs.append(len(given[0])) or whole(self, *given))
        together(model, REQUESTS, seed=3, joining=1)
    assert Batch(Decoder(model.manifest.inputs, model.manifest.postprocess), model.session).is_possible == bool(runs)
    assert bool(runs) == (recipe != "one scale")
    assert max(runs, default=ROWS_MAX) > ROWS_MAX // 2


@INDEPENDENT
def test_tokens_of_a_prompt_have_the_same_logits_in_all_runs(opened, recipe, chatting):
    """Read at once and one by one; near those of the original."""
    with unpacked(chatting[1].path) as bundle:
        original = Model.open(bundle.folder, bundle.manifest, threads=1)
        ids = list(original.prepare(original.parse({"prompt": PROMPTS[3]})).tensors["input_ids"][0])
        expected = next(_logits(original, [ids]))
    model = opened()
    whole = next(_logits(model, [ids]))
    *_, parts = _logits(model, [[it] for it in ids])
    assert np.allclose(whole, parts, rtol=1e-4, atol=1e-4)
    assert cosine(whole, expected) > (0.9 if recipe == "4 bits" else 0.999)


def _logits(model, parts):
    cache = caches.Cache(Decoder(model.manifest.inputs, model.manifest.postprocess), model.session)
    return (cache.read(part) for part in parts)


def test_conversations_beyond_the_memory_wait_for_earlier_ones(opened, recipe, monkeypatch):
    """They get the same tokens, later."""
    model = opened()
    expected = [nearly(alone(model, request)) for request in REQUESTS[:3]]
    model = opened()
    running = [Written(model, request) for request in REQUESTS[:3]]
    held = running[0].conversation.rounds
    memory = CacheMemory((running[0].conversation.tokens_max + 1) * held._decoder.token_bytes())
    monkeypatch.setattr(held, "_memory", memory)
    while unfinished := [it for it in running if it.conversation]:
        model.read([it.conversation for it in unfinished])
        for written in unfinished:
            written.step()
        assert not any(it.deltas for it in unfinished[1:])
    assert [nearly(it.deltas) for it in running] == expected


@INDEPENDENT
def test_a_run_that_fails_leaves_the_conversations_as_they_were(opened, monkeypatch):
    """The next one gives the tokens that each has alone."""
    model = opened()
    expected = [nearly(alone(model, request)) for request in REQUESTS[:2]]
    running = [Written(model, request) for request in REQUESTS[:2]]
    _finish(model, running, steps=3)
    whole, failures = Decoder.tensors_of_rows, [DeviceError("runtime-failed", "once")]

    def failing(self, *given):
        if failures:
            raise failures.pop()
        return whole(self, *given)

    monkeypatch.setattr(Decoder, "tensors_of_rows", failing)
    with pytest.raises(DeviceError):
        _finish(model, running)
    _finish(model, running)
    assert [nearly(it.deltas) for it in running] == expected


def _finish(model, running, steps=1000):
    for _ in range(steps):
        unfinished = [it for it in running if it.conversation]
        model.read([it.conversation for it in unfinished])
        for written in unfinished:
            written.step()


def test_an_answer_closed_before_its_first_run_leaves_nothing(opened, recipe):
    """Its client left while it waited."""
    model = opened()
    with closing(Written(model, REQUESTS[0]).steps):
        pass
    assert nearly(alone(model, REQUESTS[1])) == nearly(alone(opened(), REQUESTS[1]))


def test_a_client_that_leaves_changes_no_other_answer(chatting, monkeypatch):
    """Five clients at a time; their answers begin together, and one of them leaves amid its own."""
    bodies = [{"model": "chat", "prompt": prompt, "max_tokens": 30, "temperature": 0} for prompt in PROMPTS]
    sizes, whole = [], conversations.Rounds.read

    async def texts(client):
        return [it.json()["choices"][0]["text"] for it in await asyncio.gather(*(ask(client, it) for it in bodies))]

    async def ask(client, body):
        return await client.post("/v1/completions", json=body)

    async def leave(client):
        async with client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
            lines = response.aiter_lines()
            for _ in range(6):
                await anext(lines)

    async def use(models, client):
        expected = [(await ask(client, it)).json()["choices"][0]["text"] for it in bodies]

        def read(self, conversations):
            if not sizes:
                until(lambda: models.active()["chat"].queue_depth == len(bodies) + 1, "all requests")
            sizes.append(len(conversations))
            whole(self, conversations)

        monkeypatch.setattr(conversations.Rounds, "read", read)
        found, _ = await asyncio.gather(texts(client), leave(client))
        await models.run("chat", lambda _: None)
        return found, expected

    found, expected = serving(chatting, use)
    assert found == expected
    assert max(sizes) == len(bodies) + 1
