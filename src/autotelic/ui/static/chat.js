// One chat: shows how it stands, sends what the person does, and shows what agents do while they do it.
// Whatever a person, a model or a file said is set as text, never as markup.
"use strict";
const MOST_TEXT = 200000;
const BUSY = "One moment: the answer is still being written…";
const chat = document.getElementById("chat");
const part = Object.fromEntries(
  ["turns", "growing", "status", "say", "text", "who", "files", "send", "stop", "learn", "unlearnt", "rename"].map((id) => [id, document.getElementById(id)])
);
let state = null; // how the chat stands, as the server told it last
let working = null; // aborts what is being done, null while nothing is
let growing = null; // the draft that is being written
let called = 0; // calls of tools for it that are shown
let pressed = null; // what was pressed for what is being done, to come back to

function make(tag, given = {}, ...children) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name === "on") one.addEventListener(tag === "form" ? "submit" : "click", value);
    else if (value !== null && value !== false) one.setAttribute(name, value);
  }
  one.append(...children.filter((child) => child !== null));
  return one;
}

const button = (key, label, on, more = {}) => make("button", { type: "button", class: "quiet", "data-key": key, on, ...more }, label);
const policy = (said) => (said.policy == null ? "" : `policy-${said.policy}`);

function whose(who) {
  const name = who.policy === null ? "champion" : `policy-${who.policy}`;
  return who.strategy === null ? name : `${name}:${who.strategy}`;
}

function tell(text, bad = false) {
  part.status.textContent = text;
  part.status.classList.toggle("bad", bad);
}

// What is shown of a turn

function said(who, text, kind = "assistant") {
  return make("div", { class: `said ${kind}` }, make("b", {}, who), make("pre", {}, text));
}

function critic(found) {
  const sure = found.confidence == null ? "" : `, ${Math.round(found.confidence * 100)}% for right`;
  const fault = [found.fault, found.advice].filter(Boolean).join(" ");
  const verdict = make("b", { class: found.verdict || "" }, found.verdict || "no verdict");
  return make("p", { class: "critic" }, "critic: ", verdict, `${sure}. ${fault}`);
}

function tool(made) {
  const head = make("b", { class: made.result.ok ? "right" : "wrong" }, made.result.ok ? "done" : made.result.reason);
  return make("p", { class: "critic" }, `${made.call.name} ${made.call.arguments}: `, head, ` ${made.result.content}`);
}

function price({ price: spent, stopped }) {
  if (!spent) return "";
  const tokens = (spent.prompt_tokens + spent.completion_tokens).toLocaleString("en");
  const told = `${spent.calls} call${spent.calls === 1 ? "" : "s"}, ${tokens} tokens, ${spent.seconds.toFixed(1)} s`;
  return stopped ? `${told}; cut short: ${stopped}` : told;
}

function drafts(turn) {
  const found = turn.drafts.flatMap((draft, index) => [
    ...draft.calls.map(tool),
    ...draft.of.map((one) => said(["made of", one.by, one.score?.toFixed(2)].filter(Boolean).join(", "), one.text)),
    said([`draft ${index + 1}`, policy(draft)].filter(Boolean).join(", "), draft.text),
    price(draft) ? make("p", { class: "critic" }, price(draft)) : null,
    draft.critique ? critic(draft.critique) : null,
  ]);
  const complaints = turn.complaints.map((text) => said("you, on what is wrong", text, "user"));
  if (turn.before !== null) complaints.push(said("before you edited it", turn.before));
  return [...found, ...complaints].filter((one) => one !== null);
}

function how(turn) {
  if (!turn.drafts.length && turn.before === null) return null;
  const last = turn.drafts.map((draft) => draft.critique).filter(Boolean).at(-1);
  const verdict = last ? `; critic: ${last.verdict || "no verdict"}` : "";
  const count = `${turn.drafts.length} draft${turn.drafts.length === 1 ? "" : "s"}`;
  const spent = turn.who.strategy && turn.drafts.length ? price(turn.drafts.at(-1)) : "";
  const summary = make("summary", { "data-key": `how ${turn.id}` }, `${count}${spent && "; "}${spent}${verdict}`);
  return make("details", { class: "how", "data-turn": turn.id }, summary, ...drafts(turn));
}

function pair(turn) {
  if (turn.pair === null || turn.chosen !== null) return null;
  const two = turn.pair.map((one, index) =>
    make("div", { class: "card" }, said(`answer ${index + 1}`, one.text), button(`choose ${index}`, `Take answer ${index + 1}`, () => act({ do: "choose", text: String(index + 1) })))
  );
  return make("div", { class: "pair" }, ...two);
}

function answer(turn) {
  if (turn.answer === null) return null;
  const head = make("b", {}, "answer");
  const told = make("p", {});
  if (turn.verdict) told.append(make("span", { class: `pill ${turn.verdict === "rejected" ? "wrong" : "right"}` }, turn.verdict));
  if (turn.stars) told.append(make("span", { class: "stars", role: "img", "aria-label": `rated ${turn.stars} of 5` }, "★".repeat(turn.stars)));
  if (turn.pair !== null && turn.chosen !== null) {
    told.append(`1 was ${policy(turn.pair[0]) || "a remote model"}, 2 was ${policy(turn.pair[1]) || "a remote model"}; you took ${turn.chosen + 1}.`);
  }
  return make("div", { class: "said assistant answer" }, head, make("pre", {}, turn.answer), told.childNodes.length ? told : null);
}

function exchange(turn, last) {
  const asked = make("div", { class: "asked" }, make("b", { class: "aside" }, "you said"), make("pre", {}, turn.question));
  if (turn.files.length) asked.append(make("ul", {}, ...turn.files.map((file) => make("li", {}, `${file.name}, ${file.characters.toLocaleString("en")} characters`))));
  const item = make("li", {}, asked, how(turn), answer(turn), pair(turn));
  if (last && !working) item.append(state.question ? question() : state.pending ? cut() : acts(turn));
  return item;
}

function question() {
  const reasons = (state.question.reasons || []).map((text) => make("pre", {}, text));
  const bar = make("div", { class: "acts" }, button("allow", "Allow", () => act({ do: "allow" })), button("deny", "Do not allow", () => act({ do: "deny" })), button("undo", "Take it back", () => act({ do: "undo" })));
  return make("div", { class: "card cut" }, make("p", {}, `The model asks: ${state.question.ask}`), ...reasons, bar);
}

function cut() {
  const bar = make("div", { class: "acts" }, button("resume", "Go on with it", () => act({ do: "resume" })), button("undo", "Take it back", () => act({ do: "undo" })));
  return make("div", { class: "card cut" }, make("p", {}, state.busy ? "This is being worked on elsewhere." : "This answer was cut off."), state.busy ? "" : bar);
}

// What can be done with the last answer

function acts(turn) {
  const bar = make("div", { class: "acts", role: "group", "aria-label": "What you make of it" });
  const under = make("div", {});
  const when = (verdict) => ({ "aria-pressed": String(turn.verdict === verdict) });
  if (turn.answer !== null) {
    bar.append(
      button("accept", "Accept", () => act({ do: "accept" }), when("accepted")),
      button("reject", "Reject", () => act({ do: "reject" }), when("rejected")),
      button("wrong", "Wrong…", () => write(under, "wrong", "What is wrong? The answer is revised.", "", "Revise it")),
      button("edit", "Edit…", () => write(under, "edit", "The answer as it should be", turn.answer, "Take this")),
      rate(turn)
    );
  }
  bar.append(
    button("retry", "Retry", () => act({ do: "retry", who: part.who.value })),
    button("compare", "Compare…", () => compare(under)),
    button("undo", "Undo", () => act({ do: "undo" }))
  );
  return make("div", { class: "judging" }, bar, under);
}

function rate(turn) {
  const stars = [1, 2, 3, 4, 5].map((n) =>
    button(`rate ${n}`, String(n), () => act({ do: "rate", text: String(n) }), { "aria-pressed": String(turn.stars === n), "aria-label": `Rate ${n} of 5` })
  );
  return make("div", { class: "rate", role: "group", "aria-label": "Rate, 1 bad to 5 good" }, "Rate", ...stars);
}

function panel(under, key, fields, label, send) {
  const close = () => {
    under.replaceChildren();
    chat.querySelector(`[data-key="${key}"]`).focus();
  };
  const submit = (event) => {
    event.preventDefault();
    send();
  };
  const form = make("form", { class: "write", on: submit }, ...fields, make("div", {}, make("button", {}, label), button("close", "Close", close)));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  under.replaceChildren(form);
  form.querySelector("textarea, input").focus();
}

function write(under, key, label, text, verb) {
  const area = make("textarea", { "data-key": key, rows: String(Math.min(12, Math.max(3, text.split("\n").length + 1))), maxlength: key === "wrong" ? "4000" : String(MOST_TEXT), required: "" });
  area.value = text;
  enters(area);
  panel(under, key, [make("label", {}, label, area)], verb, () => act({ do: key, text: area.value }));
}

function compare(under) {
  const two = [part.who.value, ""].map((value) => {
    const one = make("input", { "data-key": "compare", list: "whos", required: "", maxlength: "90", autocomplete: "off", spellcheck: "false" });
    one.value = value;
    return one;
  });
  const fields = two.map((one, index) => make("label", {}, index ? "and between" : "Two answers without names, between", one));
  panel(under, "compare", fields, "Compare", () => act({ do: "compare", text: two.map((one) => one.value.replace(/\s+/g, "")).join(" ") }));
}

// How the chat stands

function show(told) {
  state = told;
  const open = new Set([...part.turns.querySelectorAll("details[open]")].map((one) => one.dataset.turn));
  const key = pressed ?? document.activeElement?.dataset?.key;
  part.turns.replaceChildren(...state.turns.map((turn, index) => exchange(turn, index === state.turns.length - 1)));
  for (const one of part.turns.querySelectorAll("details")) one.open = open.has(one.dataset.turn);
  if (key != null && document.activeElement === document.body) (chat.querySelector(`[data-key="${key}"]`) || part.text).focus();
  pressed = null;
  const name = state.chat.name || "A new chat";
  document.querySelector("h1").textContent = name;
  document.title = `${name} – Autotelic`;
  part.learn.hidden = !state.can_learn;
  part.unlearnt.hidden = state.can_learn;
  part.learn.setAttribute("aria-checked", String(state.chat.learn));
}

async function load() {
  const answer = await fetch(`${chat.dataset.at}/state`);
  if (!answer.ok) return tell("This chat cannot be shown. Open the page anew.", true);
  const told = await answer.json();
  if (working) return;
  const first = state === null;
  show(told);
  if (first && told.turns.length) part.who.value = whose(told.turns.at(-1).who);
  if (first && told.turns.length > 1) down();
  if (told.busy) {
    tell("This chat is being worked on elsewhere.");
    setTimeout(load, 1500);
  } else if (part.status.textContent.endsWith("elsewhere.")) tell("");
}

// What agents do

const down = () => scrollTo({ top: document.body.scrollHeight, behavior: "instant" });

function grow(told) {
  const low = innerHeight + scrollY > document.body.scrollHeight - 160;
  if (told.kind === "opening") tell("The model is being started. This takes a minute or two, once.");
  else if (told.kind === "note") tell(told.text);
  else if (told.kind === "error") tell(told.text, true);
  else if (told.kind === "token") token(told.text);
  else if (told.kind === "draft") drafted(told.draft);
  else if (told.kind === "calls") calls(told.calls);
  else if (told.kind === "criticise" && told.draft.critique) part.growing.append(critic(told.draft.critique));
  if (low) down();
}

function token(text) {
  if (growing === null) {
    growing = said(`draft ${part.growing.querySelectorAll(".said").length + 1}`, "");
    part.growing.setAttribute("aria-busy", "true"); // read out when it is whole, not word by word
    part.growing.append(growing);
    tell("writing…");
  }
  growing.querySelector("pre").textContent += text;
}

function calls(made) {
  growing = null;
  part.growing.append(...made.slice(called).map(tool));
  called = made.length;
}

function drafted(draft) {
  if (growing === null) token("");
  growing.querySelector("pre").textContent = draft.text;
  growing = null;
  called = 0;
  part.growing.setAttribute("aria-busy", "false");
  tell("thinking it over…");
}

async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const found = (rest + (value || "")).split("\n");
    rest = done ? "" : found.pop();
    for (const line of found) if (line) yield JSON.parse(line);
    if (done) return;
  }
}

async function act(asked) {
  if (working) return tell(BUSY) || false;
  working = new AbortController();
  begin(asked);
  const before = state?.turns.at(-1)?.id;
  let last = null;
  let done = false;
  let failed = false;
  try {
    const headers = { "content-type": "application/json", "x-autotelic-token": chat.dataset.token };
    const answer = await fetch(`${chat.dataset.at}/act`, { method: "POST", headers, body: JSON.stringify(asked), signal: working.signal });
    done = answer.ok;
    if (!done) tell(await why(answer), true);
    else
      for await (const told of lines(answer)) {
        failed ||= told.kind === "error";
        told.kind === "state" ? (last = told) : grow(told);
      }
  } catch (error) {
    tell(error.name === "AbortError" ? "Stopped." : "The connection broke off.", error.name !== "AbortError");
  }
  end(last);
  return done && (!failed || (last?.turns.at(-1)?.id ?? before) !== before); // what failed may be in the chat all the same
}

function begin(asked) {
  const asking = ["say", "wrong", "retry", "compare", "resume", "allow", "deny"].includes(asked.do);
  tell(asking ? "working…" : "");
  part.stop.hidden = false;
  part.growing.replaceChildren();
  growing = null;
  called = 0;
  pressed = document.activeElement?.dataset?.key ?? null;
  if (asked.do === "say") {
    const files = asked.files.map((file) => ({ name: file.name, characters: file.text.length }));
    const turn = { id: "", question: asked.text, files, drafts: [], complaints: [], before: null, answer: null, pair: null };
    part.turns.querySelector(".judging")?.remove(); // it is about the answer before
    part.turns.append(exchange(turn, false));
  }
  if (asking) down();
}

function end(last) {
  const stopped = document.activeElement === part.stop;
  working = null;
  part.stop.hidden = true;
  part.growing.replaceChildren();
  if (!part.status.classList.contains("bad") && part.status.textContent !== "Stopped." && part.status.textContent.endsWith("…")) tell("");
  if (last && last.question) tell(`The model asks: ${last.question.ask}`);
  if (last) show(last);
  else setTimeout(load, 100); // what was dropped needs a moment to stop
  if (stopped) part.text.focus();
}

async function why(answer) {
  const kind = answer.headers.get("content-type") || "";
  if (!kind.startsWith("application/json")) return "Nothing was done. Open the page anew and try again.";
  const { error } = await answer.json();
  return typeof error === "string" ? error : error.message;
}

// What the person does

function enters(area) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    area.form.requestSubmit();
  });
}

async function given() {
  const found = [];
  for (const file of part.files.files) {
    const text = file.size > 4 * MOST_TEXT ? null : await file.text();
    if (text === null || text.length > MOST_TEXT) throw new Error(`${file.name} is longer than ${MOST_TEXT.toLocaleString("en")} characters. Give a part of it.`);
    if (/[\0\ufffd]/.test(text)) throw new Error(`${file.name} is no text.`);
    found.push({ name: file.name, text });
  }
  return found;
}

part.say.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = part.text.value.trim();
  if (!text || working) return working ? tell(BUSY) : part.text.focus();
  let files;
  try {
    files = await given();
  } catch (error) {
    return tell(error.message, true);
  }
  part.text.value = "";
  if (await act({ do: "say", text, who: part.who.value, files })) part.files.value = "";
  else if (!part.text.value) part.text.value = text;
});
part.stop.addEventListener("click", () => working?.abort());
part.learn.addEventListener("click", () => act({ do: "learn", text: state?.chat.learn ? "off" : "on" }));
part.rename.addEventListener("submit", (event) => {
  event.preventDefault();
  act({ do: "name", text: part.rename.elements.name.value });
});
enters(part.text);
load();
