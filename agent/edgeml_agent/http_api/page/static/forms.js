// Forms for requests to a model, by the kind of its preprocessing.
//
// A form is {element, call, isReady}: `call` gives {json} or {file}, as `code.js` describes it.

import { h, labelled } from "./dom.js";
import { size } from "./figures.js";
import { RECORDED_MAX_S, base64, canRecord, decoded, recording, wav } from "./sound.js";

const SAMPLE_TEXT = "The nurse said that the new pump is quiet, and that it works well.";
const MASKED_WORD = "pump";
const SAMPLE_TEXTS = ["The cow is in the field.", "Cattle graze on the pasture.", "The pump needs a new filter."];
const SAMPLE_CONTEXT = "The ventilator in room 4 was serviced on Monday. Its alarm sounded twice during the night shift.";
const PREFILLED_MAX = 512;

/** @param changed is called whenever the request changes. */
export const form = (model, changed) => (FORMS[model.takes] ?? tensors)(model, changed);

const FORMS = { text: texts, question, image, audio, tensors };

const field = (text, rows, changed, attributes = {}) => {
  const made = h("textarea", { rows, spellcheck: "false", autocomplete: "off", oninput: changed, ...attributes });
  made.value = text;
  return made;
};

function texts(model, changed) {
  if (model.task === "text-classification") return pair(changed);
  const many = model.task === "feature-extraction";
  const sample = model.mask ? SAMPLE_TEXT.replace(MASKED_WORD, model.mask) : SAMPLE_TEXT;
  const control = many ? field(SAMPLE_TEXTS.join("\n"), 4, changed) : field(sample, 3, changed);
  const lines = () => (many ? control.value.split("\n").filter((line) => line.trim()) : [control.value]);
  return {
    element: labelled(many ? "Texts, one a line" : "Text", control, ...(model.mask ? [`with ${model.mask} in place of one word`] : [])),
    call: () => ({ json: lines().length === 1 ? { text: lines()[0] } : lines().map((text) => ({ text })) }),
    isReady: () => control.value.trim() !== "",
  };
}

function pair(changed) {
  const first = field(SAMPLE_TEXT, 3, changed);
  const second = field("", 2, changed, { placeholder: "for models that compare two texts" });
  return {
    element: h("div", {}, labelled("Text", first), labelled("Second text, if any", second)),
    call: () => ({ json: { text: first.value, ...(second.value && { text_pair: second.value }) } }),
    isReady: () => first.value.trim() !== "",
  };
}

function question(_, changed) {
  const asked = h("input", { type: "text", spellcheck: "false", autocomplete: "off", oninput: changed });
  asked.value = "What sounded twice?";
  const context = field(SAMPLE_CONTEXT, 4, changed);
  return {
    element: h("div", {}, labelled("Question", asked), labelled("Text that holds the answer", context)),
    call: () => ({ json: { question: asked.value, context: context.value } }),
    isReady: () => asked.value.trim() !== "" && context.value.trim() !== "",
  };
}

/** A place for one file: chosen, dropped or pasted. */
function drop(kind, text, took) {
  const input = h("input", { type: "file", accept: `${kind}/*`, class: "visually-hidden", onchange: () => offer(input.files) });
  const problem = h("p", { class: "problem", role: "alert" });
  const area = h(
    "label",
    {
      class: "drop",
      ondragover: (event) => {
        event.preventDefault();
        area.classList.add("over");
      },
      ondragleave: () => area.classList.remove("over"),
      ondrop: (event) => {
        event.preventDefault();
        area.classList.remove("over");
        offer(event.dataTransfer.files);
      },
    },
    input,
    h("span", {}, text),
  );
  async function offer(files) {
    problem.textContent = "";
    const file = files[0];
    if (!file) return;
    if (!file.type.startsWith(`${kind}/`)) problem.textContent = `${file.name} is no ${kind} file`;
    else await took(file).catch(() => (problem.textContent = `this browser can't read ${file.name}`));
  }
  return { element: h("div", { class: "field", onpaste: (event) => offer(event.clipboardData.files) }, area, problem), area };
}

function image(_, changed) {
  let file = null;
  const shown = h("img", { class: "preview", alt: "", hidden: true });
  const said = h("span", {}, "Choose a picture, drop it here, or paste it");
  const place = drop("image", said, async (given) => {
    const url = URL.createObjectURL(given);
    if (shown.src) URL.revokeObjectURL(shown.src);
    shown.src = url;
    shown.alt = given.name;
    shown.hidden = false;
    file = given;
    said.textContent = `${given.name}, ${size(given.size)}`;
    changed();
  });
  place.area.prepend(shown);
  return {
    element: place.element,
    call: () => ({ file: file ?? { name: "picture.png", type: "image/png" } }),
    isReady: () => file !== null,
  };
}

function audio(model, changed) {
  let sound = null;
  let ending = null;
  const player = h("audio", { controls: true, hidden: true });
  const said = h("span", {}, "Choose a recording, or drop it here");
  async function take(blob, name) {
    const heard = await decoded(blob, model.sampling_rate_hz);
    sound = wav(heard);
    if (player.src) URL.revokeObjectURL(player.src);
    player.src = URL.createObjectURL(sound);
    player.hidden = false;
    said.textContent = `${name}, ${(heard.samples.length / heard.rateHz).toFixed(1)} s at ${heard.rateHz / 1000} kHz`;
    changed();
  }
  const place = drop("audio", said, (file) => take(file, file.name));
  const record = h("button", { type: "button", onclick: toggle }, "Record");
  async function toggle() {
    if (ending) return void end();
    try {
      ending = await recording();
    } catch {
      said.textContent = "The browser refused the microphone";
      return;
    }
    record.textContent = "Stop";
    record.classList.add("recording");
    setTimeout(() => end(), RECORDED_MAX_S * 1000);
  }
  async function end() {
    const stop = ending;
    ending = null;
    if (!stop) return;
    record.textContent = "Record";
    record.classList.remove("recording");
    await take(await stop(), "recorded").catch(() => (said.textContent = "The recording can't be read"));
  }
  return {
    element: h("div", {}, place.element, h("div", { class: "row sound" }, canRecord() && record, player)),
    call: async () => ({
      json: { audio: sound ? await base64(sound) : "" },
      attached: { field: "audio", name: "sound.wav" },
    }),
    isReady: () => sound !== null,
  };
}

function tensors(model, changed) {
  const problem = h("p", { class: "problem", role: "alert" });
  const control = field(example(model.inputs), 6, () => {
    problem.textContent = read() ? "" : "This is not JSON yet";
    changed();
  }, { class: "code" });
  function read() {
    try {
      return { inputs: JSON.parse(control.value) };
    } catch {
      return null;
    }
  }
  const signature = model.inputs.map((it) => `${it.name}: ${it.dtype} [${it.shape.map((n) => (n < 0 ? "any" : n)).join(", ")}]`);
  return {
    element: h("div", {}, labelled("Inputs by name, as nested lists", control, signature.join("; ")), problem),
    call: () => ({ json: read() ?? { inputs: {} } }),
    isReady: () => read() !== null,
  };
}

function example(inputs) {
  const shapes = inputs.map((it) => it.shape.map((length) => (length < 0 ? 1 : length)));
  if (shapes.flatMap((shape) => shape.reduce((a, b) => a * b, 1)).some((numbers) => numbers > PREFILLED_MAX))
    return JSON.stringify(Object.fromEntries(inputs.map((it) => [it.name, []])));
  const nested = ([length, ...rest], dtype) =>
    length === undefined ? value(dtype) : Array.from({ length }, () => nested(rest, dtype));
  const value = (dtype) => (dtype === "bool" ? false : dtype.startsWith("float") ? 0.5 : 1);
  const held = inputs.map((it, at) => `  ${JSON.stringify(it.name)}: ${JSON.stringify(nested(shapes[at], it.dtype))}`);
  return `{\n${held.join(",\n")}\n}`;
}
