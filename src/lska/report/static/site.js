// Sorting, and the details of cells. Pages are complete without scripts; no part of the site is fetched.
"use strict";

document.documentElement.classList.add("js");

// ---------------------------------------------------------------- sorting

/** What a row is sorted by in a column: [rank, value]; rows that have nothing come last in both directions. */
function sortKey(row, column) {
  const cell = row.cells[column];
  const own = cell.dataset.sort ?? cell.textContent.trim();
  if (own !== "") return [0, asNumber(own)];
  const paper = cell.dataset.paper ?? "";
  return paper === "" ? [2, ""] : [1, asNumber(paper)];
}

function asNumber(text) {
  const number = Number(text);
  return text !== "" && Number.isFinite(number) ? number : text;
}

function compareValues(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function sortTable(table, column, direction) {
  const rows = Array.from(table.tBodies[0].rows);
  const keys = new Map(rows.map((row) => [row, sortKey(row, column)]));
  const sign = direction === "descending" ? -1 : 1;
  rows.sort((one, other) => {
    const [rank, value] = keys.get(one);
    const [otherRank, otherValue] = keys.get(other);
    return rank - otherRank || sign * compareValues(value, otherValue);
  });
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  const heads = Array.from(table.tHead.rows[0].cells);
  const printed = Array.from(table.tBodies[0].rows);
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      if (next === "none") table.tBodies[0].append(...printed);
      else sortTable(table, column, next);
    });
  });
}

// ---------------------------------------------------------------- details

const POPOVERS = "popover" in HTMLElement.prototype; // otherwise details lie in the page, hidden or not
const REST = 220; // milliseconds that the pointer may leave a cell on its way to the details

class Details {
  constructor(panel) {
    this.panel = panel;
    this.cell = null;
    this.pinned = false;
    this.timer = 0;
    this.open(false);
    panel.querySelector(".close").addEventListener("click", () => this.close(true));
    panel.addEventListener("mouseenter", () => clearTimeout(this.timer));
    panel.addEventListener("mouseleave", () => this.closeSoon());
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.cell && this.close(true));
    document.addEventListener("pointerdown", (event) => {
      if (this.cell && !panel.contains(event.target) && !event.target.closest(".cell")) this.close(false);
    });
    panel.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !panel.contains(event.relatedTarget) && event.relatedTarget !== this.cell) this.close(false);
    });
    addEventListener("resize", () => this.cell && this.place());
    document.addEventListener("scroll", () => this.cell && this.place(), { capture: true, passive: true });
  }

  show(cell, content, pinned) {
    clearTimeout(this.timer);
    if (this.cell !== cell) {
      this.cell?.setAttribute("aria-expanded", "false");
      this.fill(content);
    }
    this.cell = cell;
    this.pinned = pinned;
    cell.setAttribute("aria-expanded", "true");
    this.open(true);
    this.place();
  }

  open(wanted) {
    if (!POPOVERS) this.panel.hidden = !wanted;
    else if (this.panel.matches(":popover-open") !== wanted) this.panel.togglePopover(wanted);
  }

  fill(content) {
    this.panel.querySelector("h2").textContent = content.title;
    const list = this.panel.querySelector("dl");
    list.replaceChildren();
    const add = (name, text) => list.append(element("dt", name), element("dd", text));
    content.facts.forEach(([name, text]) => add(name, text));
    const addLink = (link, depth) => {
      const head = element("dt", `${link.label} `);
      head.className = "link";
      head.style.setProperty("--depth", depth);
      if (link.copy) {
        const file = element("a", link.file);
        file.href = link.copy;
        head.append(file);
      } else if (link.file && !link.label.includes(link.file)) head.append(link.file);
      list.append(head);
      link.facts.forEach(([name, text]) => add(name, text));
      link.links.forEach((number) => addLink(content.all[number], depth + 1));
    };
    content.links.forEach((number) => addLink(content.all[number], 0));
    this.panel.scrollTop = 0;
  }

  /** Beside the table where there is room, else below or above the cell; never over it, always in the window. */
  place() {
    this.panel.style.maxHeight = "";
    const cell = this.cell.getBoundingClientRect();
    const panel = this.panel.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const beside = this.cell.closest(".scroll").getBoundingClientRect().left + this.cell.closest("table").offsetWidth + 16;
    const within = (start, size, whole) => Math.max(6, Math.min(start, whole - size - 6));
    let [left, top] = [beside, cell.top];
    if (beside + panel.width + 6 > width) {
      const [above, below] = [cell.top - 12, innerHeight - cell.bottom - 12];
      const height = Math.min(panel.height, Math.max(above, below));
      left = cell.right - panel.width;
      top = height <= below ? cell.bottom + 6 : cell.top - height - 6;
      this.panel.style.maxHeight = `${height}px`;
    }
    this.panel.style.inset = `${within(top, panel.height, innerHeight)}px auto auto ${within(left, panel.width, width)}px`;
  }

  closeSoon() {
    clearTimeout(this.timer);
    if (!this.pinned && document.activeElement !== this.cell) this.timer = setTimeout(() => this.close(false), REST);
  }

  close(back) {
    clearTimeout(this.timer);
    const cell = this.cell;
    this.cell = null;
    this.pinned = false;
    if (!cell) return;
    cell.setAttribute("aria-expanded", "false");
    this.open(false);
    if (back) {
      cell.dataset.quiet = "";
      cell.focus({ preventScroll: true });
      delete cell.dataset.quiet;
    }
  }
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function makeDetailed(figure, details) {
  const data = JSON.parse(figure.querySelector("script.details").textContent);
  const content = (cell) => ({ ...data.cells[Number(cell.dataset.cell)], all: data.links });
  const table = figure.querySelector("table.data");
  const cells = Array.from(table.querySelectorAll(".cell"));
  cells.forEach((cell, number) => {
    // One stop of the Tab key for the whole table; arrow keys go from cell to cell.
    cell.tabIndex = number === 0 ? 0 : -1;
    cell.setAttribute("aria-haspopup", "dialog");
    cell.setAttribute("aria-expanded", "false");
    cell.addEventListener("mouseenter", () => details.pinned || details.show(cell, content(cell), false));
    cell.addEventListener("mouseleave", () => details.closeSoon());
    cell.addEventListener("focus", () => {
      cells.forEach((other) => (other.tabIndex = other === cell ? 0 : -1));
      if (!("quiet" in cell.dataset) && cell.matches(":focus-visible")) details.show(cell, content(cell), false);
    });
    cell.addEventListener("blur", (event) => {
      if (!details.panel.contains(event.relatedTarget) && !details.pinned && details.cell === cell) details.close(false);
    });
    cell.addEventListener("click", () => {
      if (details.cell === cell && details.pinned) details.close(true);
      else {
        details.show(cell, content(cell), true);
        details.panel.focus({ preventScroll: true });
      }
    });
    cell.addEventListener("keydown", (event) => step(event, table, cell));
  });
}

/** Go to the neighbouring cell that an arrow key, Home or End points at. */
function step(event, table, cell) {
  const rows = Array.from(table.tBodies[0].rows);
  const place = cell.closest("td");
  const [row, column] = [rows.indexOf(place.parentElement), place.cellIndex];
  const last = place.parentElement.cells.length - 1;
  const target = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    Home: [row, 1],
    End: [row, last],
  }[event.key];
  if (!target) return;
  event.preventDefault();
  // The first column stays in place while a table scrolls; a cell must not come to lie below it.
  table.closest(".scroll").style.scrollPaddingLeft = `${place.parentElement.cells[0].offsetWidth}px`;
  const next = rows[target[0]]?.cells[target[1]]?.querySelector(".cell");
  next?.scrollIntoView({ block: "nearest", inline: "nearest" });
  next?.focus({ preventScroll: true });
}

// ---------------------------------------------------------------- start

document.querySelectorAll("table.sortable").forEach(makeSortable);

const panel = document.querySelector("#details");
if (panel) {
  const details = new Details(panel);
  document.querySelectorAll("figure.table").forEach((figure) => {
    if (figure.querySelector("script.details")) makeDetailed(figure, details);
  });
}
