// A convolution to play with: its settings, the size of its output, and the kernel as it slides. It needs no server.
"use strict";

const SETTINGS = [
  ["n", "Input size", 3, 16, 8],
  ["k", "Kernel", 1, 7, 3],
  ["s", "Stride", 1, 4, 1],
  ["p", "Padding", 0, 4, 0],
  ["d", "Dilation", 1, 4, 1],
];
const play = {
  ...Object.fromEntries(SETTINGS.map(([key, , , , usual]) => [key, usual])),
  at: 0, // the output pixel, row by row
  timer: 0,
  input: null,
  weights: null,
  output: null,
};
const still = matchMedia("(prefers-reduced-motion: reduce)");

const outputSize = ({ n, k, s, p, d }) => Math.floor((n + 2 * p - d * (k - 1) - 1) / s) + 1;

// What the picture at the left is at n by n pixels: the mean of each part, of its colours, from 0 to 1.
function smallInput(n) {
  if (!state.pixels) return new Float32Array(n * n);
  const [height, width, channels] = state.about.image,
    sums = new Float32Array(n * n),
    weights = new Float32Array(n * n);
  for (let y = 0; y < Math.max(height, n); y++)
    for (let x = 0; x < Math.max(width, n); x++) {
      const sy = Math.floor((y * height) / Math.max(height, n)),
        sx = Math.floor((x * width) / Math.max(width, n));
      const to = Math.floor((y * n) / Math.max(height, n)) * n + Math.floor((x * n) / Math.max(width, n));
      for (let c = 0; c < channels; c++) sums[to] += state.pixels[(sy * width + sx) * channels + c] / 255 / channels;
      weights[to]++;
    }
  return sums.map((v, i) => v / weights[i]);
}

function someWeights(kind, k) {
  const middle = (k - 1) / 2,
    out = new Float32Array(k * k);
  let seed = 7; // the same numbers each time
  for (let y = 0; y < k; y++)
    for (let x = 0; x < k; x++) {
      const along = kind === "vertical" ? x - middle : y - middle,
        across = kind === "vertical" ? y - middle : x - middle;
      seed = (seed * 16807) % 2147483647;
      out[y * k + x] =
        kind === "mean"
          ? 1 / (k * k)
          : kind === "ones"
            ? 1
            : kind === "random"
              ? Math.round((seed / 2147483647) * 20 - 10) / 10
              : (Math.sign(along) * (Math.abs(across) < 0.6 ? 2 : 1)) / (k > 3 ? k : 1);
    }
  return out;
}

// The inputs that an output pixel is made of: for each weight its row and column in the input; outside of it is padding.
function taps(at, o) {
  const { k, s, p, d, n } = play,
    found = [];
  for (let i = 0; i < k * k; i++) {
    const y = Math.floor(at / o) * s - p + d * Math.floor(i / k),
      x = (at % o) * s - p + d * (i % k);
    found.push({ y, x, inside: y >= 0 && x >= 0 && y < n && x < n });
  }
  return found;
}

function compute() {
  const { n, k } = play,
    kind = $("convolution-input").value,
    o = outputSize(play);
  play.input =
    kind === "drawn" ? smallInput(n) : Float32Array.from({ length: n * n }, (_, i) => (kind === "ones" ? 1 : i));
  play.weights = someWeights($("convolution-weights").value, k);
  play.output = null;
  if (o < 1) return;
  play.at = Math.min(play.at, o * o - 1);
  play.output = Float32Array.from({ length: o * o }, (_, at) =>
    taps(at, o).reduce((sum, t, i) => sum + (t.inside ? play.input[t.y * n + t.x] * play.weights[i] : 0), 0),
  );
}

function showFormula() {
  const { n, k, s, p, d } = play,
    o = outputSize(play),
    whole = n + 2 * p - d * (k - 1) - 1;
  const result = make("b", { textContent: o < 1 ? "no output" : `${o}\u00d7${o}` });
  $("convolution-formula").replaceChildren(
    make("span", { className: "muted", textContent: "output = \u230a(n + 2p \u2212 d(k \u2212 1) \u2212 1) / s\u230b + 1" }),
    make("span", {
      textContent: ` = \u230a(${n} + 2\u00b7${p} \u2212 ${d}\u00b7(${k} \u2212 1) \u2212 1) / ${s}\u230b + 1 = `,
    }),
    result,
  );
  if (o < 1)
    $("convolution-formula").append(
      ` \u2014 the kernel covers ${d * (k - 1) + 1} pixels, the input with its padding has ${n + 2 * p}: make the input or the padding larger.`,
    );
  else if (whole % s) $("convolution-formula").append(` \u2014 the last ${whole % s} of each row are not reached.`);
}

// --- the three grids

function gridCanvas(id, name, about) {
  const canvas = make("canvas", { id });
  canvas.setAttribute("role", "img");
  label(canvas, about);
  return make("figure", {}, make("figcaption", { textContent: name }), canvas);
}

function buildGrids() {
  $("convolution-grids").replaceChildren(
    gridCanvas("play-input", "input with its padding", "the input and its padding"),
    gridCanvas("play-weights", "weights", "the weights"),
    gridCanvas("play-output", "output", ""),
  );
  const canvas = $("play-output");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  label(canvas, "The output. Arrow keys move from pixel to pixel; below is the sum that makes the pixel.");
  const at = (event) => {
    const box = canvas.getBoundingClientRect(),
      o = outputSize(play);
    const y = Math.floor(((event.clientY - box.top) / box.height) * o),
      x = Math.floor(((event.clientX - box.left) / box.width) * o);
    return o < 1 ? -1 : Math.max(0, Math.min(o - 1, y)) * o + Math.max(0, Math.min(o - 1, x));
  };
  for (const kind of ["pointermove", "pointerdown"])
    canvas.addEventListener(kind, (event) => {
      const next = at(event);
      if (next < 0) return;
      slide(false);
      moveTo(next);
    });
  canvas.addEventListener("keydown", (event) => {
    const o = outputSize(play),
      by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -o, ArrowDown: o }[event.key];
    if (!by || o < 1) return;
    event.preventDefault();
    slide(false);
    if (play.at + by >= 0 && play.at + by < o * o) moveTo(play.at + by);
  });
}

// A number of at most four signs, for a cell.
function tight(v) {
  const text = brief(v);
  return text.length <= 4 ? text : minus(v.toFixed(Math.abs(v) < 100 ? 1 : 0)).replace(/^(\u2212?)0\./, "$1.");
}

// Draws size by size cells of numbers; `look` gives a cell's value, and whether it is marked, and whether it is padding.
function drawCells(canvas, size, cell, look) {
  const side = size * cell;
  Object.assign(canvas.style, { width: `${side}px`, height: `${side}px` });
  const context = sized(canvas, side, side),
    ink = getComputedStyle(document.body);
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let i = 0; i < size * size; i++) {
    const { value, scale, marked, padding, strong } = look(i),
      x = (i % size) * cell,
      y = Math.floor(i / size) * cell;
    const word = colourAt(padding ? 0 : value / scale);
    context.fillStyle = css(word);
    context.fillRect(x + 0.5, y + 0.5, cell - 1, cell - 1);
    if (padding) {
      context.setLineDash([2, 2]);
      context.strokeStyle = ink.getPropertyValue("--muted");
      context.lineWidth = 1;
      context.strokeRect(x + 1.5, y + 1.5, cell - 3, cell - 3);
      context.setLineDash([]);
    }
    if (cell >= 21) {
      context.font = `${Math.min(11, cell / 2.7)}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace`;
      context.fillStyle = inkOn(word);
      context.fillText(padding ? "0" : tight(value), x + cell / 2, y + cell / 2 + 0.5);
    }
    if (marked) {
      // Two lines, one of which is seen on every colour.
      for (const [style, line] of [
        ["--ink", strong ? 4 : 3],
        ["--card", 1],
      ]) {
        context.strokeStyle = ink.getPropertyValue(style);
        context.lineWidth = line;
        context.strokeRect(x + 2, y + 2, cell - 4, cell - 4);
      }
    }
  }
}

function drawPlay() {
  if (state.view !== "convolution") return;
  const { n, k, p } = play,
    o = outputSize(play),
    wide = n + 2 * p,
    width = $("convolution-grids").clientWidth || 600;
  const room = Math.min(330, width < 560 ? width : Math.min((width - 60) / 2.6, Math.max(210, innerHeight * 0.36))),
    cell = Math.max(9, Math.min(34, Math.floor(room / wide)));
  const used = play.output ? taps(play.at, o) : [],
    marked = new Set(used.map((t) => (t.y + p) * wide + t.x + p));
  const scale = reach(play.input);
  drawCells($("play-input"), wide, cell, (i) => {
    const y = Math.floor(i / wide) - p,
      x = (i % wide) - p,
      padding = y < 0 || x < 0 || y >= n || x >= n;
    return { value: padding ? 0 : play.input[y * n + x], scale, padding, marked: marked.has(i) };
  });
  const heavy = reach(play.weights);
  drawCells($("play-weights"), k, Math.max(cell, 24), (i) => ({ value: play.weights[i], scale: heavy }));
  $("play-output").parentElement.hidden = !play.output;
  if (play.output) {
    const top = reach(play.output);
    drawCells($("play-output"), o, Math.max(9, Math.min(34, Math.floor(room / o))), (i) => ({
      value: play.output[i],
      scale: top,
      marked: i === play.at,
      strong: true,
    }));
  }
  showSum(used, o);
}

function showSum(used, o) {
  if (!play.output) return $("convolution-sum").replaceChildren();
  const { n, k } = play,
    values = used.map((t) => (t.inside ? play.input[t.y * n + t.x] : 0)),
    outside = used.filter((t) => !t.inside).length;
  const value = play.output[play.at],
    products = values.map((v, i) => v * play.weights[i]);
  const terms = values.map((v, i) => `${brief(v)}\u00b7${brief(play.weights[i])}`);
  $("convolution-sum").replaceChildren(
    make("h3", { textContent: `Output pixel at row ${Math.floor(play.at / o)}, column ${play.at % o}` }),
    make("p", {
      className: "terms",
      textContent: `${k <= 3 ? terms.join(" + ") : `the sum of ${k * k} products`} = ${show(value)}`,
    }),
    make("p", {
      className: "muted small",
      textContent: outside ? `${outside} of the ${k * k} inputs are padding, 0.` : "",
    }),
    make(
      "div",
      { className: "grids" },
      grid("window", Float32Array.from(values), k, k, reach(play.input), (i) => !used[i].inside),
      grid("\u00d7 weights", play.weights, k, k, reach(play.weights)),
      grid(`= products, sum ${show(value)}`, Float32Array.from(products), k, k, reach(products)),
    ),
  );
}

function moveTo(at) {
  if (at === play.at) return;
  play.at = at;
  drawPlay();
}

// --- sliding

function step(by) {
  const o = outputSize(play);
  if (o >= 1) moveTo((play.at + by + o * o) % (o * o));
}
function slide(on) {
  clearInterval(play.timer);
  play.timer = on && !still.matches ? setInterval(() => step(1), 450) : 0;
  press($("convolution-slide"), Boolean(play.timer));
  $("convolution-slide").textContent = play.timer ? "Stop" : "Slide";
}

function changed() {
  compute();
  showFormula();
  drawPlay();
}

function wireConvolution() {
  for (const [key, name, low, high, usual] of SETTINGS) {
    const input = make("input", { type: "range", id: `play-${key}`, min: low, max: high, step: 1, value: usual }),
      value = make("output", { textContent: usual });
    input.oninput = () => {
      play[key] = Number(input.value);
      value.textContent = input.value;
      changed();
    };
    $("convolution-settings").append(make("label", {}, make("span", {}, `${name} `, make("i", { textContent: key })), input, value));
  }
  buildGrids();
  for (const id of ["convolution-input", "convolution-weights"]) $(id).onchange = changed;
  $("convolution-next").onclick = () => (slide(false), step(1));
  $("convolution-back").onclick = () => (slide(false), step(-1));
  $("convolution-slide").onclick = () => slide(!play.timer);
  const motion = () => {
    // Where motion is not wanted, there are the steps only.
    $("convolution-slide").hidden = still.matches;
    slide(false);
  };
  still.addEventListener("change", motion);
  motion();
  VIEWS.set("convolution", { open: changed, leave: () => slide(false) });
  WIDE.add("convolution");
}
