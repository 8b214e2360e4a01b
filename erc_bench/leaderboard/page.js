"use strict";
// Tabs: without this script every panel stands below the other.
const tabs = [...document.querySelectorAll(".tabs a")];
const panels = tabs.map((tab) => document.getElementById(tab.hash.slice(1)));

function select(index, focus) {
  tabs.forEach((tab, i) => {
    tab.setAttribute("aria-selected", String(i === index));
    tab.tabIndex = i === index ? 0 : -1;
    panels[i].hidden = i !== index;
  });
  if (focus) tabs[index].focus();
  filter();
}

// Filters: an entry shows that has every word of the search and fits every choice; what has no such
// property (a published figure has no preset) fits. Ranks stay those of the whole track.
const form = document.querySelector(".filters");

function fits(element, wanted) {
  const { find, ...choices } = wanted;
  const words = find.toLowerCase().split(/\s+/);
  return words.every((word) => element.dataset.find.includes(word)) &&
    Object.entries(choices).every(([name, value]) =>
      !value || !(name in element.dataset) || element.dataset[name] === value);
}

function filter() {
  if (!form) return;
  const wanted = Object.fromEntries(new FormData(form));
  let shown = 0, all = 0;
  panels.forEach((panel) => {
    panel.querySelectorAll(".track").forEach((track) => {
      const entries = [...track.querySelectorAll(".entry")];
      entries.forEach((entry) => { entry.hidden = !fits(entry, wanted); });
      const left = entries.filter((entry) => !entry.hidden).length;
      track.hidden = entries.length ? !left : !fits(track, wanted);
      if (!panel.hidden) { shown += left; all += entries.length; }
    });
  });
  const narrowed = Object.values(wanted).some((value) => value.trim());
  form.querySelector("p").hidden = !narrowed;
  form.querySelector("output").textContent = `${shown} of ${all} rows.`;
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("button").addEventListener("click", () => { form.reset(); filter(); });
}

function fromAddress() {
  const index = tabs.findIndex((tab) => tab.hash === decodeURIComponent(location.hash));
  select(Math.max(index, 0));
}

document.querySelector(".tabs").setAttribute("role", "tablist");
tabs.forEach((tab, i) => {
  tab.setAttribute("role", "tab");
  tab.id = "tab-" + tab.hash.slice(1);
  tab.setAttribute("aria-controls", panels[i].id);
  panels[i].setAttribute("role", "tabpanel");
  // An address with a corpus opens its tab; the window stays at the top.
  panels[i].style.scrollMarginTop = "100vh";
  panels[i].setAttribute("aria-labelledby", tab.id);
  tab.addEventListener("click", (event) => {
    event.preventDefault();
    history.replaceState(null, "", tab.hash);
    select(i);
  });
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (event.key === " ") tab.click();
    if (to === undefined && event.key !== " ") return;
    event.preventDefault();
    if (to === undefined) return;
    const next = (to + tabs.length) % tabs.length;
    history.replaceState(null, "", tabs[next].hash);
    select(next, true);
  });
});
if (tabs.length) fromAddress();
addEventListener("hashchange", fromAddress);

// Sorting: figures downwards first, words and ranks upwards; what is equal keeps its order.
document.querySelectorAll(".board").forEach((table) => {
  const entries = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const words = button.dataset.sort === "text" || head.classList.contains("rank");
      const before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : words;
      const value = (entry) => entry.rows[0].cells[column].dataset.value;
      const order = (a, b) =>
        button.dataset.sort === "text" ? value(a).localeCompare(value(b)) : value(a) - value(b);
      const sorted = [...entries].sort((a, b) => (up ? order(a, b) : order(b, a)));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      table.append(...sorted);
    });
  });
});

// Details of a row.
document.querySelectorAll(".open").forEach((button) => {
  button.addEventListener("click", () => {
    const detail = document.getElementById(button.getAttribute("aria-controls"));
    detail.hidden = !detail.hidden;
    button.setAttribute("aria-expanded", String(!detail.hidden));
  });
});

