// Keeps what changes on a page fresh, and says when a session's state changes. Everything else works without a script.
const announce = document.querySelector("[data-announce]");

function fresh(place) {
  let shown = place.innerHTML;
  let state = place.querySelector("[data-state]")?.textContent;
  const timer = setInterval(async () => {
    if (document.hidden || place.contains(document.activeElement)) return;
    const answer = await fetch(place.dataset.live).catch(() => null);
    if (!answer?.ok) return;
    const text = await answer.text();
    if (text === shown) return;
    place.innerHTML = shown = text;
    const now = place.querySelector("[data-state]")?.textContent;
    if (announce && now !== state) announce.textContent = `The session is now: ${now}`;
    state = now;
    if (place.querySelector("[data-ended]")) clearInterval(timer);
  }, 1000 * Number(place.dataset.every || 2));
}

document.querySelectorAll("[data-live]").forEach(fresh);
