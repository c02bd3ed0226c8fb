// Enlarged figures: a dialog in which a picture is moved and enlarged by wheel, fingers and keys.
"use strict";

const STEP = 1.4;
const LARGEST = 40;

class Zoom {
  constructor(dialog) {
    this.dialog = dialog;
    this.stage = dialog.querySelector(".stage");
    this.image = dialog.querySelector("img");
    this.fingers = new Map();
    this.fit();
    dialog.querySelector(".tools").addEventListener("click", (event) => this.act(event.target.dataset.do));
    dialog.addEventListener("keydown", (event) => this.key(event));
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener("dblclick", (event) => this.by(STEP * STEP, event.clientX, event.clientY));
    this.stage.addEventListener("pointerdown", (event) => this.press(event));
    this.stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.stage.addEventListener(end, (event) => this.fingers.delete(event.pointerId));
    }
  }

  open() {
    this.fit();
    this.dialog.showModal();
  }

  fit() {
    [this.x, this.y, this.size] = [0, 0, 1];
    this.draw();
  }

  draw() {
    this.image.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.size})`;
  }

  /** Enlarge by a factor around a point of the window, which stays where it is. */
  by(factor, x = innerWidth / 2, y = innerHeight / 2) {
    const size = Math.min(LARGEST, Math.max(1, this.size * factor));
    if (size === 1) return this.fit();
    const real = size / this.size;
    [this.x, this.y, this.size] = [x - (x - this.x) * real, y - (y - this.y) * real, size];
    this.draw();
  }

  shift(x, y) {
    this.x += x;
    this.y += y;
    this.draw();
  }

  act(what) {
    if (what === "in") this.by(STEP);
    if (what === "out") this.by(1 / STEP);
    if (what === "fit") this.fit();
    if (what === "close") this.dialog.close();
  }

  key(event) {
    const act = { "+": "in", "=": "in", "-": "out", "0": "fit" }[event.key];
    const way = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] }[event.key];
    if (act) this.act(act);
    if (way) this.shift(...way);
    if (act || way) event.preventDefault();
  }

  wheel(event) {
    event.preventDefault();
    this.by(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
  }

  press(event) {
    event.preventDefault();
    this.stage.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  /** One finger or the mouse moves the figure, two enlarge it. */
  move(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    this.fingers.set(event.pointerId, now);
    if (this.fingers.size === 1) return this.shift(now[0] - before[0], now[1] - before[1]);
    const other = Array.from(this.fingers).find(([id]) => id !== event.pointerId)[1];
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    if (apart(before) > 0) this.by(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
}

const dialog = document.querySelector("#zoom");
if (dialog) {
  const zoom = new Zoom(dialog);
  document.querySelectorAll("[data-zoom]").forEach((link) =>
    link.addEventListener("click", (event) => {
      event.preventDefault();
      zoom.open();
    }),
  );
}
