// A model's answers, drawn by their kind.

import { h, svg } from "./dom.js";
import { cosine, count, percent } from "./figures.js";

const LABELS_MAX = 10;
const RAW_MAX_CHARS = 20_000;
const NUMBERS_MAX = 24;
const STRIP_CELLS = 96;

/** @param call is the request that was answered: {json} or {file}. */
export function drawn(outputs, { json, file }) {
  const items = Array.isArray(json) ? json : [json ?? { file }];
  const parts = outputs[0].embedding ? vectors(outputs, items) : outputs.map((output, at) => one(output, items[at] ?? {}));
  return h("div", { class: "answer" }, parts, raw(outputs));
}

const one = (output, item) => [answered(output, item), truncated(output)];

function answered(output, item) {
  if (output.boxes) return boxes(output.boxes, item.file);
  if (output.labels) return labels(output.labels);
  if (output.fills) return fills(output.fills);
  if (output.tokens?.map) return marked(item.text ?? "", output.tokens);
  if ("answer" in output) return span(item.context ?? "", output);
  if ("text" in output) return h("blockquote", {}, output.text);
  if (output.outputs) return tensors(output.outputs);
  return null;
}

function labels(found) {
  const rows = found.slice(0, LABELS_MAX).map(({ label, score }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      h("td", { class: "bar" }, h("meter", { min: 0, max: 1, value: Math.max(0, Math.min(1, score)), "aria-hidden": "true" })),
      h("td", { class: "number" }, score >= 0 && score <= 1 ? percent(score) : score.toFixed(3)),
    ),
  );
  const rest = found.length - rows.length;
  return [
    h("table", { class: "labels" }, h("caption", { class: "visually-hidden" }, "Labels, the surest first"), h("tbody", {}, rows)),
    rest > 0 ? h("p", { class: "note" }, `and ${count(rest, "less likely label")}`) : null,
  ];
}

/** The likeliest words in place of the mask, and the text with the first of them. */
function fills(found) {
  return [h("p", { class: "text" }, found[0].sequence), labels(found.map(({ token_str, score }) => ({ label: token_str, score })))];
}

/** The objects found in a picture: numbered boxes over it, and the same numbers as a list. */
function boxes(found, file) {
  const picture = h("img", { alt: "" });
  const frame = h("div", { class: "seen" }, picture);
  picture.onload = () => {
    URL.revokeObjectURL(picture.src);
    frame.append(...found.map(({ box }, at) => placed(box, at + 1, picture)));
  };
  if (file instanceof Blob) picture.src = URL.createObjectURL(file);
  if (!found.length) return [frame, h("p", { class: "headline" }, "Nothing was found")];
  const line = ({ label, score, box }) =>
    h("li", {}, h("strong", {}, label), ` ${percent(score)} `, h("small", {}, `${box.xmax - box.xmin} × ${box.ymax - box.ymin} pixels at ${box.xmin}, ${box.ymin}`));
  return [frame, h("ol", { class: "found", "aria-label": "Found, the surest first" }, found.map(line))];
}

/** One box, in shares of the picture, so that it stays in place at every size. */
function placed({ xmin, ymin, xmax, ymax }, number, { naturalWidth, naturalHeight }) {
  const share = (pixels, whole) => Math.max(0, Math.min(1, pixels / whole));
  const [left, right] = [share(xmin, naturalWidth), share(xmax, naturalWidth)];
  const [top, bottom] = [share(ymin, naturalHeight), share(ymax, naturalHeight)];
  const made = h("div", { class: "box", "aria-hidden": "true" }, h("span", {}, number));
  for (const [side, value] of Object.entries({ left, top, width: right - left, height: bottom - top }))
    made.style.setProperty(side, `${(100 * value).toFixed(3)}%`);
  return made;
}

/** A note on a text or a sound of which the model read the beginning only. */
function truncated({ truncated }) {
  if (!truncated) return null;
  const { tokens, seconds, read } = truncated;
  const all = tokens ? count(tokens, "token") : `${seconds.toFixed(1)} seconds`;
  return h("p", { class: "note" }, `The model takes the first ${tokens ? read : read.toFixed(1)} of ${all}; the rest has no part in this answer.`);
}

/** The text with its tokens marked; neighbours of one label in one mark. */
function marked(text, tokens) {
  const letters = [...text];  // offsets count characters, not UTF-16 units
  const runs = [];
  for (const token of tokens) {
    const last = runs.at(-1);
    if (last && last.label === token.label && token.start - last.end <= 1) last.end = token.end;
    else runs.push({ ...token });
  }
  const parts = [];
  let at = 0;
  for (const { start, end, label } of runs) {
    if (label === "O") continue;
    parts.push(letters.slice(at, start).join(""), h("mark", {}, letters.slice(start, end).join(""), h("small", {}, label)));
    at = end;
  }
  return h("p", { class: "text" }, parts, letters.slice(at).join(""));
}

function span(context, { answer, start, end, score }) {
  const letters = [...context];
  return [
    h("p", { class: "headline" }, answer || "No answer in this text", h("small", {}, percent(score))),
    h("p", { class: "text" }, letters.slice(0, start).join(""), h("mark", {}, letters.slice(start, end).join("")), letters.slice(end).join("")),
  ];
}

function vectors(outputs, items) {
  const found = outputs.map((it) => it.embedding);
  if (Array.isArray(found[0][0])) return [h("p", { class: "headline" }, `${count(found[0].length, "vector")} of ${found[0][0].length}`)];
  const strips = found.map((vector, at) =>
    h("div", { class: "strip" }, h("p", {}, items[at]?.text ?? ""), strip(vector), h("small", {}, `${vector.length} numbers`)),
  );
  const shown = found.length > 1 ? [similarity(found, items), ...strips] : strips;
  return [shown, outputs.map(truncated)];
}

function similarity(found, items) {
  const numbered = (at) => h("th", { scope: "col" }, at + 1);
  const row = (vector, at) =>
    h("tr", {}, h("th", { scope: "row" }, `${at + 1}. ${items[at]?.text ?? ""}`), found.map((other) => cell(cosine(vector, other))));
  return h(
    "div",
    { class: "scrolled", tabindex: 0, role: "region", "aria-label": "Similarity" },
    h("table", { class: "similarity" }, h("caption", {}, "Similarity, by cosine"), h("thead", {}, h("tr", {}, h("td", {}), found.map((_, at) => numbered(at)))), h("tbody", {}, found.map(row))),
  );
}

function cell(value) {
  const made = h("td", {}, value.toFixed(2));
  made.style.setProperty("--share", Math.max(0, value).toFixed(3));
  return made;
}

/** The beginning of a vector as a strip of cells: one colour above zero, another below. */
function strip(vector) {
  const cells = vector.slice(0, STRIP_CELLS);
  const top = Math.max(...cells.map(Math.abs)) || 1;
  return svg(
    "svg",
    { viewBox: `0 0 ${cells.length} 1`, preserveAspectRatio: "none", "aria-hidden": "true" },
    cells.map((value, at) =>
      svg("rect", { class: value < 0 ? "below" : "above", x: at, width: 1.02, height: 1, "fill-opacity": (Math.abs(value) / top).toFixed(3) }),
    ),
  );
}

function tensors(outputs) {
  const rows = Object.entries(outputs).map(([name, nested]) => {
    const numbers = [nested].flat(Infinity);
    const shown = numbers.slice(0, NUMBERS_MAX).map((it) => (typeof it === "number" ? Number(it.toPrecision(6)) : it));
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, name, h("small", {}, `[${shape(nested).join(", ")}]`)),
      h("td", {}, h("code", {}, shown.join("  ") + (numbers.length > shown.length ? "  …" : ""))),
    );
  });
  return h("table", { class: "tensors" }, h("tbody", {}, rows));
}

const shape = (nested) => (Array.isArray(nested) ? [nested.length, ...shape(nested[0])] : []);

function raw(outputs) {
  const text = JSON.stringify(outputs.length === 1 ? outputs[0] : outputs, null, 1);
  const shown = text.length > RAW_MAX_CHARS ? `${text.slice(0, RAW_MAX_CHARS)}\n… ${count(text.length - RAW_MAX_CHARS, "more character")}` : text;
  return h("details", {}, h("summary", {}, "As JSON"), h("pre", { tabindex: 0 }, shown));
}
