// Filters above a long page: an entry needs the chosen values and every word; groups with such entries open, others go.
"use strict";

const form = document.querySelector("form.filters");
const entries = Array.from(document.querySelectorAll("[data-entry]"), (place) => ({
  place,
  values: JSON.parse(place.dataset.entry),
  text: place.textContent.toLowerCase(),
}));
const groups = Array.from(document.querySelectorAll("details.group"), (place) => ({ place, open: place.open }));

function filter() {
  const { text, ...choices } = Object.fromEntries(new FormData(form));
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = Object.entries(choices).filter(([, value]) => value);
  const active = words.length + chosen.length > 0;
  let found = 0;
  for (const entry of entries) {
    const fits = chosen.every(([name, value]) => entry.values[name].includes(value)) && words.every((word) => entry.text.includes(word));
    entry.place.hidden = !fits;
    found += fits;
  }
  for (const group of groups) {
    group.place.open = active || group.open;
    group.place.hidden = active && !group.place.querySelector("[data-entry]:not([hidden])");
  }
  form.querySelector("output").textContent = active ? `${found} of ${entries.length} shown` : "";
}

function showAll() {
  form.reset();
  filter();
}

/** Unfold what an address points at. */
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.closest("[hidden]")) showAll();
  for (let place = target; place; place = place.parentElement) if (place.matches("details")) place.open = true;
  target?.scrollIntoView();
}

if (form) {
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("button").addEventListener("click", showAll);
}
addEventListener("hashchange", unfold);
unfold();
