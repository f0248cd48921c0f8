// The page: the list of models, requested again every few seconds while the page is visible, and the chosen model.

import { askJson, setToken } from "./client.js";
import { h } from "./dom.js";
import { panel, pill } from "./panel.js";

const REFRESH_MS = 3000;
const at = (id) => document.getElementById(id);

let models = [];
let isReady = false;
let looking = null; // the request under way
let listed = ""; // the content of the list
let open = null; // the panel of the model shown, with its name and key

const link = ({ name }) => `#${encodeURIComponent(name)}`;
const chosen = () => models.find((model) => link(model) === location.hash) ?? models[0];

const refresh = () => (looking ??= look().finally(() => (looking = null)));

async function look() {
  try {
    const found = await askJson("page/models");
    models = found.models;
    at("token").hidden = true;
    at("frame").hidden = false;
    at("device").textContent = `${found.device} · agent ${found.version}`;
    isReady = found.ready;
    health(isReady ? "ready" : "starting");
    show();
  } catch (error) {
    if (error.status === 401) wantToken();
    else health("unreachable");
  }
}

function health(state) {
  if (at("health").textContent === state) return;
  at("health").className = `pill ${state}`;
  at("health").textContent = state;
}

function wantToken() {
  if (!at("token").hidden) return;
  at("frame").hidden = true;
  at("token").hidden = false;
  at("token-field").focus();
}

function show() {
  const now = chosen();
  list(now);
  if (!now) {
    open?.close();
    open = null;
    at("main").replaceChildren(isReady ? empty() : h("p", { class: "empty" }, "The models are being loaded."));
    return;
  }
  const key = `${now.name} ${now.version}`;
  // A new version's panel waits until an answer of the old one has ended.
  if (open?.key === key || (open?.name === now.name && open.isBusy())) return void open.update(now);
  open?.close();
  open = { ...panel(now), name: now.name, key };
  at("main").replaceChildren(open.element);
  document.title = `${now.name} · edgeml`;
}

/** Draws the list where it changed, so that keyboard focus stays in it. */
function list(now) {
  const shown = JSON.stringify([now?.name, ...models.map(({ name, version, state }) => [name, version, state])]);
  if (shown === listed) return;
  listed = shown;
  const focused = document.activeElement.closest("#models a")?.hash;
  const entries = models.map((model) => entry(model, model === now));
  at("models").replaceChildren(...entries);
  entries.find((it) => it.firstChild.hash === focused)?.firstChild.focus();
  at("models").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function now() {
  if (!document.hidden && at("token").hidden) refresh();
}

const entry = (model, isChosen) =>
  h(
    "li",
    {},
    h(
      "a",
      { href: link(model), "aria-current": isChosen ? "page" : null },
      h("span", { class: "name" }, model.name),
      pill(model.state),
      h("small", {}, `${model.version} · ${model.task}`),
    ),
  );

const empty = () =>
  h(
    "div",
    { class: "empty" },
    h("h1", {}, "No model yet"),
    h("p", {}, "This device serves the models that its fleet deploys to it. On the host:"),
    h("pre", {}, "edgeml publish out/*.edgeml --repo fleet\nedgeml fleet deploy MODEL --repo fleet --to device=ID"),
  );

at("token").addEventListener("submit", async (event) => {
  event.preventDefault();
  setToken(at("token-field").value.trim());
  await refresh();
  if (at("token").hidden) at("token-problem").textContent = "";
  else {
    at("token-problem").textContent = "That is not this device's token";
    at("token-field").select();
  }
});
at("skip").addEventListener("click", () => at("main").focus());
addEventListener("hashchange", () => show());
document.addEventListener("asked", refresh);
document.addEventListener("visibilitychange", now);
setInterval(now, REFRESH_MS);
refresh();
