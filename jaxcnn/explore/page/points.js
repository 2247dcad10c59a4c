// The test data as points: the outputs of a layer along their two first principal components.
"use strict";

const TEN = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#e377c2", "#3fa7a0", "#c9a227", "#8a8f98"];
const points = { record: null, places: null, layer: "", at: -1, only: -1, cell: null, run: 0, images: new Map(), asked: -1 };

const colourOf = (label) =>
  label < 0 ? "#8a8f98" : state.about.classes.length <= 10 ? TEN[label] : `hsl(${(label * 137.5) % 360} 62% ${45 + 12 * (label % 3)}%)`;
const nameOf = (label) => state.about.classes[label] ?? "no label";
const isMistake = (i) => points.record.labels[i] >= 0 && points.record.labels[i] !== points.record.said[i];

// Asks until all images are done; another layer, or another view, ends it.
async function runPoints() {
  const mine = ++points.run;
  try {
    for (;;) {
      const { record, buffer, at } = await source.points(points.layer);
      if (mine !== points.run) return;
      if (points.record && record.done < points.record.done && record.layer === points.record.layer) continue;
      points.record = record;
      points.places = new Float32Array(buffer, at, 2 * record.done);
      drawPoints();
      showPointsNote();
      showConfusion();
      if (record.done === record.total) return;
    }
  } catch (error) {
    if (mine === points.run) $("points-note").textContent = error.message;
  }
}

function showPointsNote() {
  const { done, total, variance, reduced, layer } = points.record,
    mistakes = points.record.said.filter((_, i) => isMistake(i)).length;
  const percent = (v) => `${(100 * v).toFixed(0)} %`;
  $("points-note").textContent =
    done < total
      ? `${done} of ${total} images are computed\u2026`
      : `${total} images, of which ${mistakes} ${mistakes === 1 ? "is" : "are"} named wrongly (ringed). The axes are the first two principal components of ${layer}: ${percent(variance[0])} and ${percent(variance[1])} of the variance${reduced > 1 ? `, of means of ${reduced}\u00d7${reduced} pixels` : ""}.`;
}

// Where a point lies in the canvas: one scale for both axes.
function layoutPoints(width, height) {
  const { places } = points,
    many = places.length / 2,
    low = [Infinity, Infinity],
    high = [-Infinity, -Infinity];
  for (let i = 0; i < many; i++)
    for (const a of [0, 1]) {
      low[a] = Math.min(low[a], places[2 * i + a]);
      high[a] = Math.max(high[a], places[2 * i + a]);
    }
  const scale = Math.min((width - 28) / (high[0] - low[0] || 1), (height - 28) / (high[1] - low[1] || 1));
  points.shown = Array.from({ length: many }, (_, i) => [
    width / 2 + scale * (places[2 * i] - (low[0] + high[0]) / 2),
    height / 2 - scale * (places[2 * i + 1] - (low[1] + high[1]) / 2),
  ]);
}

const isShown = (i) =>
  (!$("points-mistakes").checked || isMistake(i)) && (points.only < 0 || points.record.labels[i] === points.only);

function drawPoints() {
  if (state.view !== "data" || !points.record) return;
  const canvas = $("points"),
    width = canvas.clientWidth,
    height = canvas.clientHeight;
  if (!width) return;
  layoutPoints(width, height);
  const context = sized(canvas, width, height),
    style = getComputedStyle(document.body),
    ink = style.getPropertyValue("--ink"),
    card = style.getPropertyValue("--card"),
    { labels, said } = points.record;
  const disc = (x, y, radius, fill, line, stroke) => {
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.fillStyle = fill;
    context.fill();
    if (!line) return;
    context.lineWidth = line;
    context.strokeStyle = stroke;
    context.stroke();
  };
  // Mistakes over the others, and what is chosen over all.
  const order = labels.map((_, i) => i).sort((a, b) => isMistake(a) - isMistake(b));
  for (const i of order) {
    if (!isShown(i)) continue;
    const [x, y] = points.shown[i],
      wrong = isMistake(i);
    const dim = points.cell && !(labels[i] === points.cell[0] && said[i] === points.cell[1]);
    context.globalAlpha = dim ? 0.2 : 1;
    disc(x, y, wrong ? 5 : 4, colourOf(labels[i]), wrong ? 2 : 0.8, wrong ? ink : card);
  }
  context.globalAlpha = 1;
  for (const [i, line] of [
    [state.examples.chosen - shiftOf(), 3],
    [points.at, 2],
  ])
    if (points.shown[i]) {
      const [x, y] = points.shown[i];
      disc(x, y, 7, colourOf(labels[i]), line, i === points.at ? ink : style.getPropertyValue("--accent"));
    }
}

// In a file, an image that was given comes before the examples, and not all of them have their maps.
const shiftOf = () => (frozenData ? frozenData.shift : 0);
function takePoint(index) {
  const at = index + shiftOf();
  if (frozenData && at >= frozenData.looks.length)
    trouble(new Told("This file keeps the maps of some examples only: jaxcnn explore shows those of all.", 404));
  else takeExample(at);
}

// --- the image of a point

async function imageOf(index) {
  if (!points.images.has(index)) {
    const { buffer, at } = await source.images([index]);
    points.images.set(index, imageData(new Uint8Array(buffer, at), state.about.image));
  }
  return points.images.get(index);
}

async function pointAt(i) {
  points.at = i;
  drawPoints();
  const tip = $("points-tip");
  if (i < 0) {
    tip.hidden = true;
    return;
  }
  const { labels, said, sure } = points.record,
    [x, y] = points.shown[i],
    text = `${nameOf(labels[i])}${isMistake(i) ? `, said ${nameOf(said[i])}` : ""} (${(100 * sure[i]).toFixed(0)} %)`;
  tip.lastElementChild.textContent = text;
  say(`example ${i}, labelled ${text}`);
  const put = () => {
    const { clientWidth: width, clientHeight: height } = $("points");
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(width - tip.offsetWidth, x + 12))}px`;
    tip.style.top = `${y + 12 + tip.offsetHeight > height ? Math.max(0, y - 12 - tip.offsetHeight) : y + 12}px`;
  };
  points.asked = i;
  try {
    const picture = await imageOf(i);
    if (points.asked !== i || points.at !== i) return;
    const canvas = tip.firstElementChild;
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.getContext("2d").putImageData(picture, 0, 0);
    put();
  } catch (error) {
    trouble(error);
  }
}

// The nearest point that is shown, within a distance; or in a direction.
function nearestPoint(x, y, most = 14) {
  let found = -1,
    best = most;
  points.shown.forEach(([px, py], i) => {
    const away = Math.hypot(px - x, py - y);
    if (away < best && isShown(i)) [found, best] = [i, away];
  });
  return found;
}
function pointTowards(dx, dy) {
  const from = points.shown[points.at];
  if (!from) return nearestPoint($("points").clientWidth / 2, $("points").clientHeight / 2, Infinity);
  let found = points.at,
    best = Infinity;
  points.shown.forEach(([px, py], i) => {
    const along = (px - from[0]) * dx + (py - from[1]) * dy,
      aside = Math.abs((px - from[0]) * dy + (py - from[1]) * dx);
    if (i === points.at || !isShown(i) || along <= 0 || aside > 2 * along) return;
    if (along + 2 * aside < best) [found, best] = [i, along + 2 * aside];
  });
  return found;
}

function wireCanvas() {
  const canvas = $("points");
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return points.shown ? nearestPoint(event.clientX - box.left, event.clientY - box.top) : -1;
  };
  canvas.addEventListener("pointermove", (event) => {
    const i = event.pointerType === "touch" ? points.at : at(event);
    if (i !== points.at) pointAt(i);
  });
  canvas.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && pointAt(-1));
  canvas.addEventListener("blur", () => pointAt(-1));
  let touched = false;
  canvas.addEventListener("pointerdown", (event) => (touched = event.pointerType === "touch"));
  canvas.addEventListener("click", (event) => {
    const i = at(event);
    if (touched && i !== points.at) return pointAt(i); // a finger sees the image first
    if (i >= 0) takePoint(i);
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!points.shown || (!way && event.key !== "Enter")) return;
    event.preventDefault();
    if (way) pointAt(pointTowards(...way));
    else if (points.at >= 0) takePoint(points.at);
  });
  new ResizeObserver(drawPoints).observe($("points-area"));
}

function wirePoints() {
  VIEWS.set("data", {
    open: () => {
      if (frozenData && !frozenData.points) return;
      drawPoints();
      if (!points.record || points.record.layer !== points.layer || points.record.done < points.record.total) runPoints();
    },
    leave: () => points.run++,
  });
  WIDE.add("data");
  $("tab-data").hidden = state.about.answer !== "class";
  if (frozenData && !frozenData.points) {
    $("data-parts").hidden = true;
    $("data-note").hidden = false;
    $("data-note").textContent =
      "The test data as points, and its confusion matrix, are computed by the network: they need jaxcnn explore, and are not in this file.";
    return;
  }
  const leaves = [...state.layers.values()].filter((layer) => !layer.group).map((layer) => layer.name);
  const usual = leaves[leaves.length - 2] ?? leaves[0];
  const all = frozenData ? [usual] : [...state.layers.keys()];
  $("points-layer").append(...all.map((name) => make("option", { value: name, textContent: name })));
  if (!usual) {
    $("tab-data").hidden = true;
    return;
  }
  points.layer = $("points-layer").value = usual;
  if (frozenData) $("points-layer").title = "This file has the points of this layer; the others need jaxcnn explore.";
  $("points-layer").onchange = () => {
    points.layer = $("points-layer").value;
    points.at = -1;
    $("points-note").textContent = "computing\u2026";
    runPoints();
  };
  $("points-mistakes").onchange = drawPoints;
  state.about.classes.slice(0, 30).forEach((name, i) => {
    const dot = make("i", { className: "swatch" });
    dot.style.background = colourOf(i);
    const button = make("button", { type: "button", title: `only ${name}` }, dot, name);
    press(button, false);
    button.onclick = () => {
      points.only = points.only === i ? -1 : i;
      [...$("points-legend").children].forEach((other, k) => press(other, k === points.only));
      drawPoints();
    };
    $("points-legend").append(button);
  });
  wireCanvas();
}
