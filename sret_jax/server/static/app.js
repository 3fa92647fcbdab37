// What is looked for, what is shown, and how the two follow each other.

import { Answers } from "./answers.js";
import { object, picture, sendable, status } from "./api.js";
import { Browse } from "./browse.js";
import { Stage } from "./stage.js";

const SOON = 2000, SELDOM = 30000; // between two looks at the status, milliseconds
const $ = (id) => document.getElementById(id);
const uploads = []; // queries that came from files, for the way back
let query = null; // {name} or {file, label}

const say = (text) => ($("live").textContent = text);

function fail(error, again) {
  $("error-text").textContent = error.message;
  $("retry").onclick = () => {
    $("error").hidden = true;
    again();
  };
  $("retry").hidden = !again;
  $("error").hidden = false;
}

const stage = new Stage($("stage"), { changed: regionChanged, chosen: () => search() });
const browse = new Browse(
  { list: $("photo-list"), empty: $("browse-empty"), more: $("more-photos"), filter: $("filter") },
  { picked: (name) => choose({ name }), failed: fail },
);
const answers = new Answers(
  { list: $("answer-list"), empty: $("answers-empty"), more: $("more-answers") },
  { used: (answer) => choose({ name: answer.name }, answer.box, true), failed: fail, shown: answersShown },
);

// ---- the query

async function choose(next, region = null, searching = false, remembering = true) {
  query = next;
  answers.stop();
  $("error").hidden = true;
  $("empty-query").hidden = Boolean(query);
  $("chosen-query").hidden = !query;
  $("query-heading").textContent = query ? "Point at it" : "What are you looking for?";
  browse.mark(query?.name ?? null);
  if (!query) return show("browse");
  $("query-name").textContent = query.name ?? query.label;
  let shown;
  try {
    shown = next.file ? { url: URL.createObjectURL(next.file), size: null } : await picture(next.name, 1280);
    if (query !== next) return; // another was chosen meanwhile
    await stage.show(shown.url, next.name ?? next.label, shown.size);
  } catch {
    return fail(new Error("The photograph cannot be shown."), () => choose(next, region, searching, remembering));
  } finally {
    if (shown) URL.revokeObjectURL(shown.url);
  }
  stage.set(region);
  if (remembering) history.pushState(stateOf(), "");
  if (searching) search();
  else say("Draw a box around a thing, click it, or use the arrow keys. Enter searches.");
  stage.element.focus({ preventScroll: innerWidth > 900 });
}

async function chooseFile(file) {
  if (!file) return;
  try {
    await choose({ file: await sendable(file), label: file.name || "A photograph" });
  } catch (error) {
    fail(error, null);
  }
}

function regionChanged(region) {
  $("clear").hidden = !region;
  $("suggest").hidden = Boolean(region);
  $("go").textContent = region ? "Search for this" : "Search the whole photograph";
  if (region?.length === 4) {
    const [left, top, right, bottom] = region;
    $("stage").setAttribute("aria-label", `The photograph. Box at ${left}, ${top}, ${right - left} by ${bottom - top} pixels`);
    if (!stage.drag) say(`Box at ${left}, ${top}, ${right - left} by ${bottom - top} pixels`);
  } else {
    $("stage").setAttribute("aria-label", region ? `The photograph. Point at ${region.join(", ")}` : "The photograph");
    if (!region && query) say("The whole photograph");
  }
}

async function suggest() {
  const asked = query;
  try {
    const box = await object(asked);
    if (query === asked && !stage.region) stage.set(box);
    stage.element.focus({ preventScroll: true });
  } catch (error) {
    fail(error, suggest);
  }
}

// ---- searching

function search(remembering = true) {
  if (!query) return;
  if (remembering) history.replaceState(stateOf(true), "");
  $("error").hidden = true;
  $("answers-tab").disabled = false;
  $("summary").textContent = "Searching …";
  show("answers");
  if (innerWidth > 900) scrollTo(0, 0); // below the photograph otherwise
  say("Searching");
  answers.search(query, stage.region);
}

function answersShown(found, seconds) {
  const shown = $("answer-list");
  const looked = found.answers.filter((answer) => answer.found !== null).length;
  const hits = shown.querySelectorAll("li:not(.not-found)").length;
  const count = shown.children.length;
  const photographs = count === 1 ? "1 photograph" : `${count} photographs`;
  const text = looked ? `Found in ${hits} of the first ${photographs}` : `The first ${photographs}`;
  $("summary").textContent = found.start ? text : `${text} · ${seconds.toFixed(1)} s`;
  const [best] = found.answers;
  say(best && !found.start ? `${text}. Best: ${best.name}, ${best.score.toFixed(2)}` : text);
}

// ---- answers or collection

const places = { answers: 0, browse: 0 }; // how far each was scrolled
let current = "browse";

function show(which) {
  const moved = which !== current;
  if (moved) places[current] = scrollY;
  current = which;
  for (const name of ["answers", "browse"]) {
    const tab = $(`${name}-tab`);
    tab.setAttribute("aria-selected", String(name === which));
    tab.tabIndex = name === which ? 0 : -1;
    $(name).hidden = name !== which;
  }
  $("filter").hidden = which !== "browse";
  $("summary").hidden = which !== "answers";
  if (moved) scrollTo(0, places[which]);
}

for (const name of ["answers", "browse"]) {
  $(`${name}-tab`).addEventListener("click", () => show(name));
  $(`${name}-tab`).addEventListener("keydown", (event) => {
    const other = name === "answers" ? "browse" : "answers";
    if (!["ArrowLeft", "ArrowRight"].includes(event.key) || $(`${other}-tab`).disabled) return;
    show(other);
    $(`${other}-tab`).focus();
  });
}

// ---- the way back

function stateOf(searched = false) {
  const { name, file } = query;
  if (file && !uploads.includes(query)) uploads.push(query);
  return { name, upload: file ? uploads.indexOf(query) : undefined, region: stage.region, searched };
}

function restore(state) {
  const before = state && (state.name !== undefined ? { name: state.name } : uploads[state.upload]);
  if (!before) return choose(null, null, false, false);
  return choose(before, state.region, false, false).then(() => (state.searched ? search(false) : show("browse")));
}
addEventListener("popstate", (event) => restore(event.state));

// ---- the collection

async function look() {
  let wait = SELDOM;
  try {
    const now = await status();
    $("collection-name").textContent = now.name;
    document.title = `Find it in ${now.name}`;
    $("collection-size").textContent = `${now.photos.toLocaleString("en")} photograph${now.photos === 1 ? "" : "s"}`;
    $("collection-size").title = now.skipped ? `${now.skipped} files cannot be used` : "";
    $("indexing").hidden = !now.indexing;
    $("indexing-bar").max = now.total || 1;
    $("indexing-bar").value = now.done;
    $("indexing-text").textContent = `Indexing ${now.done.toLocaleString("en")} of ${now.total.toLocaleString("en")}`;
    browse.indexing = now.indexing;
    const version = `${now.updated} ${now.photos}`;
    if (look.version !== undefined && look.version !== version && browse.atStart) browse.restart();
    look.version = version;
    if (now.indexing) wait = SOON;
  } catch {
    $("indexing").hidden = true; // what is asked next says that nobody answers
    wait = SOON * 2;
  }
  setTimeout(look, wait);
}

// ---- what a person does

$("dismiss").addEventListener("click", () => ($("error").hidden = true));
$("choose").addEventListener("click", () => $("file").click());
$("another").addEventListener("click", () => {
  choose(null);
  history.pushState(null, "");
  $("choose").focus();
});
$("file").addEventListener("change", () => {
  chooseFile($("file").files[0]);
  $("file").value = "";
});
$("go").addEventListener("click", () => search());
$("suggest").addEventListener("click", suggest);
$("clear").addEventListener("click", () => {
  stage.set(null);
  stage.element.focus();
});
$("query").addEventListener("keydown", (event) => event.key === "Escape" && stage.set(null));
addEventListener("paste", (event) => chooseFile(event.clipboardData.files[0]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  chooseFile(event.dataTransfer.files[0]);
});

look().then(() => browse.restart());
if (history.state) restore(history.state);
