// The query photograph, on which a box is drawn or a point clicked, by mouse, touch or keyboard.
// A region is [left, top, right, bottom], [x, y] or null, in pixels of the upright photograph.

import { path, svg } from "./svg.js";

const CLICK = 6; // a pointer that moves less has clicked; pixels of the screen
const HANDLE = 7, GRAB = 18; // radius of a corner's handle, and within which it is taken; pixels of the screen
const STEP = 0.02; // of an arrow key, of the photograph's longest side

export class Stage {
  // `changed(region)` is called while a region changes, `chosen()` when it is to be searched.
  constructor(element, { changed, chosen }) {
    this.element = element;
    this.image = element.querySelector("img");
    this.drawing = element.querySelector("svg");
    this.changed = changed;
    this.chosen = chosen;
    this.region = null;
    this.searched = null; // what was searched around a click, a box
    this.drag = null;
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.up(event));
    element.addEventListener("pointercancel", () => this.cancel());
    element.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(element);
  }

  // Of the photograph, which may be larger than what is shown of it.
  get size() {
    return this.full ?? [this.image.naturalWidth, this.image.naturalHeight];
  }

  async show(url, label, full = null) {
    this.full = full;
    this.image.src = url;
    this.image.alt = label;
    this.region = null;
    this.draw();
    await this.image.decode();
    this.set(null);
  }

  set(region) {
    this.region = region && this.inside(region);
    this.searched = null;
    this.draw();
    this.changed(this.region);
  }

  // The box that was described for the point that was clicked.
  frame(box) {
    if (this.region?.length !== 2) return;
    this.searched = box;
    this.draw();
  }

  inside(region) {
    const [width, height] = this.size;
    const clamp = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
    if (region.length === 2) return [clamp(region[0], width - 1), clamp(region[1], height - 1)];
    const [left, right] = [region[0], region[2]].sort((a, b) => a - b).map((x) => clamp(x, width));
    const [top, bottom] = [region[1], region[3]].sort((a, b) => a - b).map((y) => clamp(y, height));
    return [Math.min(left, width - 1), Math.min(top, height - 1), Math.max(right, left + 1), Math.max(bottom, top + 1)];
  }

  draw() {
    const [width, height] = this.size;
    this.drawing.replaceChildren();
    if (!this.region || !width) return;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const pixel = width / (this.image.clientWidth || width);
    if (this.region.length === 2) {
      const [cx, cy] = this.region;
      if (this.searched) this.drawing.append(...this.framed(this.searched, "searched"));
      for (const kind of ["box-under", "box-over"]) {
        this.drawing.append(svg("circle", { cx, cy, r: 14 * pixel, class: kind }));
      }
      this.drawing.append(svg("circle", { cx, cy, r: 4 * pixel, class: "handle" }));
      return;
    }
    const seen = (HANDLE + 1) * pixel; // of a corner at the border of the photograph too
    const within = (value, most) => Math.min(Math.max(value, seen), Math.max(most - seen, seen));
    this.drawing.append(
      ...this.framed(this.region, ""),
      ...corners(this.region).map(([x, y]) =>
        svg("circle", { cx: within(x, width), cy: within(y, height), r: HANDLE * pixel, class: "handle" })),
    );
  }

  framed(box, kind) {
    const [width, height] = this.size;
    const inner = path([corners(box)]);
    return [
      svg("path", { d: path([corners([0, 0, width, height])]) + inner, class: "shade" }),
      svg("path", { d: inner, class: `box-under ${kind}` }),
      svg("path", { d: inner, class: `box-over ${kind}` }),
    ];
  }

  place(event) {
    const frame = this.image.getBoundingClientRect();
    const [width, height] = this.size;
    return [
      ((event.clientX - frame.left) / frame.width) * width,
      ((event.clientY - frame.top) / frame.height) * height,
      width / frame.width,
    ];
  }

  down(event) {
    if (event.button || !this.size[0] || this.drag) return;
    const [x, y, pixel] = this.place(event);
    this.drag = { at: [event.clientX, event.clientY], from: [x, y], before: this.region, moved: false, kind: "draw" };
    if (this.region?.length === 4) {
      const [left, top, right, bottom] = this.region;
      const near = (a, b) => Math.abs(a - b) < GRAB * pixel;
      if ((near(x, left) || near(x, right)) && (near(y, top) || near(y, bottom))) {
        this.drag.from = [near(x, left) ? right : left, near(y, top) ? bottom : top]; // the corner that stays
      } else if (x > left && x < right && y > top && y < bottom) this.drag.kind = "move";
    }
    this.element.setPointerCapture(event.pointerId);
    this.element.focus({ preventScroll: true });
    event.preventDefault();
  }

  move(event) {
    if (!this.drag) return;
    const far = Math.hypot(event.clientX - this.drag.at[0], event.clientY - this.drag.at[1]);
    if (!this.drag.moved && far < CLICK) return;
    this.drag.moved = true;
    const [x, y] = this.place(event);
    const [fromX, fromY] = this.drag.from;
    if (this.drag.kind === "move") this.shift(this.drag.before, x - fromX, y - fromY);
    else this.set([fromX, fromY, x, y]);
  }

  up(event) {
    if (!this.drag) return;
    const { moved } = this.drag;
    this.drag = null;
    if (!moved) this.set(this.place(event).slice(0, 2));
    this.chosen();
  }

  cancel() {
    if (this.drag) this.set(this.drag.before);
    this.drag = null;
  }

  shift([left, top, right, bottom], dx, dy) {
    const [width, height] = this.size;
    dx = Math.min(Math.max(dx, -left), width - right);
    dy = Math.min(Math.max(dy, -top), height - bottom);
    this.set([left + dx, top + dy, right + dx, bottom + dy]);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.size[0]) return;
    const [width, height] = this.size;
    const step = Math.max(1, STEP * Math.max(width, height));
    const arrows = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const grow = { "+": step, "=": step, "-": -step, "−": -step }[event.key];
    if (event.key === "Enter") this.chosen();
    else if (event.key === "Escape") this.set(null);
    else if (!(event.key in arrows) && !grow) return;
    else if (this.region?.length !== 4) { // the first key sets a box: around the point, or in the middle
      const [x, y] = this.region ?? [width / 2, height / 2];
      const [w, h] = this.region ? [width / 8, height / 8] : [width / 4, height / 4];
      this.set([x - w, y - h, x + w, y + h]);
    } else {
      const [left, top, right, bottom] = this.region;
      if (grow) {
        const [dx, dy] = [Math.max(grow, (step + left - right) / 2), Math.max(grow, (step + top - bottom) / 2)];
        this.set([left - dx, top - dy, right + dx, bottom + dy]);
      } else {
        const [dx, dy] = arrows[event.key];
        if (!event.shiftKey) this.shift(this.region, dx, dy);
        else this.set([left, top, Math.max(right + dx, left + step), Math.max(bottom + dy, top + step)]);
      }
    }
    event.preventDefault();
  }
}

const corners = ([left, top, right, bottom]) => [[left, top], [right, top], [right, bottom], [left, bottom]];
