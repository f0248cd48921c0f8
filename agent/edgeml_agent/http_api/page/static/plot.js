// The last requests' latencies: a bar each, the newest at the right, and their median.

import { h, svg } from "./dom.js";
import { count, median, milliseconds } from "./figures.js";

const BARS = 60;
const HEIGHT = 72;
const STEP = 10;

export function plot(lastMs) {
  if (!lastMs.length) return h("p", { class: "note" }, "No request yet.");
  const times = lastMs.map(Math.abs);
  const top = Math.max(...times);
  const middle = median(times);
  const y = (ms) => HEIGHT - Math.max(2, (ms / top) * HEIGHT);
  const first = BARS - times.length;
  const bars = lastMs.map((ms, at) =>
    svg(
      "rect",
      {
        class: ms < 0 ? "bar failed" : "bar",
        x: (first + at) * STEP + 1,
        y: y(Math.abs(ms)),
        width: STEP - 2,
        height: HEIGHT - y(Math.abs(ms)),
        rx: 1.5,
      },
      svg("title", {}, `${milliseconds(Math.abs(ms))}${ms < 0 ? ", failed" : ""}`),
    ),
  );
  const failed = lastMs.filter((ms) => ms < 0).length;
  const said = `${count(times.length, "request")}: median ${milliseconds(middle)}, slowest ${milliseconds(top)}${failed ? `, ${failed} failed` : ""}`;
  return h(
    "figure",
    { class: "plot" },
    svg(
      "svg",
      { viewBox: `0 0 ${BARS * STEP} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `Latencies of the last ${said}` },
      bars,
      svg("line", { class: "median", x1: first * STEP, x2: BARS * STEP, y1: y(middle), y2: y(middle) }),
    ),
    h("figcaption", {}, said),
  );
}
