// A language model: its text comes in pieces, and can be stopped. With a chat template it is a conversation.

import { Refused, ask, events, post } from "./client.js";
import { kept } from "./conversation.js";
import { h, hasKeyboard, labelled } from "./dom.js";
import { milliseconds, perSecond } from "./figures.js";

const SAMPLE_PROMPT = "Water boils at";
const SAMPLE_MESSAGE = "What should I do when the pump stops?";
const TOKENS = { prompt: 64, chat: 256 };
const AT_END_PX = 40; // a log that is scrolled so near to its end follows the answer

const STREAM = { stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
const ENDINGS = { stop: "ended by itself", length: "as long as allowed" };

const number = (value, attributes) => {
  const made = h("input", { type: "number", ...attributes });
  made.value = value;
  return made;
};

export const talk = (model, changed) => (model.chats ? chat : completion)(model, changed);

/** The beginning of a text, which the model continues. */
function completion(model, changed) {
  const options = settings(TOKENS.prompt, changed);
  const control = h("textarea", { rows: 4, spellcheck: "false", oninput: changed });
  control.value = SAMPLE_PROMPT;
  const pane = scrolled("Text");
  const call = () => ({ path: "v1/completions", json: { model: model.name, prompt: control.value, ...options.values(), ...STREAM } });

  async function send(signal) {
    const request = call();
    const answer = h("span", { class: "turn assistant", "aria-busy": "true" });
    pane.begin(h("p", { class: "turn" }, h("span", { class: "given" }, request.json.prompt), answer));
    try {
      return await streamed(request, signal, (text) => pane.add(answer, text));
    } finally {
      answer.setAttribute("aria-busy", "false");
      if (answer.textContent) pane.finish({ alone: true });
      else pane.discard();
    }
  }

  return {
    element: h("div", {}, pane.element, labelled("Prompt", control)),
    below: options.element,
    call,
    isReady: () => control.value.trim() !== "" && options.areValid(),
    send,
    focus: () => control.focus(),
  };
}

/** A conversation; each message takes the earlier ones along. */
function chat(model, changed) {
  const options = settings(TOKENS.chat, changed);
  const turns = kept(model.name);
  const control = h("textarea", { rows: 2, spellcheck: "false", oninput: changed, onkeydown: typed });
  control.value = turns.all.length ? "" : SAMPLE_MESSAGE;
  const pane = scrolled("Conversation");
  const forget = h("button", { type: "button", hidden: !turns.all.length, onclick: clear }, "New conversation");
  const user = (content) => h("p", { class: "turn user" }, speaker("You"), content);
  const assistant = (...content) => h("p", { class: "turn assistant" }, speaker(model.name), content);
  pane.show(turns.all.map(({ role, content }) => (role === "user" ? user(content) : assistant(content.trimStart()))));

  const asked = (message) => ({
    path: "v1/chat/completions",
    json: { model: model.name, messages: [...turns.all, { role: "user", content: message }], ...options.values(), ...STREAM },
  });

  function typed(event) {
    if (!hasKeyboard() || event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.isComposing) return;
    event.preventDefault();
    control.form.requestSubmit();
  }

  function clear() {
    turns.forget();
    pane.show([]);
    forget.hidden = true;
    control.focus();
    changed();
  }

  async function send(signal) {
    const message = control.value;
    const request = asked(message);
    let content = "";
    const shown = h("span");
    const answer = assistant(shown);
    answer.setAttribute("aria-busy", "true");
    pane.begin(user(message), answer);
    control.value = "";
    forget.hidden = true;
    changed();
    try {
      return await streamed(request, signal, (text) => {
        content += text;
        pane.add(shown, shown.textContent ? text : text.trimStart()); // a model's first token often begins with a space
      });
    } finally {
      answer.setAttribute("aria-busy", "false");
      if (content) {
        turns.add({ role: "user", content: message }, { role: "assistant", content });
        pane.finish();
      } else {
        pane.discard();
        control.value ||= message;
      }
      forget.hidden = !turns.all.length;
      changed();
    }
  }

  return {
    element: h("div", {}, pane.element, labelled("Message", control, hasKeyboard() && "Enter sends, Shift+Enter begins a line, Escape stops.")),
    extra: forget,
    below: options.element,
    call: () => asked(control.value),
    isReady: () => control.value.trim() !== "" && options.areValid(),
    send,
    focus: () => control.focus(),
  };
}

const speaker = (name) => h("span", { class: "visually-hidden" }, `${name}: `);

/** The options of an answer: {element, values, areValid}. */
function settings(tokens, changed) {
  const most = number(tokens, { min: 1, max: 1024, oninput: changed });
  const warmth = number(0, { min: 0, max: 2, step: 0.1, oninput: changed });
  const seed = number(0, { min: 0, step: 1, oninput: changed });
  return {
    element: h(
      "details",
      { class: "settings" },
      h("summary", {}, "Settings"),
      h("div", { class: "row" }, labelled("Tokens at most", most), labelled("Temperature", warmth), labelled("Seed", seed)),
    ),
    values: () => ({ max_tokens: most.valueAsNumber, temperature: warmth.valueAsNumber, seed: seed.valueAsNumber }),
    areValid: () => [most, warmth, seed].every((it) => it.checkValidity() && it.value !== ""),
  };
}

/**
 * Texts in a pane that follows its end. A screen reader hears each when it is finished, and no token by itself: the
 * answer that is being written stands outside of the live region, and moves into it as a whole.
 */
function scrolled(label) {
  const finished = h("div", { class: "finished", role: "log", "aria-label": label });
  const current = h("div", { class: "current", "aria-live": "off" });
  const element = h("div", { class: "turns", tabindex: 0, hidden: true, "aria-label": label, role: "group" }, finished, current);
  const follow = () => (element.scrollTop = element.scrollHeight);
  const isAtEnd = () => element.scrollHeight - element.scrollTop - element.clientHeight < AT_END_PX;
  const hide = () => (element.hidden = !finished.hasChildNodes() && !current.hasChildNodes());
  return {
    element,
    show: (texts) => {
      finished.replaceChildren(...texts);
      hide();
      requestAnimationFrame(follow);
    },
    begin: (...texts) => {
      current.replaceChildren(...texts);
      hide();
      follow();
    },
    add: (shown, text) => {
      const wasAtEnd = isAtEnd();
      shown.append(text);
      if (wasAtEnd) follow();
    },
    finish: ({ alone = false } = {}) => {
      const wasAtEnd = isAtEnd();
      if (alone) finished.replaceChildren(...current.childNodes);
      else finished.append(...current.childNodes);
      if (wasAtEnd) follow();
    },
    discard: () => {
      current.replaceChildren();
      hide();
    },
  };
}

/**
 * Sends a call, gives each piece of its answer's text to `add`, and returns how it went, in words.
 *
 * The rate is that of the tokens after the first one, whose time is its own: it has the wait and the prompt in it.
 */
async function streamed({ path, json }, signal, add) {
  const begun = performance.now();
  const seen = { firstMs: 0, lastMs: 0, firstTokens: 0, tokens: 0, finish: "stopped" };
  try {
    for await (const { error, usage, choices } of events(await ask(path, post(json, { signal })))) {
      if (error) throw new Refused(0, error);
      for (const { delta, text, finish_reason } of choices) {
        seen.lastMs = performance.now() - begun;
        seen.firstMs ||= seen.lastMs;
        seen.tokens = usage.completion_tokens;
        seen.firstTokens ||= seen.tokens;
        seen.finish = finish_reason ?? seen.finish;
        add(delta?.content ?? text ?? "");
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
  return inWords(seen);
}

function inWords({ firstMs, lastMs, firstTokens, tokens, finish }) {
  if (!tokens) return "stopped before the first token";
  const rate = (1000 * (tokens - firstTokens)) / (lastMs - firstMs);
  const speed = tokens > firstTokens && lastMs > firstMs ? `, then ${perSecond(rate, "tokens")}` : "";
  return `First token after ${milliseconds(firstMs)}${speed}; ${tokens} in ${milliseconds(lastMs)}, ${ENDINGS[finish] ?? finish}`;
}
