// The graph of the network: its layers as boxes, and the ways that the values take.
"use strict";

const SVG = "http://www.w3.org/2000/svg",
  INCH = 96; // pixels at zoom 1

const graph = { record: null, depth: 0, window: null, boxes: new Map(), found: [], at: -1, card: null };

const svgNode = (tag, values = {}, text = null) => {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
};

// Straight on where a line goes up, down or across, and an S between lanes.
function linePath(points) {
  let [x, y] = points[0],
    d = `M${x} ${y}`;
  for (const [u, v] of points.slice(1)) {
    if (Math.hypot(u - x, v - y) < 1e-6) continue;
    const half = (y + v) / 2;
    d += Math.abs(x - u) < 1e-6 || Math.abs(y - v) < 1e-6 ? `L${u} ${v}` : `C${x} ${half} ${u} ${half} ${u} ${v}`;
    [x, y] = [u, v];
  }
  return d;
}

function boxNode(box, record) {
  const [x, y, w, h] = box.place,
    { font, pad, title } = record,
    frame = box.kind === "frame",
    small = !frame && box.texts.length === 1 && box.texts[0].length === 1;
  const node = svgNode("g", { class: `box ${box.kind}` });
  node.append(svgNode("rect", { x, y, width: w, height: h, rx: frame ? 0.08 : small ? h / 2 : 0.05 }));
  const put = (text, at, middle, anchor, bold) => {
    const words = svgNode("text", { x: at, y: middle + 0.36 * font, "text-anchor": anchor, "font-size": font }, text);
    if (bold) words.setAttribute("class", "bold");
    node.append(words);
  };
  if (small) put(box.texts[0][0], x + w / 2, y + h / 2, "middle", false);
  else
    box.texts.forEach((line, i) => {
      const middle = y + (frame ? title / 2 : ((i + 0.5) * h) / box.texts.length + (i ? 0 : 0.02)),
        side = frame ? pad : 0.08;
      if (line.length) put(line[0], x + side, middle, "start", i === 0);
      if (line.length > 1) put(line[1], x + w - side, middle, "end", false);
    });
  if (frame) node.append(svgNode("path", { d: `M${x} ${y + title}h${w}` }));
  if (!box.name) return node;
  node.dataset.layer = box.name;
  node.classList.add("layer-box");
  node.setAttribute("role", "button");
  node.setAttribute("tabindex", "-1");
  const layer = state.layers.get(box.name);
  label(node, `${box.name}${layer ? `, ${layer.group ? "block" : layer.kind || "layer"}, output ${times(layer.shape)}` : ""}`);
  node.append(svgNode("title", {}, `${box.name}${layer ? `: ${layer.code}` : ""}`));
  graph.boxes.set(box.name, { box, node });
  return node;
}

async function drawGraph() {
  let record;
  try {
    record = await source.graph(graph.depth);
  } catch (error) {
    $("graph-box").replaceChildren(make("p", { className: "muted small", textContent: error.message }));
    return;
  }
  graph.record = record;
  graph.boxes.clear();
  const svg = svgNode("svg", { role: "group", "aria-label": "The graph of the network" });
  const lines = svgNode("g", { class: "lines" });
  for (const { points, arrow } of record.lines) {
    lines.append(svgNode("path", { d: linePath(points) }));
    const [x, y] = points[points.length - 1];
    if (arrow) lines.append(svgNode("path", { class: "head", d: `M${x} ${y}l-.035 -.075h.07z` }));
  }
  const frames = record.boxes.filter((b) => b.kind === "frame"),
    others = record.boxes.filter((b) => b.kind !== "frame");
  svg.append(...frames.map((b) => boxNode(b, record)), lines, ...others.map((b) => boxNode(b, record)));
  graph.order = [...frames, ...others].map((b) => b.name).filter(Boolean);
  const first = others.find((b) => b.name) || frames[0];
  if (first && graph.boxes.has(first.name)) graph.boxes.get(first.name).node.setAttribute("tabindex", "0");
  $("graph-box").replaceChildren(svg);
  graph.svg = svg;
  wireGraphBox(svg);
  startWindow();
  findInGraph(false);
  markShown();
}

// --- the window: left, top and pixels for an inch

function room() {
  return [$("graph-box").clientWidth || 500, $("graph-box").clientHeight || 300];
}
function fitScale() {
  const [w, h] = room();
  return Math.min(w / (graph.record.width + 0.3), h / (graph.record.height + 0.3), 1.6 * INCH);
}
function fitWindow(scale = fitScale()) {
  const [w, h] = room();
  const { width, height } = graph.record;
  const top = height * scale > h ? -0.15 : height / 2 - h / 2 / scale;
  setWindow(width / 2 - w / 2 / scale, top, scale);
}
// At first all of it, where the letters can be read; otherwise the beginning.
function startWindow() {
  const scale = Math.max(fitScale(), 0.95 * INCH),
    [w] = room();
  fitWindow(scale);
  const first = graph.record.boxes.find((b) => b.kind !== "frame");
  if (scale > fitScale() && graph.record.width * scale > w && first)
    setWindow(Math.max(-0.15, first.place[0] + first.place[2] / 2 - w / 2 / scale), -0.15, scale);
}
function setWindow(left, top, scale) {
  graph.window = [left, top, scale];
  const [w, h] = room();
  graph.svg.setAttribute("viewBox", `${left} ${top} ${w / scale} ${h / scale}`);
}
function zoomAt(factor, px, py) {
  const [left, top, scale] = graph.window,
    next = Math.max(Math.min(fitScale(), 0.3 * INCH), Math.min(3 * INCH, scale * factor));
  setWindow(left + px / scale - px / next, top + py / scale - py / next, next);
}
const zoomBy = (factor) => {
  const [w, h] = room();
  zoomAt(factor, w / 2, h / 2);
};
function bringIntoView(name) {
  const [x, y, w, h] = graph.boxes.get(name).box.place,
    [left, top, scale] = graph.window,
    [rw, rh] = room().map((n) => n / scale);
  if (x >= left && y >= top && x + w <= left + rw && y + h <= top + rh) return;
  // A block that is larger than the window is made smaller.
  const next = Math.max(0.3 * INCH, scale * Math.min(1, rw / (w + 0.3), rh / (h + 0.3))),
    [nw, nh] = room().map((n) => n / next);
  setWindow(x + w / 2 - nw / 2, h > nh ? y - 0.15 : y + h / 2 - nh / 2, next);
}

function wireGraphBox(svg) {
  const pointers = new Map();
  let moved = 0;
  const inside = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  svg.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoomAt(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 250), ...inside(event));
    },
    { passive: false },
  );
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, inside(event));
    moved = 0;
  });
  svg.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = inside(event),
      [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    moved += Math.hypot(dx, dy);
    if (moved > 4 && !svg.hasPointerCapture(event.pointerId)) svg.setPointerCapture(event.pointerId);
    const [left, top, scale] = graph.window;
    const other = [...pointers].find(([id]) => id !== event.pointerId);
    pointers.set(event.pointerId, now);
    if (!other) setWindow(left - dx / scale, top - dy / scale, scale);
    else {
      const apart = (p) => Math.hypot(p[0] - other[1][0], p[1] - other[1][1]) || 1;
      zoomAt(apart(now) / apart(before), (now[0] + other[1][0]) / 2, (now[1] + other[1][1]) / 2);
    }
  });
  for (const end of ["pointerup", "pointercancel"])
    svg.addEventListener(end, (event) => pointers.delete(event.pointerId));
  svg.addEventListener("click", (event) => {
    const node = event.target.closest(".layer-box");
    if (node && moved <= 4) showMaps(node.dataset.layer);
  });
  svg.addEventListener("keydown", (event) => {
    const name = event.target.dataset.layer,
      by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") showMaps(name);
    else if (event.key === "+" || event.key === "=") zoomBy(1.25);
    else if (event.key === "-") zoomBy(0.8);
    else if (by) {
      const next = graph.order[graph.order.indexOf(name) + by];
      if (next) focusBox(next);
    } else return;
    event.preventDefault();
  });
  svg.addEventListener("focusin", (event) => {
    const name = event.target.dataset.layer;
    if (name && event.target.matches(":focus-visible")) bringIntoView(name);
  });
}

function focusBox(name) {
  for (const { node } of graph.boxes.values()) node.setAttribute("tabindex", "-1");
  const { node } = graph.boxes.get(name);
  node.setAttribute("tabindex", "0");
  bringIntoView(name);
  node.focus({ preventScroll: true });
}

// --- finding

// The layers with this text in the last part of their name, or, where there are none, anywhere in it.
function withText(text) {
  const names = [...state.layers.keys()],
    last = names.filter((name) => name.split("/").pop().toLowerCase().includes(text));
  return last.length ? last : names.filter((name) => name.toLowerCase().includes(text));
}

// The boxes of the layers that are found; of a layer inside a folded block, the block's.
function findInGraph(move = true) {
  const text = $("graph-find").value.trim().toLowerCase();
  const hits = text ? withText(text) : [];
  const boxes = new Set();
  for (let name of hits) {
    while (name && !graph.boxes.has(name)) name = name.slice(0, Math.max(0, name.lastIndexOf("/")));
    if (name) boxes.add(name);
  }
  graph.found = graph.order.filter((name) => boxes.has(name));
  graph.at = graph.found.length ? 0 : -1;
  for (const [name, { node }] of graph.boxes) node.classList.toggle("found", boxes.has(name));
  sayFound(hits.length);
  if (move && graph.at >= 0) bringIntoView(graph.found[0]);
}
function sayFound(hits) {
  const text = $("graph-find").value.trim();
  $("graph-found").textContent = !text
    ? ""
    : !hits
      ? "no layer has this name"
      : `${graph.at + 1} of ${graph.found.length}: ${graph.found[graph.at]}`;
}

// --- the maps of a layer

function showMaps(name) {
  const card = state.cards.get(name);
  if (!card) return;
  returnCard();
  const place = make("span", { hidden: true });
  card.node.before(place);
  graph.card = { card, place, open: card.open, name };
  const whole = make("p", { className: "muted small", textContent: name, hidden: !/[/]/.test(name) && !state.layers.get(name).group });
  $("graph-maps").replaceChildren(whole, card.node);
  refit(card);
  card.toggle(true);
  markShown();
  say(`the maps of ${name}`);
  const box = card.node.getBoundingClientRect();
  // The card comes into view, and the graph stays in it.
  const below = box.top + Math.min(box.height, 240) - innerHeight,
    above = $("graph-box").getBoundingClientRect().top - 60;
  if (below > 0 && above > 0) scrollBy(0, Math.min(below, above));
}
function returnCard() {
  if (!graph.card) return;
  const { card, place, open } = graph.card;
  place.replaceWith(card.node);
  graph.card = null;
  refit(card);
  card.toggle(open);
}
function refit(card) {
  card.room = 0;
  card.form = "";
  card.size = "";
}
function markShown() {
  for (const [name, { node }] of graph.boxes) node.classList.toggle("shown", graph.card?.name === name);
}

function wireGraph() {
  const depths = Math.max(1, ...[...state.layers.values()].map((layer) => layer.depth));
  $("graph-depth").append(
    make("option", { value: 0, textContent: "open" }),
    ...Array.from({ length: frozenData ? Object.keys(frozenData.graphs).length - 1 : depths - 1 }, (_, i) =>
      make("option", { value: i + 1, textContent: i ? `down to depth ${i + 1}` : "folded" }),
    ),
  );
  $("graph-depth").parentElement.hidden = depths === 1;
  $("graph-depth").onchange = () => {
    graph.depth = Number($("graph-depth").value);
    drawGraph();
  };
  $("graph-in").onclick = () => zoomBy(1.25);
  $("graph-out").onclick = () => zoomBy(0.8);
  $("graph-fit").onclick = () => fitWindow();
  $("graph-find").oninput = () => graph.record && findInGraph();
  $("graph-find").onkeydown = (event) => {
    if (event.key !== "Enter" || !graph.found.length) return;
    const name = graph.found[graph.at];
    graph.at = (graph.at + 1) % graph.found.length;
    showMaps(name);
    bringIntoView(name);
    $("graph-found").textContent = `${graph.found.indexOf(name) + 1} of ${graph.found.length}: ${name}`;
  };
  new ResizeObserver(() => {
    if (graph.window && state.view === "graph") setWindow(...graph.window);
  }).observe($("graph-box"));
  VIEWS.set("graph", {
    open: () => (graph.record ? setWindow(...graph.window) : drawGraph()),
    leave: () => {
      returnCard();
      markShown();
    },
  });
}
