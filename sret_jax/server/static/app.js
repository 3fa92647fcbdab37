// What is looked for, what is shown, and how the two follow each other.

import { Answers } from "./answers.js";
import { object, picture, sendable, status, turned } from "./api.js";
import { Browse } from "./browse.js";
import { Stage } from "./stage.js";

const SOON = 2000, SELDOM = 30000; // between two looks at the status, milliseconds
const PATIENCE = 2500; // until it is said why something takes long, milliseconds
const PART = 0.6; // of the photograph's area: a larger box of an answer points at nothing
const $ = (id) => document.getElementById(id);
const uploads = []; // queries that came from files, for the way back
// {name}, or {file, label, shown, size}: what is sent, and what shows it, of a photograph of this size; one that was
// turned is such a file too, with the `original` and the `quarters` of a turn.
let query = null;

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
  { list: $("photo-list"), starting: $("starting"), empty: $("browse-empty"), more: $("more-photos"), filter: $("filter") },
  { picked: (name) => choose({ name }), failed: fail },
);
const answers = new Answers(
  { list: $("answer-list"), empty: $("answers-empty"), more: $("more-answers") },
  {
    used: (answer) => choose({ name: answer.name }, pointing(answer), true),
    failed: fail, shown: answersShown, busy: (whether) => working(whether && "Searching …"),
  },
);

// ---- the query

// The box of an answer, unless it takes in almost all of it: then all of it is looked for.
function pointing({ box, width, height }) {
  return box && (box[2] - box[0]) * (box[3] - box[1]) < PART * width * height ? box : null;
}

// The region may be a function of the photograph's [width, height].
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
  follow();
  let shown;
  try {
    shown = next.shown ? { url: URL.createObjectURL(next.shown), size: next.size } : await picture(next.name, 1280);
    if (query !== next) return; // another was chosen meanwhile
    await stage.show(shown.url, next.name ?? next.label, shown.size);
  } catch {
    return fail(new Error("The photograph cannot be shown."), () => choose(next, region, searching, remembering));
  } finally {
    if (shown) URL.revokeObjectURL(shown.url);
  }
  stage.set(typeof region === "function" ? region(stage.size) : region);
  if (remembering) history.pushState(stateOf(), "");
  if (searching) search();
  else say("Draw a box around a thing, click it, or use the arrow keys. Enter searches.");
  stage.element.focus({ preventScroll: innerWidth > 900 });
}

async function chooseFile(file) {
  if (!file) return;
  $("error").hidden = true;
  $("query").setAttribute("aria-busy", "true");
  try {
    const sent = await sendable(file);
    $("query").removeAttribute("aria-busy");
    await choose({ ...sent, label: file.name || "A photograph" });
  } catch (error) {
    fail(error, null);
  } finally {
    $("query").removeAttribute("aria-busy");
  }
}

// A quarter to the right; what was pointed at turns with it.
async function turn() {
  const before = query, region = stage.region, [width, height] = stage.size;
  const original = before.original ?? before, quarters = ((before.quarters ?? 0) + 1) % 4;
  const follows = ([w, h]) => {
    const right = (y) => (1 - y / height) * w, down = (x) => (x / width) * h;
    if (region?.length === 2) return [right(region[1]), down(region[0])];
    return region && [right(region[3]), down(region[0]), right(region[1]), down(region[2])];
  };
  const searching = current === "answers";
  const done = during($("turn"));
  try {
    let next = original;
    if (quarters) {
      const file = await turned(original, quarters);
      next = { file, shown: file, size: null, label: original.name ?? original.label, original, quarters };
    }
    if (query === before) await choose(next, follows, searching);
    $("turn").focus({ preventScroll: true });
  } catch (error) {
    fail(error, turn);
  } finally {
    done();
  }
}

// Shows on a button that what it began goes on; what is returned ends that.
function during(button, text) {
  const before = button.textContent;
  if (text) button.textContent = text;
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  return () => {
    if (text) button.textContent = before;
    button.disabled = false;
    button.removeAttribute("aria-busy");
  };
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
  follow();
}

async function suggest() {
  const asked = query;
  const done = during($("suggest"), "Looking …");
  say("Looking for what stands out. The first time takes longer");
  try {
    const box = await object(asked);
    if (query !== asked || stage.region) return;
    stage.set(box);
    stage.element.focus({ preventScroll: true });
    search();
  } catch (error) {
    fail(error, suggest);
  } finally {
    done();
  }
}

// ---- searching

function search(remembering = true) {
  if (!query) return;
  if (remembering) history.replaceState(stateOf(true), "");
  $("error").hidden = true;
  $("answers-tab").disabled = false;
  $("advice").hidden = $("legend").hidden = true;
  follow.summary = "";
  show("answers");
  if (innerWidth > 900) scrollTo(0, 0); // below the photograph otherwise
  say("Searching");
  answers.search(query, stage.region);
  follow();
}

// Says what is being done, and why where it takes long; "" when it is done.
function working(text) {
  clearTimeout(working.timer);
  $("working").hidden = !text;
  $("answers").setAttribute("aria-busy", String(Boolean(text)));
  follow();
  if (!text) return;
  $("working-text").textContent = text;
  const explain = () => {
    const why = look.ready === false
      ? `${text} The first search waits until everything is ready, which may take a minute.`
      : `${text} The first one of its kind takes longer.`;
    say($("working-text").textContent = why);
  };
  working.timer = setTimeout(explain, look.ready === false ? 0 : PATIENCE);
}

// Whether the answers are those of what is pointed at now, or of an earlier search.
function follow() {
  const { asked } = answers;
  const same = asked && query && String(asked.region) === String(stage.region) &&
    (asked.query === query || (query.name !== undefined && asked.query.name === query.name));
  const earlier = Boolean(asked && !same);
  $("answers").classList.toggle("earlier", earlier);
  $("go").classList.toggle("due", earlier);
  $("summary").textContent = earlier ? "Answers of the earlier search" : $("working").hidden ? follow.summary ?? "" : "";
}

function answersShown(found, seconds) {
  const shown = $("answer-list");
  const looked = found.answers.filter((answer) => answer.found !== null).length;
  const hits = shown.querySelectorAll("li:not(.not-found)").length;
  const count = shown.children.length;
  const photographs = count === 1 ? "1 photograph" : `${count} photographs`;
  const text = looked ? `Found in ${hits} of the first ${photographs}` : `The first ${photographs}`;
  const none = looked > 0 && !hits;
  follow.summary = none ? `The ${photographs} most alike` : text;
  if (!found.start) follow.summary += ` · ${seconds.toFixed(1)} s`;
  $("advice").hidden = !none;
  $("legend").hidden = !looked || none;
  shown.classList.toggle("none-found", none);
  follow();
  if (!$("answers").classList.contains("earlier")) stage.frame(found.searched);
  const [best] = found.answers;
  const advice = none ? `. ${$("advice").textContent.replace(/\s+/g, " ")}` : "";
  say((best && !found.start ? `${text}. Best: ${best.name}, ${best.score.toFixed(2)}` : text) + advice);
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
    $("notice").textContent = now.message || (now.ready || now.indexing ? "" : "Getting ready …");
    $("notice").title = now.message;
    $("notice").hidden = !$("notice").textContent;
    look.ready = now.ready;
    browse.indexing = now.indexing;
    const version = `${now.updated} ${now.photos}`;
    if (look.version !== undefined && look.version !== version && browse.atStart) browse.restart();
    look.version = version;
    if (now.indexing || !now.ready) wait = SOON;
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
$("turn").addEventListener("click", turn);
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

look();
browse.restart();
if (history.state) restore(history.state);
