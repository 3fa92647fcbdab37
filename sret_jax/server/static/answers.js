// Ranked answers: the photograph with the object outlined, its name and score, a heat map on demand.

import { heat, photoUrl, search } from "./api.js";
import { icon, path, svg } from "./svg.js";

const PAGE = 20;
const LEAST_ASPECT = 0.7, MOST_ASPECT = 2.6; // width / height of a card's picture

export class Answers {
  // `busy(whether)` is called when a search begins and ends.
  constructor({ list, empty, more }, { used, failed, shown, busy }) {
    Object.assign(this, { list, empty, more, used, failed, shown, busy });
    this.asked = null; // {query, region}
    this.received = 0; // answers
    more.addEventListener("click", () => this.load());
    new IntersectionObserver(([seen]) => seen.isIntersecting && this.load(), { rootMargin: "500px" }).observe(more);
  }

  search(query, region) {
    this.running?.abort();
    this.running = null;
    this.asked = { query, region };
    this.fresh = true;
    return this.load();
  }

  stop() {
    if (!this.running) return;
    this.running.abort();
    this.running = null;
    this.list.classList.remove("waiting");
    this.busy(false);
  }

  async load() {
    if (this.running || !this.asked) return;
    const running = (this.running = new AbortController());
    const { query, region } = this.asked;
    const start = this.fresh ? 0 : this.received;
    const began = performance.now();
    if (this.fresh) {
      this.more.hidden = true;
      this.list.classList.add("waiting");
      this.busy(true);
    }
    try {
      const found = await search(query, region, start, PAGE, running.signal);
      if (this.fresh) this.list.replaceChildren();
      this.fresh = false;
      this.received = start + found.answers.length;
      for (const answer of found.answers) { // one that was turned is another photograph to the server
        if (answer.name !== query.original?.name) this.list.append(this.card(answer, this.list.children.length + 1));
      }
      this.more.hidden = !found.more;
      this.empty.hidden = this.list.children.length > 0;
      this.empty.textContent = "The collection holds no other photograph.";
      this.shown(found, (performance.now() - began) / 1000);
    } catch (error) {
      if (error.name !== "AbortError") {
        if (this.fresh) this.list.replaceChildren();
        this.more.hidden = true;
        this.failed(error, () => this.load());
      }
    } finally {
      if (this.running === running) {
        this.running = null;
        this.list.classList.remove("waiting");
        this.busy(false);
      }
    }
  }

  card(answer, rank) {
    const { name, width, height } = answer;
    const said = answer.found ? ", the object is outlined" : answer.found === false ? ", object not found" : "";
    const picture = Object.assign(document.createElement("button"), { type: "button", className: "picture" });
    picture.setAttribute("aria-label", `${rank}: ${name}, ${answer.score.toFixed(2)}${said}. Search with this one`);
    const image = Object.assign(new Image(), { src: photoUrl(name, 640), alt: "", loading: "lazy", decoding: "async" });
    const hint = Object.assign(document.createElement("span"), { textContent: "Search with this one" });
    picture.append(image, outlined(answer), hint);
    picture.addEventListener("click", () => this.used(answer));

    const words = document.createElement("div");
    const title = Object.assign(document.createElement("b"), { textContent: name.split("/").pop(), title: name });
    const folder = name.split("/").slice(0, -1).join("/");
    const score = Object.assign(document.createElement("span"), {
      className: "score",
      textContent: [answer.score.toFixed(2), answer.found === false && "not found", folder].filter(Boolean).join(" · "),
    });
    words.append(title, score);
    const caption = document.createElement("div");
    caption.className = "caption";
    caption.append(words, this.heatButton(answer, picture), openLink(name));

    const item = document.createElement("li");
    item.dataset.name = name;
    item.classList.toggle("not-found", answer.found === false);
    item.style.setProperty("--aspect", Math.min(Math.max(width / height, LEAST_ASPECT), MOST_ASPECT).toFixed(4));
    item.append(picture, caption);
    return item;
  }

  heatButton({ name }, picture) {
    const { query, region } = this.asked;
    const button = Object.assign(document.createElement("button"), { type: "button", title: "Heat map" });
    button.setAttribute("aria-label", `Heat map of ${name}`);
    button.setAttribute("aria-pressed", "false");
    button.append(icon("heat"));
    let overlay = null;
    button.addEventListener("click", async () => {
      if (overlay) {
        overlay.hidden = !overlay.hidden;
        button.setAttribute("aria-pressed", String(!overlay.hidden));
        return;
      }
      const note = Object.assign(document.createElement("span"), {
        className: "note", textContent: "Drawing the heat map … the first one takes longer", role: "status",
      });
      picture.append(note);
      button.disabled = true;
      button.setAttribute("aria-busy", "true");
      try {
        const url = URL.createObjectURL(await heat(name, query, region));
        overlay = Object.assign(new Image(), { src: url, alt: "", className: "heat" });
        await overlay.decode();
        URL.revokeObjectURL(url);
        picture.querySelector("img").after(overlay);
        button.setAttribute("aria-pressed", "true");
      } catch (error) {
        overlay = null;
        this.failed(error, () => button.click());
      } finally {
        note.remove();
        button.disabled = false;
        button.removeAttribute("aria-busy");
      }
    });
    return button;
  }
}

function outlined({ width, height, outlines }) {
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  if (outlines.length) {
    const d = path(outlines);
    drawing.append(svg("path", { d, class: "outline-under" }), svg("path", { d, class: "outline-over" }));
  }
  return drawing;
}

function openLink(name) {
  const link = Object.assign(document.createElement("a"), {
    href: photoUrl(name), target: "_blank", rel: "noopener", title: "Open in a new tab",
  });
  link.setAttribute("aria-label", `Open ${name} in a new tab`);
  link.append(icon("open"));
  return link;
}
