// What openai's client for Node.js does.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { run, version } from "./calls.mjs";

const QUESTION = [{ role: "user", content: "Where is the valve?" }];
const ANSWER = "In hall two, on the left.";
const GREEDY = { model: "chat", temperature: 0 };
const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

await run(`openai (npm) ${version("openai")}`, {
  "models: list, retrieve": async (url) => {
    const names = [];
    for await (const model of client(url).models.list()) names.push(model.id);
    assert.deepEqual(names.sort(), ["calls", "chat", "meaning", "mood", "recognizer", "tiny"]);
    assert.equal((await client(url).models.retrieve("chat")).owned_by, "edgeml");
  },
  "chat completion, whole, as a stream and through the stream helper": async (url) => {
    const asking = client(url).chat.completions;
    assert.equal((await asking.create({ messages: QUESTION, ...GREEDY })).choices[0].message.content, ANSWER);
    let text = "";
    for await (const chunk of await asking.create({ messages: QUESTION, stream: true, ...GREEDY })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    assert.equal(text, ANSWER);
    assert.equal(await asking.stream({ messages: QUESTION, ...GREEDY }).finalContent(), ANSWER);
  },
  "responses, whole and as a stream": async (url) => {
    const asking = client(url).responses;
    const body = { input: "Where is the valve?", ...GREEDY };
    assert.equal((await asking.create(body)).output_text, ANSWER);
    let text = "";
    let last;
    for await (const event of await asking.create({ stream: true, ...body })) {
      text += event.type === "response.output_text.delta" ? event.delta : "";
      last = event.type;
    }
    assert.deepEqual([text, last], [ANSWER, "response.completed"]);
  },
  "completion": async (url) => {
    const made = await client(url).completions.create({ prompt: "Water boils at", max_tokens: 30, ...GREEDY });
    assert.equal(made.choices[0].text, " one hundred degrees.");
  },
  "embeddings": async (url) => {
    const made = await client(url).embeddings.create({ model: "meaning", input: ["good film", "bad"] });
    assert.deepEqual(made.data.map((it) => it.embedding.length), [2, 2]);
  },
  "errors: unknown model, what isn't done": async (url) => {
    const asking = client(url).chat.completions;
    await assert.rejects(asking.create({ model: "other", messages: QUESTION }), { status: 404, code: "model_not_found" });
    await assert.rejects(asking.create({ ...GREEDY, messages: QUESTION, n: 9 }), { status: 400, param: "n" });
  },
});
