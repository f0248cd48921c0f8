// What Vercel's AI SDK does: with its provider for OpenAI by default, which asks /v1/responses, and for like servers.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, embedMany, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { run, version } from "./calls.mjs";

const PROMPT = "Where is the valve?";
const ANSWER = "In hall two, on the left.";
const openai = (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const compatible = (url) => createOpenAICompatible({ name: "board", baseURL: `${url}/v1` });
const greedy = (model, more = {}) => ({ model, prompt: PROMPT, temperature: 0, maxRetries: 0, ...more });

async function streamed(model) {
  let text = "";
  const result = streamText({ ...greedy(model), onError: ({ error }) => { throw error; } });
  for await (const piece of result.textStream) text += piece;
  return [text, await result.finishReason, (await result.usage).outputTokens > 5];
}

await run(`ai ${version("ai")}, @ai-sdk/openai ${version("@ai-sdk/openai")}`, {
  "openai(...) by its default, the Responses API: text, stream": async (url) => {
    const { text, finishReason, usage } = await generateText(greedy(openai(url)("chat")));
    assert.deepEqual([text, finishReason, usage.outputTokens > 5], [ANSWER, "stop", true]);
    assert.deepEqual(await streamed(openai(url)("chat")), [ANSWER, "stop", true]);
  },
  "openai(...): a conversation with a system's message, an end by length": async (url) => {
    const messages = [
      { role: "user", content: PROMPT },
      { role: "assistant", content: ANSWER },
      { role: "user", content: "When did it stop?" },
    ];
    const model = openai(url)("chat");
    const later = await generateText({ model, messages, temperature: 0, maxRetries: 0 });
    assert.equal(later.text, "At a quarter past five.");
    const brief = await generateText(greedy(model, { system: "Be brief.", prompt: "When did it stop?" }));
    assert.equal(brief.text, "At a quarter past five.");
    assert.equal((await generateText(greedy(model, { maxOutputTokens: 2 }))).finishReason, "length");
  },
  "openai(...): a tool that it executes, and the answer then": async (url) => {
    const inputSchema = jsonSchema({
      type: "object",
      properties: { pump: { type: "integer" }, unit: { enum: ["C", "F"] } },
      required: ["pump", "unit"],
      additionalProperties: false,
    });
    const asked = [];
    const execute = (input) => { asked.push(input); return { degrees: 41 }; };
    const { text } = await generateText({
      ...greedy(openai(url)("calls")),
      prompt: "How warm is pump one?",
      tools: { read_pump: tool({ description: "The state of a pump", inputSchema, execute }) },
      stopWhen: stepCountIs(2),
      providerOptions: { openai: { store: false } },
    });
    assert.deepEqual(asked, [{ pump: 1, unit: "C" }]);
    assert.match(text, /41 degrees/);
  },
  "openai.chat(...), openai.completion(...), openai.embedding(...)": async (url) => {
    assert.equal((await generateText(greedy(openai(url).chat("chat")))).text, ANSWER);
    const completion = greedy(openai(url).completion("chat"), { maxOutputTokens: 30 });
    assert.equal(typeof (await generateText(completion)).text, "string");
    assert.equal((await embed({ model: openai(url).embedding("meaning"), value: "good film" })).embedding.length, 2);
  },
  "errors: unknown model, what isn't done": async (url) => {
    await assert.rejects(generateText(greedy(openai(url)("other"))), /no model 'other'/);
    const tools = { providerOptions: { openai: { previousResponseId: "resp_1" } } };
    await assert.rejects(generateText(greedy(openai(url)("chat"), tools)), /previous_response_id/);
  },
});
await run(`ai ${version("ai")}, @ai-sdk/openai-compatible ${version("@ai-sdk/openai-compatible")}`, {
  "text, stream, completion, embeddings": async (url) => {
    assert.equal((await generateText(greedy(compatible(url)("chat")))).text, ANSWER);
    assert.equal((await streamed(compatible(url)("chat")))[0], ANSWER);
    const completion = greedy(compatible(url).completionModel("chat"), { maxOutputTokens: 30 });
    assert.equal(typeof (await generateText(completion)).text, "string");
    const many = await embedMany({ model: compatible(url).embeddingModel("meaning"), values: ["good film", "bad"] });
    assert.deepEqual(many.embeddings.map((it) => it.length), [2, 2]);
  },
});
