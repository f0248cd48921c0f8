// One model: its figures, its last latencies, a form to try it, and the same call as a program.

import { drawn } from "./answers.js";
import { askJson, hasToken, post } from "./client.js";
import { LANGUAGES } from "./code.js";
import { h, hasKeyboard } from "./dom.js";
import { count, milliseconds, percent, size } from "./figures.js";
import { form } from "./forms.js";
import { plot } from "./plot.js";
import { talk } from "./talk.js";

const STATES = {
  live: ["live", "answers from memory"],
  resting: ["resting", "without memory; the next request loads it"],
  unloaded: ["unloaded", "an operator unloaded it"],
};
const COPIED_SHOWN_MS = 1500;

export const pill = (state) => h("span", { class: `pill ${state}`, title: STATES[state][1] }, STATES[state][0]);

/** The panel of a model: {element, update, isBusy, close}; closing it ends the answer that is being written. */
export function panel(model) {
  const state = h("span");
  const figures = h("dl", { class: "figures" });
  const latencies = h("div");
  const tryIt = tried(model, h("section", { "aria-label": "Last requests" }, h("h2", {}, "Last requests"), latencies));
  const element = h(
    "article",
    {},
    h("div", { class: "title" }, h("h1", {}, model.name), h("span", { class: "version" }, model.version), state),
    h("p", { class: "subtitle" }, [model.task, model.target, model.deployment].filter(Boolean).join(" · ")),
    figures,
    tryIt.element,
    warnings(model),
  );
  let lastShown = "";
  function update(now) {
    state.replaceChildren(pill(now.state));
    const shown = JSON.stringify([now.requests.last_ms, now.requests.waiting, now.requests.answered, now.requests.failed]);
    if (shown === lastShown) return;
    lastShown = shown;
    figures.replaceChildren(...tiles(now));
    latencies.replaceChildren(plot(now.requests.last_ms));
  }
  update(model);
  return { element, update, isBusy: tryIt.isBusy, close: tryIt.close };
}

function tiles({ card, ram_bytes, runtime, format, threads, requests }) {
  const share = card.baseline_size_bytes ? `${percent(card.size_bytes / card.baseline_size_bytes)} of fp32` : "";
  const tile = (name, value, note, title) => h("div", { title }, h("dt", {}, name), h("dd", {}, value, note && h("small", {}, note)));
  return [
    tile("Size", size(card.size_bytes), share),
    tile(`Cosine to ${card.against}`, card.cosine.toFixed(4), `recipe ${card.recipe}`),
    card.accuracy && tile(card.accuracy.metric, ...compared(card.accuracy)),
    tile("Memory", size(ram_bytes), "by its manifest"),
    tile("Runtime", runtime, `${format}, ${count(threads, "thread")}`),
    tile("Answered", requests.answered.toLocaleString("en"), said(requests)),
  ].filter(Boolean);
}

function compared({ is_share, before, after, rows, summary }) {
  const written = (value) => (is_share ? percent(value) : value.toFixed(2));
  return [written(after), `fp32 ${written(before)}, ${count(rows, "row")}`, summary];
}

const said = ({ failed, left, waiting }) => `${failed} failed, ${left ? `${left} cancelled, ` : ""}${waiting} waiting`;

const warnings = ({ card }) =>
  card.warnings.length ? h("section", {}, h("h2", {}, "Warnings of its export"), h("ul", {}, card.warnings.map((it) => h("li", {}, it)))) : null;

function tried(model, below) {
  const predict = `v1/models/${encodeURIComponent(model.name)}/predict`;
  const asked = (model.takes === "prompt" ? talk : form)(model, () => changed());
  const said = h("p", { class: "said", role: "status" });
  const answer = h("div", { "aria-live": "polite" });
  const send = h("button", { class: "primary", type: "submit", title: "Ctrl+Enter" }, "Ask");
  const stop = h("button", { type: "button", hidden: true, onclick: () => going?.abort() }, "Stop");
  const shown = program(predict);
  let going = null;

  async function changed() {
    send.disabled = going !== null || !asked.isReady();
    shown.show(await asked.call());
  }

  async function one(signal) {
    const begun = performance.now();
    const call = await asked.call();
    const { json, file } = call;
    const sent = file ? { method: "POST", headers: { "content-type": file.type }, body: file, signal } : post(json, { signal });
    const { version, outputs } = await askJson(predict, sent);
    answer.replaceChildren(drawn(outputs, call));
    return `${milliseconds(performance.now() - begun)}, network included; version ${version}`;
  }

  async function submit(event) {
    event.preventDefault();
    if (going || !asked.isReady()) return;
    going = new AbortController();
    const wasByButton = document.activeElement === send;
    stop.hidden = false;
    send.disabled = true;
    if (wasByButton) stop.focus(); // a disabled button would lose the focus
    said.classList.remove("problem");
    said.textContent = "Asking…";
    try {
      said.textContent = await (asked.send ?? one)(going.signal);
    } catch (error) {
      said.textContent = error.name === "AbortError" ? "Stopped" : refused(error);
      said.classList.toggle("problem", error.name !== "AbortError");
    }
    going = null;
    const hadFocus = document.activeElement === stop;
    stop.hidden = true;
    await changed();
    if (hadFocus) focusNext();
    document.dispatchEvent(new CustomEvent("asked"));
  }

  /** Where a person goes on after an answer; on a touch screen no field takes the focus, which would open a keyboard. */
  function focusNext() {
    if (!send.disabled) send.focus();
    else if (asked.focus && hasKeyboard()) asked.focus();
  }

  function pressed(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
    if (event.key === "Escape") going?.abort();
  }

  const made = h(
    "form",
    { class: "try", onsubmit: submit, onkeydown: pressed },
    asked.element,
    h("div", { class: "row" }, send, stop, asked.extra, said),
    asked.below,
    answer,
  );
  changed();
  const call = h("section", { "aria-label": "The same call" }, h("h2", {}, "The same call"), shown.element);
  const element = h(
    "div",
    { class: "two" },
    h("section", { "aria-label": "Try it" }, h("h2", {}, "Try it"), made),
    h("div", { class: "stack" }, call, below),
  );
  return { element, isBusy: () => going !== null, close: () => going?.abort() };
}

function refused({ message, hint, retryAfterS }) {
  const again = retryAfterS ? ` Try again in ${retryAfterS} s.` : "";
  return `${message}${hint && !retryAfterS ? ` (${hint})` : ""}${again}`;
}

/** The call as a program in each language, and a button that copies it. */
function program(predict) {
  const code = h("pre", { class: "program", tabindex: 0 });
  const names = Object.keys(LANGUAGES);
  let chosen = names[0];
  let call = null;
  const radios = names.map((name) =>
    h(
      "label",
      {},
      h("input", { type: "radio", name: "language", checked: name === chosen, class: "visually-hidden", onchange: () => choose(name) }),
      h("span", {}, name),
    ),
  );
  const copy = h("button", { type: "button", onclick: copied }, "Copy");
  const draw = () => (code.textContent = LANGUAGES[chosen](call, new URL(call.path ?? predict, document.baseURI).href, hasToken()));
  function choose(name) {
    chosen = name;
    draw();
  }
  async function copied() {
    copy.textContent = (await write(code)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (copy.textContent = "Copy"), COPIED_SHOWN_MS);
  }
  return {
    element: h("div", {}, h("div", { class: "row" }, h("div", { class: "choice", role: "radiogroup", "aria-label": "Language" }, radios), copy), code),
    show: (given) => {
      call = given;
      draw();
    },
  };
}

/** Browsers give the clipboard to pages from this machine or over TLS; elsewhere the text is selected and copied. */
async function write(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}
