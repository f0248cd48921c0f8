// A page that names a stream of events asks for its new content at each event. Errors of forms and calls are shown.

/** Milliseconds until a stream that was refused is asked for again: browsers try again only where a connection broke. */
const REFUSED_MS = 5000;
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
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(retry, REFUSED_MS, source);
  });
  followed = { address, source };
}

// An error is an answer to a call, too: its page has the part that is asked for.
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  if (detail.target.id !== "answer") return;
  detail.shouldSwap = true;
  detail.isError = false;
});
document.addEventListener("htmx:sendError", ({ detail }) => {
  if (detail.target.id === "answer") detail.target.textContent = "The dashboard doesn't answer; try again.";
});

/** Follow anew the stream that a source was refused, unless the page follows another one by now. */
function retry(source) {
  if (followed?.source !== source) return;
  followed = null;
  // Where the session has ended, the answer leads to the login.
  window.htmx.trigger("[data-events]", "changed");
  follow();
}

// A form whose answer is an error is sent as without JavaScript: htmx leaves the page as it was.
document.addEventListener("htmx:responseError", ({ detail }) => {
  if (detail.elt.matches("form")) detail.elt.submit();
});
document.addEventListener("htmx:afterSettle", follow);
follow();
