"use strict";
const at = (id) => document.getElementById(id);
const KEYS = { 1: "first_much", 2: "first_slightly", 3: "tie", 4: "second_slightly", 5: "second_much", 0: "both_bad", b: "both_bad" };
const NAME = "voter";
let voter = null, ballot = null, busy = false;

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(value.error ?? `The server answered ${response.status}.`);
  return value;
}

// One request at a time: a key that is hit twice must not vote on a page that nobody has seen.
async function ask(path, body) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  try {
    show(await post(path, { voter, ...body }));
    at("wrong").hidden = true;
  } catch (error) {
    at("wrong").textContent = error instanceof TypeError ? "The server does not answer. Is it still running? Your earlier votes are kept." : error.message;
    at("wrong").hidden = false;
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

function only(id) {
  for (const main of document.querySelectorAll("main")) main.hidden = main.id !== id;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function show(place) {
  voter = place.voter;
  localStorage.setItem(NAME, voter);
  ballot = place.ballot;
  at("where").hidden = false;
  at("bar").max = Math.max(1, place.done + place.left);
  at("bar").value = place.done;
  at("count").textContent = `${place.done} of ${place.done + place.left}`;
  at("who").textContent = voter;
  if (place.closed) return showResults(place.results);
  if (!ballot) return showEnd(place);
  only("vote");
  at("prompt").replaceChildren(...ballot.turns.map((turn) => element("p", turn)));
  for (const side of ["a", "b"]) {
    at(side).replaceChildren(...ballot[side].map((text) => element("p", text.trim() ? text : "(an empty answer)", text.trim() ? "" : "empty")));
    at(side).scrollTop = 0;
  }
  for (const button of document.querySelectorAll("[data-level]")) {
    button.setAttribute("aria-pressed", String(button.dataset.level === ballot.level));
  }
  at("back").disabled = place.done === 0;
  scrollTo(0, 0);
  at("asked").focus({ preventScroll: true });
  at("said").textContent = `${place.done} of ${place.done + place.left} votes given. ${ballot.level ? "You have voted on this one before." : "A new request."}`;
}

function showEnd(place) {
  only("end");
  at("rest").textContent = place.left
    ? `The last ${place.left} are with other voters right now. Look again in a while, or end here.`
    : `That was all: ${place.done} votes. You can still go back and change some.`;
  at("more").hidden = !place.left;
  at("again").disabled = place.done === 0;
  at("close").disabled = place.done === 0;
  at("thanks").focus();
  at("said").textContent = "There is nothing left to vote on.";
}

function showResults(results) {
  only("results");
  at("results").replaceChildren(...results.map((part) => {
    const section = element("section", undefined, "panel");
    section.append(element("h2", part.title), element("p", part.note));
    const table = element("table"), head = element("tr"), body = element("tbody");
    part.head.forEach((text, column) => head.append(element("th", text, part.numbers.includes(column) ? "number" : "")));
    for (const row of part.rows) {
      const line = element("tr");
      row.forEach((text, column) => line.append(element("td", text, part.numbers.includes(column) ? "number" : "")));
      body.append(line);
    }
    table.append(element("thead"), body);
    table.tHead.append(head);
    const scroll = element("div", undefined, "scroll");
    scroll.append(table);
    section.append(scroll);
    return section;
  }));
  at("said").textContent = "The results.";
}

at("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  voter = at("name").value.trim();
  if (voter) ask("/enter", {});
});
for (const button of document.querySelectorAll("[data-level]")) {
  button.addEventListener("click", () => ask("/vote", { ballot: ballot.id, level: button.dataset.level }));
}
at("back").addEventListener("click", () => ask("/back", { ballot: ballot.id }));
at("again").addEventListener("click", () => ask("/back", { ballot: null }));
at("more").addEventListener("click", () => ask("/enter", {}));
at("close").addEventListener("click", () => ask("/close", {}));
document.addEventListener("keydown", (event) => {
  if (at("vote").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const level = KEYS[event.key.toLowerCase()];
  if (level) ask("/vote", { ballot: ballot.id, level });
  else if (event.key === "Backspace" && !at("back").disabled) ask("/back", { ballot: ballot.id });
  else return;
  event.preventDefault();
});
at("who").addEventListener("click", () => { localStorage.removeItem(NAME); location.reload(); });

voter = localStorage.getItem(NAME);
if (voter) ask("/enter", {}).then(() => { if (!ballot && at("where").hidden) only("start"); });
else { only("start"); at("name").focus(); }
