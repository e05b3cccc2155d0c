// Parts of a page that change by themselves are marked `data-live`: the page is asked for again and they are replaced.
"use strict";

const EVERY = 1500; // milliseconds

async function refresh() {
  if (document.hidden) return;
  let fresh;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) return;
    fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    return; // the server is away for a while: what is shown stays, and is asked for again
  }
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (now === null || now.innerHTML === old.innerHTML) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.innerHTML = now.innerHTML;
    if (focused !== "") document.getElementById(focused)?.focus();
  }
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question !== undefined && !confirm(question)) event.preventDefault();
});

if (document.querySelector("[data-live]") !== null) {
  (async () => {
    for (;;) {
      await new Promise((resume) => setTimeout(resume, EVERY));
      await refresh();
    }
  })();
}
