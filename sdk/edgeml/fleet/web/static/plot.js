// The plot of a device: a run's time on the left axis, memory on the right one. Times are UTC, as in the tables.

const HEIGHT = 240;
/** The times of the axis, in 24 hours, by the distance of two of them in seconds. */
const HOURS = [
  [86400, "{YYYY}-{MM}-{DD}", null, null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{YYYY}-{MM}-{DD}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{YYYY}-{MM}-{DD}", null, "\n{YYYY}-{MM}-{DD}", null, null, null, 1],
];

/** A colour of the sheet by its name. */
function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** One axis in the sheet's colours. */
function axis(more) {
  return { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") }, ...more };
}

/** Draw a figure's series; again when its width or the palette changes. */
function draw(figure) {
  const { seen_s, run_ms, memory_mb } = JSON.parse(figure.dataset.plot);
  let plot = null;
  const make = () => {
    plot?.destroy();
    plot = new window.uPlot(
      {
        width: figure.clientWidth,
        height: HEIGHT,
        tzDate: (seen_s) => window.uPlot.tzDate(new Date(seen_s * 1000), "Etc/UTC"),
        series: [
          { label: "time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" },
          { label: "a run, ms", stroke: color("--accent"), width: 2, points: { size: 6 }, spanGaps: true },
          { label: "memory, MB", scale: "MB", stroke: color("--below"), width: 2, dash: [6, 4], points: { size: 6 }, spanGaps: true },
        ],
        axes: [axis({ space: 90, values: HOURS }), axis({ label: "ms" }), axis({ scale: "MB", side: 1, label: "MB", grid: { show: false } })],
      },
      [seen_s, run_ms, memory_mb],
      figure,
    );
  };
  make();
  new ResizeObserver(() => plot.setSize({ width: figure.clientWidth, height: HEIGHT })).observe(figure);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", make);
}

for (const figure of document.querySelectorAll("[data-plot]")) draw(figure);
