// One unit: what it sees, and the numbers that made it.
"use strict";

let unitRunning = false,
  unitWaiting = null;

function letGo(clear = true) {
  state.kept = null;
  $("kept").hidden = true;
  $("unit").classList.remove("has");
  if (clear) {
    state.unit = null;
    unitWaiting = null;
    for (const card of state.cards.values()) {
      card.at = null;
      if (card.maps) card.placeCursor();
    }
    $("unit-heading").textContent = "Unit";
    $("unit-body").replaceChildren(make("p", { className: "muted small", textContent: "No unit. Point at a map." }));
    drawPicture();
  }
}

function askUnit(layer, place, kept) {
  if (state.look === null) return;
  const asked = { layer, place, kept };
  if (unitRunning) {
    unitWaiting = asked;
    return;
  }
  unitRunning = true;
  source
    .unit({ look: state.look, layer, place })
    .then((answer) => {
      if (unitWaiting || (!state.kept && !anyAt())) return;
      showUnit(answer, kept);
    })
    .catch((error) => {
      if (error.status !== 410) trouble(error);
    })
    .finally(() => {
      unitRunning = false;
      if (unitWaiting) {
        const next = unitWaiting;
        unitWaiting = null;
        askUnit(next.layer, next.place, next.kept);
      }
    });
}
const anyAt = () => [...state.cards.values()].some((card) => card.at);

let chosenPart = null;

function showUnit({ record, buffer, at }) {
  const size = (shape) => (shape ? shape.reduce((a, b) => a * b, 1) : 0);
  const inputs = record.inputs ? new Float32Array(buffer, at, size(record.inputs)) : null;
  const kernel = record.kernel ? new Float32Array(buffer, at + 4 * size(record.inputs), size(record.kernel)) : null;
  if (!state.unit || state.unit.layer !== record.layer) chosenPart = null;
  state.unit = record;
  drawPicture();
  const layer = state.layers.get(record.layer),
    place = record.place;
  const where =
    layer.shape.length === 3
      ? `map ${place[2]}, row ${place[0]}, column ${place[1]}`
      : layer.shape.length === 2
        ? `map ${place[1]}, row ${place[0]}`
        : `unit ${place.join(", ")}`;
  const last = layer.name === lastLayer && layer.shape.length === 1 && layer.shape[0] === state.about.classes.length;
  const parts = [];
  $("unit-heading").textContent = record.layer;
  const lines = [
    make("p", {
      className: "where",
      textContent: where + (last ? ` \u2014 class ${state.about.classes[place[0]]}` : ""),
    }),
    make("div", { className: "big", textContent: show(record.value) }),
  ];
  if (record.field) {
    const [top, left, bottom, right] = record.field,
      [h, w] = state.given;
    const all = top <= 0 && left <= 0 && bottom >= h && right >= w;
    lines.push(
      make("p", {
        className: "where",
        textContent: all
          ? "sees the whole input"
          : `sees ${bottom - top}\u00d7${right - left} pixels: rows ${minus(String(top))} to ${bottom - 1}, columns ${minus(String(left))} to ${right - 1}${top < 0 || left < 0 || bottom > h || right > w ? " (padding outside)" : ""}`,
      }),
    );
    // Of what lies outside of the input, a little.
    const [my, mx] = [h / 8, w / 8],
      window = [Math.max(top, -my), Math.max(left, -mx), Math.min(bottom, h + my), Math.min(right, w + mx)];
    const canvas = make("canvas"),
      long = Math.max(window[2] - window[0], window[3] - window[1]),
      width = (96 * (window[3] - window[1])) / long,
      height = (96 * (window[2] - window[0])) / long;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    canvas.setAttribute("role", "img");
    label(canvas, "what the unit sees of the input");
    paintInput(sized(canvas, width, height), width, height, window, true);
    parts.push(make("div", { className: "sees" }, canvas, make("div", {}, ...lines)));
  } else parts.push(...lines);
  if (kernel) parts.push(...sumParts(record, inputs, kernel));
  else if (inputs) parts.push(...windowParts(record, layer, inputs));
  else if (!frozenData)
    parts.push(
      make("p", { className: "muted small", textContent: "A block: open it to see the layers that made this number." }),
    );
  if (frozenData && !inputs)
    parts.push(
      make("p", {
        className: "muted small",
        textContent: record.note || "The numbers behind this unit are not in this file.",
      }),
    );
  $("unit-body").replaceChildren(...parts);
  say(`${record.layer}, ${where}: ${show(record.value)}`);
}

function row(name, value, total = false) {
  return make(
    "tr",
    { className: total ? "total" : "" },
    make("td", { textContent: name }),
    make("td", { textContent: value }),
  );
}

function sumParts(record, inputs, kernel) {
  const { colours } = state.layers.get(record.layer);
  const nameOf = (c) => (colours ? ["red", "green", "blue"][c] : `${conv ? "map" : "input"} ${c}`);
  const shape = record.inputs,
    channels = shape[shape.length - 1],
    conv = shape.length === 3,
    places = conv ? shape[0] * shape[1] : 1;
  const products = inputs.map((v, i) => v * kernel[i]);
  const sums = new Float64Array(channels);
  for (let i = 0; i < products.length; i++) sums[i % channels] += products[i];
  const table = make(
    "table",
    { className: "sum" },
    make(
      "tbody",
      {},
      row(`${count(inputs.length)} inputs \u00d7 weights`, show(record.total - record.bias)),
      row("+ bias", show(record.bias)),
      row("=", show(record.total), true),
    ),
  );
  const order = [...sums.keys()].sort((a, b) => Math.abs(sums[b]) - Math.abs(sums[a]));
  if (chosenPart === null || chosenPart >= channels) chosenPart = order[0];
  const most = conv ? 8 : 12,
    shown = channels <= most ? [...sums.keys()] : order.slice(0, most),
    top = Math.abs(sums[order[0]]) || 1;
  if (!shown.includes(chosenPart)) {
    if (conv) shown[shown.length - 1] = chosenPart;
    else chosenPart = order[0];
  }
  const result = [make("h3", { textContent: "The sum" }), table];
  const grids = make("div", { className: "grids" });
  const drawGrids = () => {
    if (!conv) {
      const i = chosenPart;
      grids.replaceChildren(
        make("p", {
          className: "where",
          textContent: `input ${i}: ${show(inputs[i])} \u00d7 ${show(kernel[i])} = ${show(products[i])}`,
        }),
      );
      return;
    }
    const cut = (values) => Float32Array.from({ length: places }, (_, p) => values[p * channels + chosenPart]);
    const outside = edges(record);
    grids.replaceChildren(
      grid("input", cut(inputs), shape[0], shape[1], reach(inputs), outside),
      grid("\u00d7 weights", cut(kernel), shape[0], shape[1], reach(kernel)),
      grid(`= products, sum ${show(sums[chosenPart])}`, cut(products), shape[0], shape[1], reach(products)),
    );
  };
  if (channels > 1) {
    const buttons = make("div", { className: "parts", role: "group" });
    label(buttons, "Parts of the sum");
    for (const c of shown) {
      const left = make("i", { className: "minus" }),
        right = make("i", { className: "plus" });
      (sums[c] < 0 ? left : right).style.width = `${(100 * Math.abs(sums[c])) / top}%`;
      const button = make(
        "button",
        { type: "button" },
        make("span", { textContent: nameOf(c) }),
        make("span", { className: "two-way" }, left, right),
        make("span", { className: "v", textContent: show(sums[c]) }),
      );
      press(button, c === chosenPart);
      button.onclick = () => {
        chosenPart = c;
        for (const other of buttons.children) press(other, other === button);
        drawGrids();
      };
      buttons.append(button);
    }
    result.push(
      make("h3", {
        textContent:
          shown.length < channels
            ? `By input${conv ? " map" : ""}: the largest ${shown.length} of ${count(channels)}`
            : colours
              ? "By colour"
              : `By input${conv ? " map" : ""}`,
      }),
      buttons,
    );
    if (conv) result.push(make("h3", { textContent: "Window, weights, products" }));
  } else result.push(make("h3", { textContent: "Window, weights, products" }));
  drawGrids();
  result.push(grids);
  return result;
}

// Which numbers of a window lie outside of the layer's input; true for those that are padding.
function edges(record) {
  const before = record.window && inputOf(record.layer);
  if (!before) return null;
  const [top, left, bottom, right] = record.window,
    [rows, columns] = record.inputs;
  const sy = (bottom - top) / rows,
    sx = (right - left) / columns;
  return (p) => {
    const y = top + Math.floor(p / columns) * sy,
      x = left + (p % columns) * sx;
    return y < 0 || x < 0 || y >= before[0] || x >= before[1];
  };
}
function inputOf(name) {
  const layer = state.layers.get(name);
  return layer.input && layer.input.length === 3 ? layer.input : null;
}

const reach = (values) => {
  let top = 0;
  for (const v of values) top = Math.max(top, Math.abs(v));
  return top || 1;
};

function grid(title, values, rows, columns, top, outside = null, most = -1) {
  const room = Math.min(36, Math.floor(Math.min(172, 340) / columns)),
    cell = Math.max(5, room - 1),
    numbers = cell >= 26;
  const box = make("div", { className: "grid" });
  box.style.gridTemplateColumns = `repeat(${columns}, ${cell}px)`;
  box.style.gridAutoRows = `${Math.max(5, Math.min(cell, 26))}px`;
  const height = Math.min(values.length, 1600);
  for (let p = 0; p < height; p++) {
    const word = colourAt(values[p] / top),
      node = make("i", { textContent: numbers ? brief(values[p]) : "", title: show(values[p]) });
    node.style.background = css(word);
    node.style.color = inkOn(word);
    if (outside && outside(p)) {
      node.classList.add("out");
      node.title = "padding";
    }
    if (p === most) node.classList.add("most");
    box.append(node);
  }
  return make("figure", {}, make("figcaption", { textContent: title }), box);
}

function windowParts(record, layer, inputs) {
  const shape = record.inputs,
    result = [],
    square = shape.length === 3 && shape[2] === 1,
    names = Object.entries(record.variables || {});
  const kind = layer.kind || layer.code;
  if (inputs.length === 1)
    result.push(
      make("h3", { textContent: "What made it" }),
      make(
        "table",
        { className: "sum" },
        make(
          "tbody",
          {},
          row("input", show(inputs[0])),
          ...names.map(([n, v]) => row(n, show(v))),
          row(layer.code.split("(")[0], show(record.value), true),
        ),
      ),
    );
  else if (square) {
    let most = -1,
      text = `${count(inputs.length)} inputs`;
    const values = [...inputs];
    if (/max/.test(kind)) {
      most = values.indexOf(Math.max(...values));
      text = "the largest of the window";
    } else if (/avg|mean/.test(kind)) text = `mean of ${inputs.length} numbers`;
    result.push(
      make("h3", { textContent: "Window" }),
      make("div", { className: "grids" }, grid(text, inputs, shape[0], shape[1], reach(inputs), edges(record), most)),
    );
    result.push(
      make(
        "table",
        { className: "sum" },
        make(
          "tbody",
          {},
          ...names.map(([n, v]) => row(n, show(v))),
          row(layer.code.split("(")[0], show(record.value), true),
        ),
      ),
    );
  } else result.push(make("p", { className: "muted small", textContent: `made of ${times(shape)} numbers` }));
  return result;
}
