"""The chat API over real models: one message in, one reply out, nothing kept between two requests."""

import asyncio

from tests.integration.test_openai import ANSWER, asked
from tests.integration.test_serving import TOKEN, server, unpacked
from tests.support import task_models, tiny_chat

from edgeml_agent.http_api.auth import Rules
from edgeml_core.processing import ChatTemplate
from edgeml_runtime import requests

ASKED = "Who checks the filter?"
OTHER, OTHER_ANSWER = next((it, answer) for it, answer in tiny_chat.FACTS.items() if it != ASKED)
#: Messages stand one after the other, without a word between them.
TEMPLATE = ChatTemplate(between={"": {"user": ""}, "user": {"": "", "assistant": " "}, "assistant": {"user": " "}})
TURNS = [{"role": "user", "content": OTHER}, {"role": "assistant", "content": OTHER_ANSWER}]


def made(folder, name, task, **options):
    """The folder of a tiny model's files, and its manifest."""
    (folder / name).mkdir()
    return unpacked(folder / name, task_models.bundle, task=task, name=name, **options)


def test_a_message_is_replied_to(chatting):
    """The model that chats is found by itself; its reply is the one that OpenAI's clients get, in any conversation."""
    conversation = [*TURNS, {"role": "user", "content": ASKED}]
    first, with_history, expected, cut = asked(
        chatting,
        ("/chat", {"text": ASKED}),
        ("/chat", {"text": ASKED, "model": "chat", "history": TURNS}),
        ("/v1/chat/completions", {"model": "chat", "messages": conversation, "temperature": 0, "max_tokens": 256}),
        ("/chat", {"text": ASKED, "max_new_tokens": 2, "logprobs": 0}),
    )
    assert first.json() == {"reply": ANSWER}
    assert with_history.json()["reply"] == expected.json()["choices"][0]["message"]["content"]
    assert (cut.json()["finish"], len(cut.json()["logprobs"])) == ("length", 2)
    assert ANSWER.startswith(cut.json()["reply"])


BAD = {
    "input-invalid": [{}, [], {"text": 1}, {"text": "x", "prompt": "y"}, {"text": "x", "history": [{"role": "user"}]},
                      {"text": "x", "history": [TURNS[0]] * requests.MESSAGES_MAX}, {"text": "x", "max_new_tokens": 0},
                      {"text": "x" * (requests.TEXT_MAX_CHARS + 1)}, {"text": "x", "history": [TURNS[0]]},
                      {"text": "x", "model": "mood"}],
    "prompt-too-long": [{"text": "then " * 600}],
    "model-unknown": [{"text": "x", "model": "absent"}],
}  # fmt: skip


def test_what_can_not_be_answered_is_refused(tmp_path):
    """Each by the code that its other APIs have; the model then answers the next one."""
    bodies = [(code, body) for code, some in BAD.items() for body in some]

    async def main():
        async with server() as (models, client):
            await models.activate("mood", *made(tmp_path, "mood", "text-classification"))
            await models.activate("nurse", *made(tmp_path, "nurse", "text-generation", chat=TEMPLATE))
            sent = [*(body for _, body in bodies), {"text": "what should i do ?"}]
            return [await client.post("/chat", json=body) for body in sent]

    *refused, last = asyncio.run(main())
    assert [it.json()["error"]["code"] for it in refused] == [code for code, _ in bodies]
    assert last.json()["reply"].strip().startswith("check the valve")


def test_without_a_name_one_model_must_chat(tmp_path):
    """Not a classifier, not one that an operator unloaded; of several the error names all."""

    async def main():
        async with server() as (models, client):

            async def reply():
                return (await client.post("/chat", json={"text": "what should i do ?"})).json()

            await models.activate("mood", *made(tmp_path, "mood", "text-classification"))
            said = [await reply()]
            for name in ("nurse", "doctor"):
                await models.activate(name, *made(tmp_path, name, "text-generation", chat=TEMPLATE))
            said.append(await reply())
            for name in ("doctor", "nurse"):
                await models.unload(name)
                said.append(await reply())
            return said

    none, several, one, unloaded = asyncio.run(main())
    assert none["error"]["code"] == unloaded["error"]["code"] == "model-unknown"
    assert several["error"]["code"] == "input-invalid"
    assert several["error"]["message"].endswith("doctor, nurse")
    assert one["reply"].strip().startswith("check the valve")


def test_the_chat_wants_the_token_and_json(tmp_path):
    """As all APIs that give something away, or cost something."""

    async def main():
        async with server(rules=Rules(local_only=False, token=TOKEN)) as (_, client):
            bare = await client.post("/chat", json={"text": "x"})
            known = {"authorization": f"Bearer {TOKEN}"}
            picture = await client.post("/chat", content=b"x", headers=known | {"content-type": "image/png"})
            return bare, picture, await client.get("/chat", headers=known)

    bare, picture, got = asyncio.run(main())
    assert (bare.status_code, picture.status_code, got.status_code) == (401, 415, 405)
