"use strict";
// Everything that comes from the index is put into the page as text, never as HTML.

const at = (id) => document.getElementById(id);
const depths = [0, 10, 30, 100, 300, "all"];
let latest = 0;
let mode = null; // what the page shows: {path, query} of the last request

const depth = () => String(depths[Number(at("depth").value)]);

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

async function ask(path, parameters) {
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  let answer = null;
  try { answer = await response.json(); } catch { /* not JSON: told below */ }
  if (!response.ok || answer === null) throw new Error(answer?.error ?? `the server answered ${response.status}`);
  return answer;
}

const pictureOf = (id) => `pictures/${encodeURIComponent(id)}`;
const scores = (hit) => `matching ${hit.matching.toFixed(3)}` +
  (hit.alignment === null ? "" : ` · alignment ${hit.alignment.toFixed(3)}`);

function card(hit, text) {
  const item = element("li");
  const button = element("button", "card");
  button.type = "button";
  const image = element("img");
  image.loading = "lazy";
  image.alt = (hit.tags ?? []).join(", ") || `picture ${hit.id}`;
  image.src = pictureOf(hit.id);
  image.addEventListener("error", () => image.replaceWith(element("span", "none", "no picture")), { once: true });
  button.append(image, element("span", "id", hit.id), element("span", "", text));
  button.addEventListener("click", () => open(hit));
  item.append(button);
  return item;
}

async function show(path, parameters, describe) {
  const number = ++latest;
  mode = { path, parameters, describe };
  at("results").setAttribute("aria-busy", "true");
  say("Searching …");
  try {
    const answer = await ask(path, parameters());
    if (number !== latest) return;
    at("results").replaceChildren(...answer.results.map((hit) => card(hit, hit.matching === undefined ? "" : scores(hit))));
    say(answer.results.length ? describe(answer) : "No pictures in this index.");
  } catch (error) {
    if (number !== latest) return;
    at("results").replaceChildren();
    say(`That did not work: ${error.message}`, true);
  } finally {
    if (number === latest) at("results").setAttribute("aria-busy", "false");
  }
}

function search() {
  const q = at("query").value.trim();
  if (!q) { say("Say what the picture shows, then press Enter."); at("results").replaceChildren(); return; }
  show("api/search", () => ({ q, k: 24, rerank: depth() }), (answer) => {
    const total = Object.values(answer.milliseconds).reduce((sum, value) => sum + value, 0);
    return `${answer.results.length} pictures in ${total.toFixed(1)} ms, ${answer.rerank} candidates re-ranked ` +
      `in ${answer.milliseconds.rerank.toFixed(1)} ms${answer.note && `; ${answer.note}`}`;
  });
}

function browse() {
  show("api/images", () => ({ limit: 48 }), (answer) => `${answer.total} pictures; pick one to get its captions`);
}

function explain(answers) {
  at("words").replaceChildren();
  at("boxes").replaceChildren();
  for (const answer of answers ?? []) {
    const item = element("li");
    const button = element("button");
    button.type = "button";
    button.append(
      element("span", "", answer.word),
      element("span", "score", `${answer.tag ?? (answer.region === null ? "no region" : `region ${answer.region}`)} ${answer.score.toFixed(3)}`),
    );
    if (answer.box) {
      const [x1, y1, x2, y2] = answer.box;
      const box = element("div", "box");
      Object.assign(box.style, { left: `${100 * x1}%`, top: `${100 * y1}%`, width: `${100 * (x2 - x1)}%`, height: `${100 * (y2 - y1)}%` });
      at("boxes").append(box);
      for (const [event, on] of [["focus", true], ["mouseenter", true], ["blur", false], ["mouseleave", false]]) {
        button.addEventListener(event, () => box.classList.toggle("on", on));
      }
    }
    item.append(button);
    at("words").append(item);
  }
}

function open(hit) {
  at("details-title").textContent = hit.id;
  at("details-picture").src = pictureOf(hit.id);
  at("details-picture").alt = (hit.tags ?? []).join(", ") || `picture ${hit.id}`;
  at("details-scores").textContent = hit.matching === undefined ? "" : scores(hit);
  at("captions").replaceChildren();
  explain(hit.why);
  at("ask").onclick = () => captions(hit.id);
  if (!at("details").open) at("details").showModal();
  if (hit.matching === undefined) captions(hit.id);
}

async function captions(id) {
  at("captions").replaceChildren(element("li", "", "Searching …"));
  try {
    const answer = await ask("api/captions", { id, k: 10, rerank: depth() });
    if (at("details-title").textContent !== id) return;
    at("captions").replaceChildren(...answer.results.map((hit) => {
      const item = element("li");
      const button = element("button");
      button.type = "button";
      button.append(element("span", "", hit.caption), element("span", "score", (hit.alignment ?? hit.matching).toFixed(3)));
      button.addEventListener("click", () => { at("details-scores").textContent = scores(hit); explain(hit.why); });
      item.append(button);
      return item;
    }));
  } catch (error) {
    at("captions").replaceChildren(element("li", "", `That did not work: ${error.message}`));
  }
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
at("browse").addEventListener("click", browse);
at("depth").addEventListener("input", () => { at("depth-value").textContent = depth(); });
at("depth").addEventListener("change", () => { if (mode) show(mode.path, mode.parameters, mode.describe); });
at("details-picture").addEventListener("error", () => { at("details-picture").alt = "no picture"; });
say("Say what the picture shows, then press Enter.");
