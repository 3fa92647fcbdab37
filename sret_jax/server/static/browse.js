// The photographs of the collection: thumbnails that are picked from, more of them on the way down.

import { names, photoUrl } from "./api.js";

const PAGE = 60;

export class Browse {
  constructor({ list, starting, empty, more, filter }, { picked, failed }) {
    Object.assign(this, { list, starting, empty, more, filter, picked, failed });
    this.current = null;
    this.indexing = false;
    more.addEventListener("click", () => this.load());
    new IntersectionObserver(([seen]) => seen.isIntersecting && this.load(), { rootMargin: "600px" }).observe(more);
    let timer;
    filter.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.restart(), 150);
    });
    list.addEventListener("keydown", (event) => this.key(event));
  }

  // Nobody has gone far into the list, so that it may be made anew.
  get atStart() {
    return this.list.children.length <= PAGE && !this.list.contains(document.activeElement);
  }

  restart() {
    this.running?.abort();
    this.running = null;
    this.fresh = true;
    return this.load();
  }

  async load() {
    if (this.running) return;
    const running = (this.running = new AbortController());
    const start = this.fresh ? 0 : this.list.children.length;
    try {
      const found = await names(start, PAGE, this.filter.value.trim(), running.signal);
      if (this.fresh) this.list.replaceChildren();
      this.fresh = false;
      this.list.append(...found.names.map((name) => this.tile(name)));
      this.more.hidden = this.list.children.length >= found.total;
      this.empty.hidden = found.total > 0;
      this.empty.textContent = this.filter.value.trim()
        ? `No name contains “${this.filter.value.trim()}”.`
        : this.indexing ? "Photographs appear here once they are indexed."
        : "No photographs yet. Put photographs into the folder of the collection.";
      this.mark(this.current);
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error, () => this.restart());
    } finally {
      this.starting.hidden = true;
      if (this.running === running) this.running = null;
    }
  }

  tile(name) {
    const image = Object.assign(new Image(), { src: photoUrl(name, 320), alt: "", loading: "lazy", decoding: "async" });
    const button = Object.assign(document.createElement("button"), { type: "button", title: name });
    button.setAttribute("aria-label", `Look at ${name}`);
    button.dataset.name = name;
    button.tabIndex = -1;
    button.append(image);
    button.addEventListener("click", () => this.picked(name));
    button.addEventListener("focus", () => this.reach(button));
    const caption = Object.assign(document.createElement("p"), { textContent: name.split("/").pop() });
    caption.setAttribute("aria-hidden", "true");
    caption.addEventListener("click", () => this.picked(name));
    const item = document.createElement("li");
    item.append(button, caption);
    return item;
  }

  // The photograph that is the query now, or null.
  mark(name) {
    this.current = name;
    for (const button of this.list.querySelectorAll("button")) {
      button.toggleAttribute("aria-current", button.dataset.name === name);
      if (button.dataset.name === name) button.setAttribute("aria-current", "true");
    }
    if (!this.list.querySelector("[tabindex='0']")) this.reach(this.list.querySelector("button"));
  }

  // One photograph is reached by Tab, the others from it by arrows.
  reach(button) {
    this.list.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    button?.setAttribute("tabindex", "0");
  }

  key(event) {
    const buttons = [...this.list.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (at < 0) return;
    const columns = Math.max(1, buttons.findIndex((button) => button.offsetTop > buttons[0].offsetTop));
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    let to = event.key in steps ? at + steps[event.key] : { Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    buttons[Math.min(Math.max(to, 0), buttons.length - 1)].focus();
  }
}
