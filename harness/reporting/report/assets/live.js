// ---- a page that is served: reloads when the run has moved on, unless the reader would lose something

const POLL_MS = 3000;
const banner = byId("live");

async function followed() {
  let found = null;
  try {
    const answer = await fetch("/state", { cache: "no-store" });
    if (answer.ok) found = await answer.json();
  } catch {
    banner.textContent = "No answer: harness report --live has ended. This page stays as it is.";
  }
  if (found && found.key !== root.dataset.live) {
    const reads = document.querySelector("#sample-list details[open]") || wrong.value || right.value || search.value;
    if (!reads) { location.reload(); return; }
    const again = element("button", "", "Show them");
    again.type = "button";
    again.addEventListener("click", () => location.reload());
    banner.replaceChildren("There are new figures. ", again);
  }
  setTimeout(followed, POLL_MS);
}

if (banner && !("over" in root.dataset)) setTimeout(followed, POLL_MS);
