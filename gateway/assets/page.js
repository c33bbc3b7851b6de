// What becomes of jobs is told as it happens: whatever waits for it is asked for again.
"use strict";
const told = new EventSource("/v1/events");
let waiting = false;
const again = () => {
  // Many jobs at once are one change.
  if (waiting) return;
  waiting = true;
  setTimeout(() => {
    waiting = false;
    document.body.dispatchEvent(new Event("jobs"));
  }, 100);
};
// What happened while nobody listened is not told.
told.addEventListener("open", again);
told.addEventListener("job", again);
told.addEventListener("lost", again);
// What somebody has opened, stands on or is about to press stays as it is.
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target;
  const used = part.contains(document.activeElement) || part.matches(":active") || part.querySelector("details[open]");
  if (used) event.detail.shouldSwap = false;
});
// A browser has six connections for a site, and keeps that of a page one has left for a while.
window.addEventListener("pagehide", () => told.close());
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
