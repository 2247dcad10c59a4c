// The views of the middle: layers, graph and others, one at a time.
"use strict";

// What a view does when it is shown or left: {open, leave}.
const VIEWS = new Map([["layers", {}]]);
const WIDE = new Set();
state.view = "layers";

function showView(name, focus = false) {
  if (name !== state.view) {
    VIEWS.get(state.view).leave?.();
    state.view = name;
    for (const each of VIEWS.keys()) {
      const on = each === name,
        tab = $(`tab-${each}`);
      tab.setAttribute("aria-selected", on ? "true" : "false");
      tab.tabIndex = on ? 0 : -1;
      $(each).hidden = !on;
    }
    document.querySelector("main").classList.toggle("wide", WIDE.has(name));
    const top = $("middle").getBoundingClientRect().top;
    if (top < 0) $("middle").scrollIntoView();
    VIEWS.get(name).open?.();
  }
  if (focus) $(`tab-${name}`).focus();
}

function wireViews() {
  const names = [...VIEWS.keys()];
  $("views").addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) showView(tab.getAttribute("aria-controls"));
  });
  $("views").addEventListener("keydown", (event) => {
    const shown = names.filter((name) => !$(`tab-${name}`).hidden),
      at = shown.indexOf(state.view);
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: shown.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    showView(shown[(next + shown.length) % shown.length], true);
  });
  for (const link of document.querySelectorAll('a[href="#layers"]')) link.onclick = () => showView("layers");
}
