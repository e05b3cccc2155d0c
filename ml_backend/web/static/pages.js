// Parts of a page that change by themselves are marked `data-live`: the page is asked for again and they are replaced.
"use strict";

const EVERY = 1500; // milliseconds

async function readAgain() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    return answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
  } catch {
    return null; // the server is away for a while: what is shown stays, and is asked for again
  }
}

async function refresh() {
  if (document.hidden) return;
  const fresh = await readAgain();
  if (fresh === null) return;
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (now === null || now.innerHTML === old.innerHTML) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.innerHTML = now.innerHTML;
    if (focused !== "") document.getElementById(focused)?.focus();
  }
}

// Times are shown in the reader's own time zone, which the server learns from a cookie.
async function useOwnZone() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const told = () => /(?:^|; )steerseg_zone=([^;]*)/.exec(document.cookie)?.[1] ?? "UTC";
  if (!zone || told() === zone) return;
  document.cookie = `steerseg_zone=${zone}; path=/; max-age=31536000; samesite=strict`;
  if (told() !== zone) return; // this browser keeps no cookies
  const fresh = await readAgain();
  if (fresh === null) return;
  for (const part of ["main", "footer"]) {
    document.querySelector(part).innerHTML = fresh.querySelector(part).innerHTML;
  }
}

// A least score is tried on the page itself; without a script, its button asks the server.
function tryThreshold(form) {
  const scores = form.dataset.scores.split(" ").filter(Boolean).map(Number);
  const shown = [...document.querySelectorAll("[data-score]")];
  const say = (name, text) => {
    for (const place of form.querySelectorAll(`[data-${name}]`)) place.textContent = text;
  };
  form.querySelector("button").hidden = true;
  form.querySelector("[type=range]").addEventListener("input", (event) => {
    const least = Number(event.target.value);
    for (const one of shown) one.classList.toggle("out", Number(one.dataset.score) < least);
    say("least", least.toFixed(2));
    say("kept-shown", String(shown.filter((one) => Number(one.dataset.score) >= least).length));
    say("kept-all", String(scores.filter((score) => score >= least).length));
  });
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question !== undefined && !confirm(question)) event.preventDefault();
});

(async () => {
  await useOwnZone();
  document.querySelectorAll("[data-threshold]").forEach(tryThreshold);
  while (document.querySelector("[data-live]") !== null) {
    await new Promise((resume) => setTimeout(resume, EVERY));
    await refresh();
  }
})();
