// The details of cells: where each number comes from. Pages are complete without scripts; no part of the site is fetched.
"use strict";

document.documentElement.classList.add("js");

const REST = 220; // milliseconds that the pointer may leave a cell on its way to the details
const STOP = ".cell, tbody th a"; // what arrow keys go to in a table
const LEAST = 120; // pixels of height that the details have in the smallest window

/** The panel with the details of a cell. Pointer or focus open it for a while; a click pins it until it is closed. */
class Details {
  constructor(panel) {
    this.panel = panel;
    this.cell = null;
    this.pinned = false;
    panel.querySelector(".close").addEventListener("click", () => this.close(true));
    panel.addEventListener("mouseenter", () => clearTimeout(this.timer));
    panel.addEventListener("mouseleave", () => this.closeSoon());
    panel.addEventListener("focusout", (event) => this.leave(event.relatedTarget));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.close(true));
    document.addEventListener("pointerdown", (event) => event.target.closest(".cell") || this.leave(event.target));
    document.addEventListener("scroll", () => this.place(), { capture: true, passive: true });
    addEventListener("resize", () => this.place());
  }

  show(cell, content, pinned) {
    clearTimeout(this.timer);
    if (this.cell !== cell) {
      this.cell?.setAttribute("aria-expanded", "false");
      this.fill(content);
    }
    Object.assign(this, { cell, pinned });
    cell.setAttribute("aria-expanded", "true");
    this.panel.togglePopover(true);
    this.place();
    this.makeRoom();
  }

  fill(content) {
    const list = this.panel.querySelector("dl");
    const addFacts = (facts) => facts.forEach(([name, text]) => list.append(element("dt", name), element("dd", text)));
    const addLink = (link, depth) => {
      const head = element("dt", `${link.label} `);
      head.className = "link";
      head.style.setProperty("--depth", depth);
      if (link.copy) head.append(Object.assign(element("a", link.file), { href: link.copy }));
      else if (link.file && !link.label.includes(link.file)) head.append(link.file);
      list.append(head);
      addFacts(link.facts);
      link.links.forEach((number) => addLink(content.all[number], depth + 1));
    };
    this.panel.querySelector("h2").textContent = content.title;
    list.replaceChildren();
    addFacts(content.facts);
    content.links.forEach((number) => addLink(content.all[number], 0));
    this.panel.scrollTop = 0;
  }

  /** Beside the table where there is room, else below or above the cell or above the table; on a phone at the foot of the
   *  window. Always in the window; never over the cell, the table's headings or the page's title. */
  place() {
    if (!this.cell) return;
    const box = (place) => place.getBoundingClientRect();
    const table = this.cell.closest("table");
    const [cell, head] = [box(this.cell), box(table.tHead)];
    const [width, floor] = [document.documentElement.clientWidth, innerHeight - 6];
    const ceiling = Math.max(0, box(document.querySelector("h1")).bottom) + 6;
    const setRoom = (room) => this.panel.style.setProperty("--room", `${Math.max(room, LEAST)}px`);
    setRoom(floor);
    const panel = box(this.panel);
    const beside = box(table.closest(".scroll")).left + table.offsetWidth + 16;
    const fits = beside + panel.width + 6 <= width;
    const free = [[cell.bottom + 6, floor], [Math.max(ceiling, head.bottom + 6), cell.top - 6], [ceiling, head.top - 6]];
    if (fits || this.onPhone()) free.splice(0, 3, [ceiling, floor]);
    const size = ([start, end]) => end - start;
    const [start, end] = free.find((span) => size(span) >= panel.height) ?? free.sort((a, b) => size(b) - size(a))[0];
    setRoom(end - start);
    const left = fits ? beside : Math.max(6, Math.min(cell.right, width - 6) - panel.width);
    const top = Math.max(start, Math.min(cell.top, end - this.panel.offsetHeight));
    this.panel.style.inset = `${top}px auto auto ${left}px`;
  }

  /** Where the panel lies at the foot of the window, scroll the page so that the cell is above it. */
  makeRoom() {
    const most = innerHeight - this.panel.offsetHeight - 12;
    if (this.onPhone() && this.cell.getBoundingClientRect().bottom > most) scrollBy(0, this.cell.getBoundingClientRect().bottom - most);
  }

  onPhone() {
    return matchMedia("(max-width: 46rem)").matches;
  }

  /** Close where the pointer or focus goes to something that is neither the panel nor its cell. */
  leave(to) {
    if (to && to !== this.cell && !this.panel.contains(to)) this.close();
  }

  closeSoon() {
    clearTimeout(this.timer);
    if (!this.pinned && document.activeElement !== this.cell) this.timer = setTimeout(() => this.close(), REST);
  }

  /** With `back`, focus goes back to the cell, whose details stay closed. */
  close(back = false) {
    clearTimeout(this.timer);
    const cell = this.cell;
    if (!cell) return;
    Object.assign(this, { cell: null, pinned: false, quiet: back });
    cell.setAttribute("aria-expanded", "false");
    this.panel.togglePopover(false);
    if (back) cell.focus({ preventScroll: true });
    this.quiet = false;
  }
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

function makeDetailed(figure, details) {
  const data = JSON.parse(figure.querySelector("script.details").textContent);
  const table = figure.querySelector("table.data");
  const cells = Array.from(table.querySelectorAll(".cell"));
  // One stop of the Tab key for the whole table; arrow keys go from cell to cell, and to the link of a row.
  const stops = Array.from(table.querySelectorAll(STOP));
  for (const stop of stops) {
    stop.tabIndex = stop === cells[0] ? 0 : -1;
    stop.addEventListener("focus", () => stops.forEach((other) => (other.tabIndex = other === stop ? 0 : -1)));
    stop.addEventListener("keydown", (event) => step(event, table, stop));
  }
  cells.forEach((cell) => {
    const show = (pinned) => details.show(cell, { ...data.cells[Number(cell.dataset.cell)], all: data.links }, pinned);
    cell.setAttribute("aria-haspopup", "dialog");
    cell.setAttribute("aria-expanded", "false");
    cell.addEventListener("mouseenter", () => details.pinned || show(false));
    cell.addEventListener("mouseleave", () => details.closeSoon());
    cell.addEventListener("focus", () => {
      if (!details.quiet && cell.matches(":focus-visible")) show(false);
    });
    cell.addEventListener("blur", (event) => {
      if (details.cell === cell && !details.pinned && !details.panel.contains(event.relatedTarget)) details.close();
    });
    cell.addEventListener("click", () => {
      if (details.cell === cell && details.pinned) return details.close(true);
      show(true);
      details.panel.focus({ preventScroll: true });
    });
  });
}

/** Go to the neighbour that an arrow key, Home or End points at. */
function step(event, table, stop) {
  const place = stop.closest("td, th");
  const row = place.parentElement;
  const beside = { ArrowLeft: place.cellIndex - 1, ArrowRight: place.cellIndex + 1, Home: 1, End: row.cells.length - 1 };
  const above = { ArrowUp: row.previousElementSibling, ArrowDown: row.nextElementSibling };
  if (!(event.key in beside) && !(event.key in above)) return;
  event.preventDefault();
  // The first column stays in place while a table scrolls; a cell must not come to lie below it.
  table.closest(".scroll").style.scrollPaddingLeft = `${row.cells[0].offsetWidth}px`;
  const nextRow = event.key in above ? above[event.key] : row;
  const next = nextRow?.cells[beside[event.key] ?? place.cellIndex]?.querySelector(STOP);
  next?.scrollIntoView({ block: "nearest", inline: "nearest" });
  next?.focus({ preventScroll: true });
}

const panel = document.querySelector("#details");
if (panel) makeDetailed(document.querySelector("figure.table"), new Details(panel));
