// Enlarged figures: a dialog in which a picture is enlarged by wheel and keys, and scrolls by pointer, fingers and keys.
"use strict";

const STEP = 1.4;
const LARGEST = 20;
const READABLE = 736; // pixels of width at which a figure's small print can be read

const dialog = document.querySelector("#zoom");
const stage = dialog.querySelector(".stage");
const image = dialog.querySelector("img");
let size = 1;

/** Enlarge around a point of the window, which stays where it is. */
function enlarge(to, x = innerWidth / 2, y = innerHeight / 2) {
  const real = Math.min(LARGEST, Math.max(1, to)) / size;
  const [left, top] = [(stage.scrollLeft + x) * real - x, (stage.scrollTop + y) * real - y];
  size *= real;
  image.style.width = image.style.height = `${100 * size}%`;
  stage.scrollTo(left, top);
}

const acts = {
  in: () => enlarge(size * STEP),
  out: () => enlarge(size / STEP),
  fit: () => enlarge(1),
  close: () => dialog.close(),
};
const keys = { "+": "in", "=": "in", "-": "out", 0: "fit" };
const ways = { ArrowLeft: [-80, 0], ArrowRight: [80, 0], ArrowUp: [0, -80], ArrowDown: [0, 80] };

dialog.querySelector(".tools").addEventListener("click", (event) => acts[event.target.dataset.do]?.());
dialog.addEventListener("keydown", (event) => {
  acts[keys[event.key]]?.();
  if (event.key in ways) stage.scrollBy(...ways[event.key]);
  if (event.key in keys || event.key in ways) event.preventDefault();
});
stage.addEventListener("dblclick", (event) => enlarge(size * STEP * STEP, event.clientX, event.clientY));
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  enlarge(size * Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
});
stage.addEventListener("pointermove", (event) => {
  if (event.buttons && event.pointerType === "mouse") stage.scrollBy(-event.movementX, -event.movementY);
});
document.querySelector("[data-zoom]").addEventListener("click", (event) => {
  event.preventDefault();
  dialog.showModal();
  enlarge(1);
  enlarge(READABLE / innerWidth, 0);
});
