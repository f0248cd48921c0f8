// A page that names a stream of events asks for its new content at each event.

let followed = null;

/** Follow the stream that the page names now; a stream that it no longer names is closed. */
function follow() {
  const part = document.querySelector("[data-events]");
  const address = part?.dataset.events || "";
  if (followed?.address === address) return;
  followed?.source.close();
  followed = null;
  if (!address) return;
  const source = new EventSource(address);
  source.addEventListener("changed", () => window.htmx.trigger("[data-events]", "changed"));
  followed = { address, source };
}

document.addEventListener("htmx:afterSettle", follow);
follow();
