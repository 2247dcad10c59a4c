// The theme, kept, and the search over notebooks and reference. INDEX, of index.js, is loaded at the first search.
"use strict";

const UP = document.currentScript.dataset.up;
const dark = matchMedia("(prefers-color-scheme: dark)");

function kept() {
  try { return localStorage.getItem("theme"); } catch { return null; }
}

function apply(theme) {
  document.documentElement.dataset.theme = theme;
}

apply(kept() || (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!kept()) apply(dark.matches ? "dark" : "light"); });

function load() {
  if (!load.done) {
    load.done = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = UP + "index.js";
      script.onload = resolve;
      script.onerror = reject;
      document.head.append(script);
    });
  }
  return load.done;
}

// All words have to be there; one in the name weighs more than one in the text, and the beginning of a name most.
function search(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  for (const [name, kind, address, text] of INDEX) {
    const lower = name.toLowerCase(), all = `${lower} ${kind} ${text}`.toLowerCase();
    if (!words.length || !words.every((word) => all.includes(word))) continue;
    let score = kind === "variable" ? -5 : 0;
    for (const word of words) {
      const last = lower.split(".").pop();
      score += last === word ? 60 : last.startsWith(word) ? 25 : lower.includes(word) ? 10 : 1;
    }
    found.push([score - name.length / 40, name, kind, address, text]);
  }
  return found.sort((a, b) => b[0] - a[0]).slice(0, 20);
}

function show(list, query) {
  list.replaceChildren();
  list.classList.toggle("open", Boolean(query.trim()));
  const found = search(query);
  for (const [, name, kind, address, text] of found) {
    const item = document.createElement("li"), link = document.createElement("a");
    const title = document.createElement("b"), where = document.createElement("i"), about = document.createElement("p");
    link.href = UP + address;
    title.textContent = name;
    where.textContent = kind;
    about.textContent = text.slice(0, 140);
    link.append(title, where, about);
    item.append(link);
    list.append(item);
  }
  if (!found.length) {
    const none = document.createElement("li");
    none.className = "none";
    none.textContent = "nothing found";
    list.append(none);
  }
  list.querySelector("a")?.classList.add("chosen");
}

function move(list, step) {
  const links = [...list.querySelectorAll("a")];
  const at = links.findIndex((link) => link.classList.contains("chosen"));
  links[at]?.classList.remove("chosen");
  const next = links[Math.max(0, Math.min(links.length - 1, at + step))];
  next?.classList.add("chosen");
  next?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("DOMContentLoaded", () => {
  const field = document.getElementById("find"), list = document.getElementById("found");
  document.getElementById("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", theme); } catch { /* a page from a file may keep nothing */ }
    apply(theme);
  });
  field.addEventListener("input", () => load().then(() => show(list, field.value)));
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      move(list, event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter") {
      list.querySelector("a.chosen")?.click();
    } else if (event.key === "Escape") {
      field.blur();
      list.classList.remove("open");
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, textarea")) {
      event.preventDefault();
      field.focus();
    }
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".find")) list.classList.remove("open");
    else if (event.target.closest("a")) list.classList.remove("open");
  });
});
