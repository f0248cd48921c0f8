// Elements made of values. Texts stay texts: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

export const h = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

/** Whether this is no touch screen, whose keyboard covers the page and has no Shift+Enter. */
export const hasKeyboard = () => matchMedia("(pointer: fine)").matches;

let made = 0;

/** A label and its control, joined; the control keeps its own id where it has one. */
export function labelled(text, control, note) {
  control.id ||= `field-${++made}`;
  if (note) control.setAttribute("aria-describedby", `${control.id}-note`);
  return h(
    "div",
    { class: "field" },
    h("label", { for: control.id }, text),
    control,
    note && h("p", { class: "note", id: `${control.id}-note` }, note),
  );
}
