// A language model: its text comes in pieces, and can be stopped. With a chat template it is a conversation.

import { Refused, ask, events, post } from "./client.js";
import { h, labelled } from "./dom.js";

const SAMPLE_PROMPT = "Water boils at";
const SAMPLE_MESSAGE = "What should I do when the pump stops?";

const STREAM = { stream: true, stream_options: { include_usage: true } };

const number = (value, attributes) => {
  const made = h("input", { type: "number", ...attributes });
  made.value = value;
  return made;
};

export function talk(model, changed) {
  const turns = [];
  const log = h("div", { class: "turns", role: "log", tabindex: 0, "aria-label": "Conversation" });
  const control = h("textarea", { rows: model.chats ? 2 : 4, spellcheck: "false", oninput: changed });
  control.value = model.chats ? SAMPLE_MESSAGE : SAMPLE_PROMPT;
  const most = number(64, { min: 1, max: 1024, oninput: changed });
  const warmth = number(0, { min: 0, max: 2, step: 0.1, oninput: changed });
  const seed = number(0, { min: 0, step: 1, oninput: changed });
  const settings = h(
    "details",
    { class: "settings" },
    h("summary", {}, "Settings"),
    h("div", { class: "row" }, labelled("Tokens at most", most), labelled("Temperature", warmth), labelled("Seed", seed)),
  );
  const forget = h("button", { type: "button", hidden: true, onclick: clear }, "New conversation");

  const options = () => ({ max_tokens: most.valueAsNumber, temperature: warmth.valueAsNumber, seed: seed.valueAsNumber });
  const said = () => [...turns, { role: "user", content: control.value }];
  const json = () =>
    model.chats
      ? { model: model.name, messages: said(), ...options(), ...STREAM }
      : { model: model.name, prompt: control.value, ...options(), ...STREAM };
  const path = model.chats ? "v1/chat/completions" : "v1/completions";

  function clear() {
    turns.length = 0;
    log.replaceChildren();
    forget.hidden = true;
    changed();
  }

  /** Sends, shows each piece as it comes, and notes how it ended. */
  async function send(signal) {
    const request = json();
    const answer = h("p", { class: "turn assistant", "aria-busy": "true" });
    const added = model.chats
      ? [h("p", { class: "turn user" }, control.value), answer]
      : [h("p", { class: "turn" }, h("span", { class: "given" }, request.prompt), answer)];
    if (!model.chats) log.replaceChildren();
    log.append(...added);
    try {
      return await streamed(await ask(path, post(request, { signal })), answer);
    } catch (error) {
      if (error.name === "AbortError") return { tokens: 0, finish: "stopped" };
      if (!answer.textContent) added.forEach((it) => it.remove());
      throw error;
    } finally {
      answer.setAttribute("aria-busy", "false");
      if (model.chats && answer.isConnected) remember(answer.textContent);
    }
  }

  function remember(answer) {
    turns.push({ role: "user", content: control.value }, { role: "assistant", content: answer });
    control.value = "";
    forget.hidden = false;
    changed();
  }

  return {
    element: h("div", {}, log, labelled(model.chats ? "Message" : "Prompt", control), settings),
    extra: forget,
    call: () => ({ path, json: json() }),
    isReady: () => control.value.trim() !== "" && [most, warmth, seed].every((it) => it.checkValidity() && it.value !== ""),
    send,
  };
}

/** Writes the pieces into an element, and reports how it ended. */
async function streamed(response, element) {
  const ended = { tokens: 0, finish: "stopped" };
  for await (const { error, usage, choices } of events(response)) {
    if (error) throw new Refused(0, error);
    if (usage) ended.tokens = usage.completion_tokens;
    for (const { delta, text, finish_reason } of choices) {
      element.append(delta?.content ?? text ?? "");
      element.scrollIntoView?.({ block: "nearest" });
      ended.finish = finish_reason ?? ended.finish;
    }
  }
  return ended;
}
