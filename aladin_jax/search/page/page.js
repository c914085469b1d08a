"use strict";
// Everything that comes from the index is put into the page as text, never as HTML.
// What the page shows is its address's: ?q=TEXT&rerank=N, ?browse=OFFSET, ?similar=ID, and &picture=ID while one is open.
// A picture of the reader's own, ?own=NAME, is kept nowhere but in this page: after a reload it has to be chosen again.

const at = (id) => document.getElementById(id);
let depths = ["0", "10", "30", "100", "300", "all"]; // the server may take fewer
const pageSize = 48;
const hint = "Say what the picture shows, then press Enter.";
const dropHint = "Say what the picture shows, then press Enter; or drop a picture here to find others like it.";
let latest = 0;
let shown = null; // the address's part that the results are of
let hits = new Map(); // those in sight, by id; the reader's own picture has none, ""
let own = null; // the reader's own picture, as a hit with its file's content

const depth = () => depths[Number(at("depth").value)];

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

async function ask(path, parameters, picture) {
  const sent = picture && { method: "POST", body: picture, headers: { "content-type": "application/octet-stream" } };
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`, sent);
  let answer = null;
  try { answer = await response.json(); } catch { /* not JSON: told below */ }
  if (!response.ok || answer === null) throw new Error(answer?.error ?? `the server answered ${response.status}`);
  return answer;
}

const about = ask("api/info", {}).catch(() => ({ examples: [], images: 0, captions: 0, max_depth: 0, max_picture_bytes: 0 }));
const pictureOf = (hit) => hit.url ?? `pictures/${encodeURIComponent(hit.id)}`;
const nameOf = (hit) => hit.file || hit.id;
const altOf = (hit) => (hit.tags ?? []).join(", ") || `picture ${nameOf(hit)}`;
const scores = (hit) => `matching ${hit.matching.toFixed(3)}` +
  (hit.alignment === null ? "" : ` · alignment ${hit.alignment.toFixed(3)}`);

// The address and what follows from it

const state = () => new URLSearchParams(location.search);

function go(parameters, opened = false) {
  const query = new URLSearchParams(parameters).toString();
  history.pushState({ opened }, "", query ? `?${query}` : location.pathname);
  return render();
}

async function render() {
  const now = state(), picture = now.get("picture");
  now.delete("picture");
  if (now.toString() !== shown) {
    shown = now.toString();
    at("query").value = now.get("q") ?? "";
    if (depths.includes(now.get("rerank"))) at("depth").value = depths.indexOf(now.get("rerank"));
    at("depth-value").textContent = depth();
    for (const id of ["asked", "examples", "more", "jump"]) at(id).hidden = true;
    if (now.get("q")) await search(now.get("q"));
    else if (now.has("browse")) await browse(Number(now.get("browse")) || 0);
    else if (now.has("similar")) await similar({ id: now.get("similar") });
    else if (now.has("own")) await similar(own?.file === now.get("own") ? own : null);
    else await welcome();
  }
  if (picture !== (state().get("picture"))) return; // the address has changed meanwhile
  const hit = hits.get(picture) ?? (picture && { id: picture });
  if (hit) open(hit);
  else if (at("details").open) at("details").close();
}

// Results

function card(hit) {
  const item = element("li");
  const button = element("button", hit === own ? "card own" : "card");
  button.type = "button";
  const image = element("img");
  image.loading = "lazy";
  image.alt = altOf(hit);
  image.src = pictureOf(hit);
  image.addEventListener("error", () => image.replaceWith(element("span", "none", "no picture")), { once: true });
  button.append(image, element("span", "id", nameOf(hit)), element("span", "", hit === own ? "your picture" : hit.matching === undefined ? "" : scores(hit)));
  button.addEventListener("click", () => go([...state(), ["picture", hit.id]], true));
  item.append(button);
  return item;
}

async function show(path, parameters, describe, asked) {
  const number = ++latest;
  at("results").setAttribute("aria-busy", "true");
  say("Searching …");
  try {
    const answer = await ask(path, parameters, asked?.content);
    if (number !== latest) return;
    const found = asked ? [asked, ...answer.results] : answer.results;
    hits = new Map(found.map((hit) => [hit.id, hit]));
    at("results").replaceChildren(...found.map(card));
    say(answer.results.length ? describe(answer) : "No pictures here.");
  } catch (error) {
    if (number !== latest) return;
    hits = new Map();
    at("results").replaceChildren();
    say(`That did not work: ${error.message}`, true);
  } finally {
    if (number === latest) at("results").setAttribute("aria-busy", "false");
  }
}

function search(q) {
  return show("api/search", { q, k: 24, rerank: depth() }, (answer) => {
    showIgnored(q, answer.left_out ?? []);
    const total = Object.values(answer.milliseconds).reduce((sum, value) => sum + value, 0);
    return `${answer.results.length} pictures in ${total.toFixed(1)} ms, ${answer.rerank} candidates re-ranked ` +
      `in ${answer.milliseconds.rerank.toFixed(1)} ms${answer.note && `; ${answer.note}`}`;
  });
}

function browse(offset) {
  return show("api/images", { offset, limit: pageSize }, (answer) => {
    const last = offset + answer.results.length;
    at("more").hidden = last >= answer.total;
    at("jump").hidden = answer.total <= pageSize;
    at("place").max = answer.total;
    at("more").onclick = () => { scrollTo(0, 0); go({ browse: last }); };
    return `Pictures ${(offset + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ` +
      `${answer.total.toLocaleString("en")}; pick one to get its captions`;
  });
}

function similar(hit) {
  if (hit) {
    return show("api/similar", hit === own ? { k: 24 } : { k: 24, id: hit.id },
      (answer) => `${answer.results.length} pictures like ${nameOf(hit)}, by the matching head`, hit === own ? own : undefined);
  }
  clear();
  say("That picture was kept nowhere: choose it again.", true);
}

function clear() {
  latest++;
  hits = new Map();
  at("results").replaceChildren();
  at("results").setAttribute("aria-busy", "false");
}

async function welcome() {
  clear();
  const number = latest;
  say(hint);
  const { examples, max_picture_bytes: takes } = await about;
  if (number === latest && takes) say(dropHint);
  if (number !== latest || !examples.length) return;
  at("examples-list").replaceChildren(...examples.map((text) => {
    const item = element("li");
    const button = element("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => go({ q: text, rerank: depth() }));
    item.append(button);
    return item;
  }));
  at("examples").hidden = false;
}

// The query with the words that did not count in grey, and why
function showIgnored(query, pieces) {
  if (!pieces.length) return;
  const reasons = new Map(pieces.map(({ text, reason }) => [text, reason]));
  const escaped = [...reasons.keys()].map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const line = element("span");
  for (const part of query.split(new RegExp(`(?<![\\p{L}\\p{N}])(${escaped.join("|")})(?![\\p{L}\\p{N}])`, "u"))) {
    const made = element("span", reasons.has(part) ? "ignored" : "", part);
    if (reasons.has(part)) made.title = reasons.get(part);
    line.append(made);
  }
  const why = pieces.map(({ text, reason }) => `“${text}”: ${reason}`).join("; ");
  at("asked").replaceChildren(line, element("span", "reason", ` Did not count: ${why}.`));
  at("asked").hidden = false;
}

// One picture

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
  at("details").dataset.id = hit.id;
  at("details-title").textContent = nameOf(hit);
  at("details-picture").src = pictureOf(hit);
  at("details-picture").alt = altOf(hit);
  at("details-scores").textContent = hit.matching === undefined ? "" : scores(hit);
  at("captions").replaceChildren();
  explain(hit.why);
  enlarge(false);
  at("ask").onclick = () => captions(hit);
  at("similar").onclick = () => go({ similar: hit.id });
  at("similar").hidden = hit === own;
  if (!at("details").open) at("details").showModal();
  if (hit.matching === undefined) captions(hit);
}

function enlarge(large) {
  at("details").classList.toggle("large", large);
  at("larger").textContent = large ? "Smaller picture" : "Larger picture";
  at("larger").setAttribute("aria-pressed", large);
}

async function captions({ id, content }) {
  at("captions").replaceChildren(element("li", "", "Searching …"));
  try {
    const asked = content ? { k: 10, rerank: depth() } : { id, k: 10, rerank: depth() };
    const answer = await ask("api/captions", asked, content);
    if (at("details").dataset.id !== id) return;
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

// A picture of the reader's own

function askWith(file, most) {
  if (file.size > most) {
    return say(`${file.name} has ${file.size.toLocaleString("en")} bytes; at most ${most.toLocaleString("en")} are taken.`, true);
  }
  if (own) URL.revokeObjectURL(own.url);
  own = { id: "", file: file.name, content: file, url: URL.createObjectURL(file) };
  shown = null; // a file of the same name may be another
  return go({ own: file.name });
}

function takePictures(most) {
  at("choose").hidden = false;
  at("choose").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    if (file) askWith(file, most);
    at("file").value = ""; // so that the same one can be chosen again
  });
  const over = (event, on) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dropping", on);
  };
  addEventListener("dragover", (event) => over(event, true));
  addEventListener("dragleave", (event) => over(event, false));
  addEventListener("drop", (event) => {
    over(event, false);
    const [file] = event.dataTransfer?.files ?? [];
    if (file) askWith(file, most);
  });
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = at("query").value.trim();
  if (q) shown = null; // asked again, it is searched again
  go(q ? { q, rerank: depth() } : {});
});
at("browse").addEventListener("click", () => go({ browse: 0 }));
at("jump").addEventListener("submit", (event) => {
  event.preventDefault();
  scrollTo(0, 0);
  go({ browse: at("place").valueAsNumber - 1 });
});
at("depth").addEventListener("input", () => { at("depth-value").textContent = depth(); });
at("depth").addEventListener("change", () => { if (state().get("q")) go({ q: state().get("q"), rerank: depth() }); });
at("larger").addEventListener("click", () => enlarge(!at("details").classList.contains("large")));
at("details").addEventListener("close", () => {
  const now = state();
  if (!now.has("picture")) return;
  if (history.state?.opened) { history.back(); return; }
  now.delete("picture");
  history.replaceState(null, "", now.size ? `?${now}` : location.pathname);
});
at("details-picture").addEventListener("error", () => { at("details-picture").alt = "no picture"; });
addEventListener("popstate", render);
about.then(({ images, captions, max_depth: most, max_picture_bytes: bytes }) => {
  depths = depths.filter((depth) => (depth === "all" ? Math.max(images, captions) : Number(depth)) <= most);
  at("depth").max = depths.length - 1;
  if (bytes) takePictures(bytes);
  render();
});
