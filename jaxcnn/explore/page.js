// The page of `jaxcnn explore`. It asks the server (`live`), or, in a file that was written by --export, what is kept in
// that file (`frozen`); all else is the same. Arrays come as bytes behind a record, see server.py.
"use strict";

const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const { dataset, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  Object.assign(node.dataset, dataset || {});
  node.append(...children);
  return node;
};
const label = (node, text) => (node.setAttribute("aria-label", text), node);
const press = (node, on) => node.setAttribute("aria-pressed", on ? "true" : "false");
const say = (text) => {
  $("say").textContent = text;
};
const minus = (text) => text.replace("-", "\u2212");
const show = (v) => {
  if (v === null || v === undefined) return "not finite";
  const size = Math.abs(v);
  if (size === 0) return "0";
  if (size >= 1e5 || size < 1e-4) return minus(v.toExponential(2));
  return minus(size >= 100 ? v.toFixed(1) : size >= 1 ? v.toFixed(3) : v.toFixed(4));
};
const brief = (v) => {
  const size = Math.abs(v);
  if (size < 5e-3) return "0";
  return minus(size >= 100 ? v.toFixed(0) : size >= 10 ? v.toFixed(1) : v.toFixed(2)).replace(/^(\u2212?)0\./, "$1.");
};
const count = (n) => n.toLocaleString("en");
const times = (shape) => shape.join("\u00d7");

// --- asking -----------------------------------------------------------------------------------------------------

function unpacked(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  return { record: JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size))), buffer, at: 4 + size };
}

function packedBody(record, bytes) {
  const head = new TextEncoder().encode(JSON.stringify(record));
  const body = new Uint8Array(4 + head.length + (bytes ? bytes.byteLength : 0));
  new DataView(body.buffer).setUint32(0, head.length, true);
  body.set(head, 4);
  if (bytes) body.set(new Uint8Array(bytes.buffer || bytes, bytes.byteOffset || 0, bytes.byteLength), 4 + head.length);
  return body;
}

class Told extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function fetched(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Told("The server does not answer: jaxcnn explore has ended, or this page is of an earlier start.", 0);
  }
  if (answer.ok) return answer;
  let message = `The server answered ${answer.status}.`;
  try {
    message = (await answer.json()).error || message;
  } catch {
    /* no JSON: the status says it */
  }
  throw new Told(message, answer.status);
}
const getJSON = async (path) => (await fetched(path)).json();
const getPacked = async (path) => unpacked(await (await fetched(path)).arrayBuffer());
const postPacked = async (path, record, bytes) =>
  unpacked(await (await fetched(path, { method: "POST", body: packedBody(record, bytes) })).arrayBuffer());
const query = (values) =>
  new URLSearchParams(Object.entries(values).filter(([, v]) => v !== null && v !== undefined)).toString();

const live = {
  about: () => getJSON("about"),
  layers: () => getJSON("layers"),
  examples: (asked) => getPacked(`examples?${query(asked)}`),
  look: (record, bytes) => postPacked("look", record, bytes),
  unit: (record) => postPacked("unit", record),
  filters: (asked) => getPacked(`filters?${query(asked)}`),
  overlay: (record) => postPacked("overlay", record),
  figure: (name) => `figure/${name}`,
};

// What a look's message has: the input's pixels, the answer's pictures, and maps; the first two not always.
function looked({ record, buffer, at }) {
  const found = { record, image: null, pictures: null, maps: new Map() };
  if (record.image) {
    found.image = new Uint8Array(buffer.slice(at, at + record.image));
    at += record.image;
  }
  if (record.pictures) {
    const size = (state.about.size || [0, 0]).reduce((a, b) => a * b);
    found.pictures = {};
    for (const name of record.pictures) {
      found.pictures[name] = new Uint8Array(buffer.slice(at, at + size));
      at += size;
    }
  }
  for (const one of record.layers) {
    const maps = new Maps(one, buffer, at);
    at += maps.bytes.byteLength;
    found.maps.set(one.name, maps);
  }
  return found;
}

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

function frozenFrom(kept) {
  const looks = kept.looks.map((text) => unpacked(bytesOf(text)));
  const again = (message) => ({ record: structuredClone(message.record), buffer: message.buffer, at: message.at });
  const missing = () => {
    throw new Told("This file keeps some examples only: run jaxcnn explore for more.", 404);
  };
  const find = (table, key) => (key in table ? unpacked(bytesOf(table[key])) : missing());
  return {
    about: async () => kept.about,
    layers: async () => kept.layers,
    examples: async ({ label: wanted, first, count: many }) => {
      const chosen = looks.map((l, i) => i).filter((i) => wanted < 0 || looks[i].record.label === wanted);
      const shown = chosen.slice(first, first + many);
      const size = kept.about.image.reduce((a, b) => a * b);
      const images = new Uint8Array(shown.length * size);
      shown.forEach((i, k) => images.set(new Uint8Array(looks[i].buffer, looks[i].at, size), k * size));
      return {
        record: { total: chosen.length, index: shown, labels: shown.map((i) => looks[i].record.label) },
        buffer: images.buffer,
        at: 0,
      };
    },
    look: async (record) => {
      const number = record.source === "example" ? record.index : record.source === "look" ? record.look : 0;
      const answer = again(looks[number]);
      answer.record.look = number;
      return answer;
    },
    unit: async ({ look, layer, place }) => frozenUnit(kept, looks[look], look, layer, place),
    filters: async ({ layer, channel, first }) => find(kept.filters, `${layer}|${channel ?? ""}|${first}`),
    overlay: async ({ look, kind, layer, unit }) => {
      const key = `${look}|${kind}`;
      if (
        layer ||
        (unit !== null && key in kept.overlays && unit !== unpacked(bytesOf(kept.overlays[key])).record.unit)
      )
        throw new Told("This file keeps the overlays of the most probable class only.", 404);
      return find(kept.overlays, key);
    },
    figure: (name) => kept.figures[name],
  };
}

const frozenData = $("frozen") ? JSON.parse($("frozen").textContent) : null;
const source = frozenData ? frozenFrom(frozenData) : live;

// --- state ------------------------------------------------------------------------------------------------------

const state = {
  about: null,
  layers: new Map(),
  cards: new Map(),
  pixels: null,
  pictures: {},
  pixel: null,
  given: [1, 1, 1],
  frame: [0, 0, 1, 1],
  look: null,
  label: null,
  probabilities: null,
  byMap: false,
  unit: null,
  kept: null,
  overlay: null,
  kind: "",
  examples: { first: 0, label: -1, chosen: -1 },
  tool: "pen",
  brush: null,
};
const dark = matchMedia("(prefers-color-scheme: dark)");

function trouble(error) {
  const message = error instanceof Told ? error.message : `Something went wrong in the page: ${error.message || error}`;
  if (!(error instanceof Told)) console.error(error);
  $("alert").firstElementChild.textContent = message;
  $("alert").hidden = false;
}
const calm = () => {
  $("alert").hidden = true;
};

// --- colours: cool below 0, the card's own colour at 0, warm above ----------------------------------------------

const STOPS = {
  light: [
    [13, 59, 122],
    [67, 133, 200],
    [170, 205, 232],
    [246, 247, 249],
    [247, 195, 160],
    [217, 105, 43],
    [120, 38, 10],
  ],
  dark: [
    [190, 221, 255],
    [92, 158, 235],
    [38, 78, 130],
    [30, 34, 41],
    [122, 62, 26],
    [240, 138, 62],
    [255, 226, 180],
  ],
};
let ramp = null;

function makeRamp() {
  const stops = dark.matches ? STOPS.dark : STOPS.light;
  ramp = new Uint32Array(513);
  for (let i = 0; i < 513; i++) {
    const at = (i / 512) * (stops.length - 1),
      k = Math.min(stops.length - 2, Math.floor(at)),
      f = at - k;
    const [r, g, b] = stops[k].map((v, c) => Math.round(v + f * (stops[k + 1][c] - v)));
    ramp[i] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
}
const colourAt = (t) => ramp[Math.round(256 + 256 * Math.max(-1, Math.min(1, t)))];
const css = (word) => `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;
const inkOn = (word) =>
  (word & 255) * 0.3 + ((word >> 8) & 255) * 0.59 + ((word >> 16) & 255) * 0.11 > 140 ? "#14181f" : "#ffffff";

// Maps as they come: bytes from each map's lowest to its highest value.
class Maps {
  constructor(record, buffer, at) {
    [this.height, this.width] = record.size;
    Object.assign(this, {
      low: record.low,
      high: record.high,
      first: record.first,
      count: record.low.length,
      full: record.full,
      finite: record.finite,
    });
    this.bytes = new Uint8Array(buffer, at, this.count * this.height * this.width);
    this.top = 0;
    for (let m = 0; m < this.count; m++) this.top = Math.max(this.top, Math.abs(this.low[m]), Math.abs(this.high[m]));
  }
  get end() {
    return this.bytes.byteOffset + this.bytes.byteLength;
  }
  scaleOf(m) {
    return (state.byMap ? Math.max(Math.abs(this.low[m]), Math.abs(this.high[m])) : this.top) || 1;
  }
  value(m, i) {
    return this.low[m] + (this.bytes[m * this.height * this.width + i] / 255) * (this.high[m] - this.low[m]);
  }
  words(m) {
    const table = new Uint32Array(256),
      scale = this.scaleOf(m),
      low = this.low[m],
      step = (this.high[m] - low) / 255;
    for (let q = 0; q < 256; q++) table[q] = colourAt((low + q * step) / scale);
    const size = this.height * this.width,
      out = new Uint32Array(size),
      from = m * size;
    for (let i = 0; i < size; i++) out[i] = table[this.bytes[from + i]];
    return out;
  }
  // Filters of three input maps as colours: what is sent has the red, green and blue of each under one another.
  colours() {
    const size = (this.height / 3) * this.width,
      out = new Uint8ClampedArray(this.count * size * 4).fill(255);
    for (let m = 0; m < this.count; m++)
      for (let i = 0; i < size; i++)
        for (let c = 0; c < 3; c++)
          out[4 * (m * size + i) + c] = 127.5 + 127.5 * (this.value(m, c * size + i) / this.scaleOf(m));
    return new ImageData(out, this.width, (this.count * this.height) / 3);
  }
  // All maps under one another, at their own size.
  sheet() {
    const size = this.height * this.width,
      out = new Uint32Array(this.count * size);
    for (let m = 0; m < this.count; m++) out.set(this.words(m), m * size);
    return new ImageData(new Uint8ClampedArray(out.buffer), this.width, this.count * this.height);
  }
}

const scratch = document.createElement("canvas"),
  scratchContext = scratch.getContext("2d", { willReadFrequently: true });
function onScratch(picture) {
  if (scratch.width !== picture.width || scratch.height !== picture.height) {
    scratch.width = picture.width;
    scratch.height = picture.height;
  }
  scratchContext.putImageData(picture, 0, 0);
}
function stamp(context, picture, x, y, width, height, smooth = false) {
  onScratch(picture);
  context.imageSmoothingEnabled = smooth;
  context.drawImage(scratch, x, y, width, height);
}

function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const w = Math.max(1, Math.round(width * ratio)),
    h = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const context = canvas.getContext("2d");
  context.setTransform(w / width, 0, 0, h / height, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

// --- the input --------------------------------------------------------------------------------------------------

function imageData(pixels, [height, width, channels], at = 0) {
  const out = new Uint8ClampedArray(height * width * 4);
  for (let i = 0, k = at; i < height * width; i++, k += channels) {
    out[4 * i] = pixels[k];
    out[4 * i + 1] = pixels[channels === 3 ? k + 1 : k];
    out[4 * i + 2] = pixels[channels === 3 ? k + 2 : k];
    out[4 * i + 3] = 255;
  }
  return new ImageData(out, width, height);
}

// Draws the network's input, with what lies over it, into a box of the canvas: window is top, left, bottom, right.
function paintInput(context, width, height, window, plain = false) {
  const [top, left, bottom, right] = window,
    sy = height / (bottom - top),
    sx = width / (right - left);
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  if (!state.pixels) return;
  const [ft, fl, fh, fw] = state.frame;
  context.save();
  context.beginPath();
  context.rect((0 - left) * sx, (0 - top) * sy, state.given[1] * sx, state.given[0] * sy);
  context.clip();
  stamp(
    context,
    imageData(state.pixels, state.about.image),
    (fl - left) * sx,
    (ft - top) * sy,
    fw * sx,
    fh * sy,
    state.about.image[0] > 96,
  );
  if (!plain && state.overlay) {
    const { maps, look } = state.overlay;
    if (look === state.look) {
      const out = new Uint8ClampedArray(maps.height * maps.width * 4),
        scale = maps.top || 1;
      for (let i = 0; i < maps.height * maps.width; i++) {
        const t = maps.value(0, i) / scale,
          a = Math.min(1, Math.abs(t)) ** 0.7;
        out.set(t > 0 ? [255, 170 - 110 * a, 20, 175 * a] : [60, 150, 255, 175 * a], 4 * i);
      }
      stamp(
        context,
        new ImageData(out, maps.width, maps.height),
        -left * sx,
        -top * sy,
        state.given[1] * sx,
        state.given[0] * sy,
        true,
      );
    }
  }
  context.restore();
}

function frameBox(context, box, sx, sy, line) {
  const [top, left, bottom, right] = box;
  const put = (style, width) => {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect(left * sx, top * sy, (right - left) * sx, (bottom - top) * sy);
  };
  put("rgb(0 0 0 / 70%)", line + 2);
  put("#ff9a3d", line);
}

function drawPicture() {
  const canvas = $("picture"),
    width = canvas.clientWidth || 300,
    [h, w] = state.given;
  const height = Math.round(width * Math.min(1.6, h / w));
  canvas.style.height = `${height}px`;
  const context = sized(canvas, width, height);
  paintInput(context, width, height, [0, 0, h, w]);
  if (state.pixel) {
    const y = ((state.pixel[0] + 0.5) * height) / state.about.size[0],
      x = ((state.pixel[1] + 0.5) * width) / state.about.size[1];
    frameBox(context, [y - 4, x - 4, y + 4, x + 4], 1, 1, 2);
  }
  const unit = state.unit;
  if (unit && unit.field) {
    const [top, left, bottom, right] = unit.field; // what lies outside is padding
    frameBox(
      context,
      [Math.max(top, 0), Math.max(left, 0), Math.min(bottom, h), Math.min(right, w)],
      width / w,
      height / h,
      2,
    );
  }
  if (state.brush && document.activeElement === canvas && canDraw() && state.brush.keys) {
    const [y, x] = toGiven(state.brush.y, state.brush.x);
    context.strokeStyle = "#ff9a3d";
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(
      (x * width) / w,
      (y * height) / h,
      Math.max(4, (brushRadius() * width * state.frame[3]) / (w * state.about.image[1])),
      0,
      7,
    );
    context.stroke();
  }
}

const canDraw = () => !frozenData;
const brushRadius = () => Number($("brush").value) * Math.max(1, state.about.image[0] / 64);
const toImage = (y, x) => [
  ((y - state.frame[0]) * state.about.image[0]) / state.frame[2],
  ((x - state.frame[1]) * state.about.image[1]) / state.frame[3],
];
const toGiven = (y, x) => [
  (y * state.frame[2]) / state.about.image[0] + state.frame[0],
  (x * state.frame[3]) / state.about.image[1] + state.frame[1],
];

function ink() {
  const channels = state.about.image[2];
  if (channels === 1) return [state.tool === "pen" ? 255 : 0];
  if (state.tool !== "pen") return [128, 128, 128];
  const text = $("colour").value;
  return [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
}

// A soft disc along a line, in the pixels of the run's image.
function stroke(y0, x0, y1, x1) {
  const [height, width, channels] = state.about.image,
    radius = brushRadius() / 2,
    colour = ink();
  const length2 = (y1 - y0) ** 2 + (x1 - x0) ** 2;
  const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius - 1)),
    bottom = Math.min(height - 1, Math.ceil(Math.max(y0, y1) + radius + 1));
  const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius - 1)),
    right = Math.min(width - 1, Math.ceil(Math.max(x0, x1) + radius + 1));
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const py = y + 0.5,
        px = x + 0.5;
      const t = length2 ? Math.max(0, Math.min(1, ((py - y0) * (y1 - y0) + (px - x0) * (x1 - x0)) / length2)) : 0;
      const cover = Math.max(
        0,
        Math.min(1, radius + 0.5 - Math.hypot(py - y0 - t * (y1 - y0), px - x0 - t * (x1 - x0))),
      );
      if (!cover) continue;
      const at = (y * width + x) * channels;
      for (let c = 0; c < channels; c++) {
        const mixed = state.pixels[at + c] * (1 - cover) + colour[c] * cover;
        state.pixels[at + c] =
          channels > 1
            ? mixed
            : state.tool === "pen"
              ? Math.max(state.pixels[at], 255 * cover)
              : Math.min(state.pixels[at], 255 * (1 - cover));
      }
    }
  }
}

function drawn(name = "drawn here") {
  state.label = null;
  state.examples.chosen = -1;
  for (const button of $("examples").children) press(button, false);
  $("input-name").textContent = name;
  drawPicture();
  refresh({ source: "pixels" });
}

function blank() {
  const [height, width, channels] = state.about.image;
  state.pixels = new Uint8Array(height * width * channels).fill(channels === 1 ? 0 : 128);
}

function wireDrawing() {
  const canvas = $("picture");
  if (!canDraw()) {
    canvas.classList.add("still");
    $("tools").hidden = true;
    label(canvas, "The input of the network");
    return;
  }
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "drawing");
  label(
    canvas,
    "The input of the network. Draw with the mouse or a finger; or move the brush with the arrow keys, and draw with the space bar, or with Shift and the arrow keys.",
  );
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return toImage(
      ((event.clientY - box.top) / box.height) * state.given[0],
      ((event.clientX - box.left) / box.width) * state.given[1],
    );
  };
  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !state.pixels) return;
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    state.brush = null;
    stroke(...last, ...last);
    drawn();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const one of event.getCoalescedEvents ? event.getCoalescedEvents() : [event]) {
      const next = place(one);
      stroke(...last, ...next);
      last = next;
    }
    drawn();
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => {
      last = null;
    });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    const [height, width] = state.about.image;
    const old = state.brush || { y: height / 2, x: width / 2 },
      far = Math.max(1, height / 32);
    const next = step
      ? {
          y: Math.max(0, Math.min(height, old.y + far * step[0])),
          x: Math.max(0, Math.min(width, old.x + far * step[1])),
        }
      : old;
    state.brush = { ...next, keys: true };
    if (!step || event.shiftKey) {
      stroke(old.y, old.x, next.y, next.x);
      drawn();
    } else drawPicture();
    say(`row ${Math.round(next.y)}, column ${Math.round(next.x)}`);
  });
  canvas.addEventListener("blur", drawPicture);
  const tool = (name) => {
    state.tool = name;
    press($("pen"), name === "pen");
    press($("eraser"), name === "eraser");
  };
  $("pen").onclick = () => tool("pen");
  $("eraser").onclick = () => tool("eraser");
  $("clear").onclick = () => {
    blank();
    drawn("blank");
  };
  $("invert").onclick = () => {
    state.pixels = state.pixels.map((v) => 255 - v);
    drawn("inverted");
  };
  $("open").onclick = () => $("file").click();
  $("file").onchange = () => {
    if ($("file").files[0]) loadFile($("file").files[0]);
    $("file").value = "";
  };
  const stage = $("input");
  stage.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").hidden = false;
  });
  stage.addEventListener("dragleave", (event) => {
    if (!stage.contains(event.relatedTarget)) $("drop").hidden = true;
  });
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").hidden = true;
    if (event.dataTransfer.files[0]) loadFile(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) loadFile(file);
  });
}

async function loadFile(file) {
  if (file.size > 32 * 2 ** 20)
    return trouble(new Told(`${file.name} is ${(file.size / 1e6).toFixed(0)} MB; the most is 33 MB.`, 413));
  refresh({ source: "file", bytes: await file.arrayBuffer(), name: file.name });
}

// --- looking: the newest input only, one at a time --------------------------------------------------------------

let running = false,
  waiting = null;

function refresh(input) {
  input.begun = input.begun || performance.now();
  // While one is under way, only the last that came is kept, with the time of the first stroke it shows.
  if (running) {
    if (waiting && input.source === "look") return; // what waits asks about the pixel, too
    if (waiting && waiting.source === input.source) input.begun = waiting.begun;
    waiting = input;
    return;
  }
  running = true;
  look(input)
    .catch(trouble)
    .finally(() => {
      running = false;
      if (waiting) {
        const next = waiting;
        waiting = null;
        refresh(next);
      }
    });
}

async function look(input) {
  const patience = setTimeout(() => {
    $("speed").textContent = "computing\u2026 (the first time, the network is compiled)";
  }, 400);
  const wanted = input.source === "look" ? [] : shownCards().map((card) => card.asks());
  const record = { source: input.source, layers: wanted, pixel: state.pixel };
  if (input.source === "example") record.index = input.index;
  if (input.source === "look") record.look = state.look;
  let answer;
  try {
    answer = await source.look(record, input.source === "pixels" ? state.pixels : input.bytes);
  } finally {
    clearTimeout(patience);
    if ($("speed").textContent.startsWith("computing")) $("speed").textContent = "";
  }
  const { record: told, image, pictures, maps } = looked(answer);
  if (input.source === "look" && told.look !== state.look) return; // of an input before
  state.look = told.look;
  if (input.source !== "look") {
    if (image) state.pixels = image;
    if (input.source !== "pixels") state.label = told.label;
    state.pictures = pictures || {};
  }
  if (input.source === "file" || input.source === "first") {
    $("input-name").textContent = input.name || "";
    state.examples.chosen = -1;
    markExample();
  }
  if (input.source === "example")
    $("input-name").textContent =
      `example ${input.index}` + (told.label === null ? "" : `, labelled ${state.about.classes[told.label]}`);
  state.probabilities = told.probabilities;
  for (const { name } of wanted) {
    const card = state.cards.get(name);
    if (maps.has(name)) card.receive(maps.get(name));
    else card.missing();
  }
  showClasses();
  if (input.source !== "look") {
    drawPicture();
    drawAnswer();
    calm();
  }
  if (input.source !== "look") {
    const took = performance.now() - input.begun;
    $("speed").replaceChildren("maps in ", make("b", { textContent: `${took.toFixed(0)} ms` }));
    $("speed").title = `from the input to the drawn maps; the network itself took ${told.milliseconds.toFixed(1)} ms`;
    if (frozenData) $("speed").textContent = "";
    document.body.dataset.look = told.look;
    document.body.dataset.took = took.toFixed(1);
    if (state.kept) askUnit(state.kept.layer, state.kept.place, true);
    else if (state.unit) askUnit(state.unit.layer, state.unit.place, false);
    askOverlay(150);
  }
}

function showClasses() {
  if (state.about.size)
    $("classes-heading").textContent = state.pixel
      ? `Row ${state.pixel[0]}, column ${state.pixel[1]}`
      : "Shares of the pixels";
  const names = state.about.classes,
    p = state.probabilities.map((v) => (v === null ? NaN : v));
  const order = p.map((v, i) => i).sort((a, b) => p[b] - p[a]);
  const shown = names.length <= 12 ? p.map((v, i) => i) : order.slice(0, 8);
  $("classes").classList.toggle(
    "narrow",
    names.every((n) => n.length < 3),
  );
  $("classes").replaceChildren(
    ...shown.map((i) => {
      const bar = make("i");
      bar.style.width = `${100 * (p[i] || 0)}%`;
      const name = make("span", { className: "name", textContent: names[i], title: names[i] });
      if (state.about.answer === "pixels") {
        const swatch = make("i", { className: "swatch" });
        swatch.style.background = `rgb(${state.about.palette[i].join(" ")})`;
        name.prepend(swatch);
      }
      const row = make(
        "li",
        { className: `${i === order[0] ? "top" : ""} ${i === state.label ? "true" : ""}` },
        name,
        make("span", { className: "bar" }, bar),
        make("span", { className: "value", textContent: `${(100 * p[i]).toFixed(1)} %` }),
      );
      if (i === state.label) row.title = "the example's label";
      return row;
    }),
  );
}

// --- what is said of each pixel -----------------------------------------------------------------------------------

function drawAnswer() {
  if (!state.about.size) return;
  const [height, width] = state.about.size,
    { palette } = state.about;
  for (const name of ["said", "labelled"]) {
    const bytes = state.pictures[name],
      canvas = $(name);
    canvas.parentElement.hidden = !bytes;
    if (!bytes) continue;
    const words = Uint32Array.from(palette, ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r);
    const picture = new ImageData(
      new Uint8ClampedArray(Uint32Array.from(bytes, (v) => words[v]).buffer),
      width,
      height,
    );
    const room = canvas.clientWidth || 150,
      high = (room * height) / width;
    canvas.style.height = `${high}px`;
    const context = sized(canvas, room, high);
    stamp(context, picture, 0, 0, room, high, name === "said" && state.about.answer === "score");
    for (const [place, line] of [
      [state.pointed, 1],
      [state.pixel, 2],
    ]) {
      if (!place) continue;
      const y = ((place[0] + 0.5) * high) / height,
        x = ((place[1] + 0.5) * room) / width;
      frameBox(context, [y - 3.5, x - 3.5, y + 3.5, x + 3.5], 1, 1, line);
    }
  }
  const at = state.pointed || state.pixel;
  $("answer-note").textContent = at
    ? `Row ${at[0]}, column ${at[1]}: ${saidAt("said", at)}${state.pictures.labelled ? `, labelled ${saidAt("labelled", at)}` : ""}.`
    : frozenData
      ? "Point at a pixel for its class."
      : "Point at a pixel for its class; click to ask about it.";
}

function saidAt(name, [y, x]) {
  const value = state.pictures[name][y * state.about.size[1] + x],
    { classes } = state.about;
  if (state.about.answer === "pixels") return classes[value] ?? "nothing";
  if (value === 255) return "nothing";
  if (name === "labelled") return value ? classes[0] : `no ${classes[0]}`;
  return `${classes[0]} ${((100 * value) / 254).toFixed(0)} %`;
}

function wireAnswer() {
  $("answer").hidden = !state.about.size;
  if (!state.about.size) return;
  const [height, width] = state.about.size;
  $("examples-class").parentElement.hidden = true; // labels of pixels, not of images
  const choose = (place) => {
    if (frozenData) return;
    state.pixel = place && String(place) !== String(state.pixel) ? place : null;
    drawAnswer();
    drawPicture();
    if (state.look !== null) refresh({ source: "look" });
    askOverlay();
  };
  state.unpixel = () => {
    if (!state.pixel) return false;
    choose(null);
    return true;
  };
  for (const name of ["said", "labelled"]) {
    const canvas = $(name);
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const y = Math.floor(((event.clientY - box.top) / box.height) * height),
        x = Math.floor(((event.clientX - box.left) / box.width) * width);
      return [Math.max(0, Math.min(height - 1, y)), Math.max(0, Math.min(width - 1, x))];
    };
    const point = (place) => {
      state.pointed = place;
      drawAnswer();
    };
    canvas.addEventListener("pointermove", (event) => event.pointerType !== "touch" && point(at(event)));
    canvas.addEventListener("pointerleave", () => point(null));
    canvas.addEventListener("blur", () => point(null));
    let down = null; // a click has whole coordinates only, and a pixel may be smaller
    canvas.addEventListener("pointerdown", (event) => (down = at(event)));
    canvas.addEventListener("click", () => down && choose(down));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step && event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      const old = state.pointed || state.pixel || [height >> 1, width >> 1];
      if (!step) return choose(old);
      const far = event.shiftKey ? 1 : Math.max(1, Math.round(height / 60));
      point([
        Math.max(0, Math.min(height - 1, old[0] + far * step[0])),
        Math.max(0, Math.min(width - 1, old[1] + far * step[1])),
      ]);
      say($("answer-note").textContent);
    });
  }
}

// --- examples ---------------------------------------------------------------------------------------------------

const PAGE = 14;

async function showExamples(pick = false) {
  const { first, label: wanted } = state.examples;
  let answer;
  try {
    answer = await source.examples({ first, count: PAGE, label: wanted });
  } catch (error) {
    $("examples").replaceChildren(make("p", { className: "muted small", textContent: error.message }));
    for (const id of ["examples-back", "examples-next", "examples-class"]) $(id).disabled = true;
    if (pick && canDraw()) {
      blank();
      drawn("blank");
    }
    return;
  }
  const { record, buffer, at } = answer,
    shape = state.about.image,
    size = shape[0] * shape[1] * shape[2];
  const pixels = new Uint8Array(buffer, at);
  $("examples").replaceChildren(
    ...record.index.map((index, k) => {
      const canvas = make("canvas", { width: shape[1], height: shape[0] });
      canvas.getContext("2d").putImageData(imageData(pixels, shape, k * size), 0, 0);
      const name = state.about.classes[record.labels[k]];
      const button = label(
        make("button", { type: "button", title: name ?? "", dataset: { index } }, canvas),
        `example ${index}, ${name === undefined ? "no label" : `labelled ${name}`}`,
      );
      button.onclick = () => {
        state.examples.chosen = index;
        markExample();
        refresh({ source: "example", index });
      };
      return button;
    }),
  );
  markExample();
  $("examples-back").disabled = first === 0;
  $("examples-next").disabled = first + PAGE >= record.total;
  if (pick && record.index.length) $("examples").firstElementChild.click();
}
function markExample() {
  for (const button of $("examples").children) press(button, Number(button.dataset.index) === state.examples.chosen);
}

function wireExamples() {
  $("examples-class").append(
    make("option", { value: -1, textContent: "all classes" }),
    ...state.about.classes.map((name, i) => make("option", { value: i, textContent: name })),
  );
  const turn = (by) => {
    state.examples.first = Math.max(0, state.examples.first + by * PAGE);
    showExamples();
  };
  $("examples-back").onclick = () => turn(-1);
  $("examples-next").onclick = () => turn(1);
  $("examples-class").onchange = () => {
    state.examples.first = 0;
    state.examples.label = Number($("examples-class").value);
    showExamples();
  };
}

// --- overlays ---------------------------------------------------------------------------------------------------

let overlayTimer = 0,
  overlayRunning = false,
  overlayWaiting = false;

function askOverlay(delay = 0) {
  clearTimeout(overlayTimer);
  overlayWaiting = false;
  if (!state.kind || state.look === null) {
    state.overlay = null;
    $("overlay-note").textContent = "";
    drawPicture();
    return;
  }
  overlayTimer = setTimeout(runOverlay, delay);
}

// One at a time: of those that are asked for meanwhile, the last.
async function runOverlay() {
  if (overlayRunning) {
    overlayWaiting = true;
    $("overlay-note").textContent = "waiting for the one before\u2026";
    return;
  }
  const { kind, look: about } = state,
    chosen = $("overlay-class").value,
    pixel = state.pixel;
  const layer = kind === "grad_cam" && $("overlay-layer").value ? $("overlay-layer").value : null;
  const asked = { look: about, kind, layer, unit: chosen === "" ? null : Number(chosen), pixel };
  const begun = performance.now();
  const wait = () => {
    const seconds = Math.round((performance.now() - begun) / 1000);
    $("overlay-note").textContent =
      seconds < 2 ? "computing\u2026" : `computing, ${seconds} s\u2026 (the first time, it is compiled)`;
  };
  wait();
  const ticking = setInterval(() => !overlayWaiting && state.kind && wait(), 1000);
  overlayRunning = true;
  try {
    for (let going = true; going; ) {
      const { record, buffer, at } = await source.overlay(asked);
      if (overlayWaiting || !state.kind) break;
      state.overlay = { maps: new Maps(record, buffer, at), look: about, record };
      going = record.done < record.places;
      clearInterval(ticking);
      $("overlay-note").textContent = going
        ? `The square has been at ${record.done} of ${record.places} places\u2026`
        : overlayText(record, !(state.overlay.maps.top > 0));
      drawPicture();
      // Another input or class came meanwhile: what is left is not wanted.
      going &&= state.look === about && state.kind === kind;
    }
  } catch (error) {
    if (!overlayWaiting) {
      state.overlay = null;
      $("overlay-note").textContent = state.kind ? error.message : "";
    }
  }
  clearInterval(ticking);
  overlayRunning = false;
  drawPicture();
  if (overlayWaiting) {
    overlayWaiting = false;
    if (state.kind) runOverlay();
  }
}

function overlayText(record, flat) {
  const where = record.pixel ? ` at row ${record.pixel[0]}, column ${record.pixel[1]}` : "",
    name = state.about.classes[record.unit] + where;
  if (flat) return `Nothing here speaks for ${name}.`;
  if (record.kind === "grad_cam")
    return `Where the maps of ${record.layer} speak for ${name}.`;
  if (record.kind === "saliency") return `How much each pixel changes the score of ${name}.`;
  const percent = (v) => (100 * v).toFixed(1);
  return `What the probability of ${name} (${percent(record.whole)} %) loses under a ${record.square}\u00d7${record.square} square, moved by ${record.stride}: up to ${percent(record.whole - record.lowest)} points. Blue: it gains.`;
}

function wireOverlay(maps, usual) {
  for (const button of $("overlay").querySelectorAll("[data-kind]"))
    button.onclick = () => {
      state.kind = button.dataset.kind;
      for (const other of $("overlay").querySelectorAll("[data-kind]")) press(other, other === button);
      $("overlay-class-label").hidden = !state.kind;
      $("overlay-layer-label").hidden = state.kind !== "grad_cam" || !maps.length;
      askOverlay();
    };
  const cam = $("overlay").querySelector("[data-kind=grad_cam]");
  cam.disabled = !maps.length;
  if (!maps.length) cam.title = "no layer of this network has maps with height and width";
  $("overlay-class").append(
    make("option", { value: "", textContent: "most probable" }),
    ...state.about.classes.map((name, i) => make("option", { value: i, textContent: name })),
  );
  $("overlay-layer").append(
    make("option", { value: "", textContent: usual ? `${usual} (usual)` : "" }),
    ...maps.map((name) => make("option", { value: name, textContent: name })),
  );
  for (const id of ["overlay-class", "overlay-layer"]) $(id).onchange = () => askOverlay();
  if (frozenData) for (const id of ["overlay-class", "overlay-layer"]) $(id).disabled = true;
}

// --- layers -----------------------------------------------------------------------------------------------------

const GAP = 6,
  MOST = 64,
  SIDE = 112, // what the server reduces larger maps to
  AT_ONCE = 400_000; // bytes of maps that every new input brings; where there are more, those near the window

// The cards whose maps a new input brings: all that are open, or, of a large network, those that can be seen or soon.
function shownCards() {
  const open = [...state.cards.values()].filter((card) => card.reachable && card.shows === "maps");
  state.large = open.reduce((sum, card) => sum + card.bytes, 0) > AT_ONCE;
  return state.large ? open.filter((card) => card.near) : open;
}

const nearness = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const card = state.cards.get(target.closest(".layer").dataset.layer);
      card.near = isIntersecting;
      if (isIntersecting) soon(card);
      else if (state.large) card.release();
    }
  },
  { rootMargin: "900px 0px" },
);

// The maps of all cards that come into view in one moment are asked for together.
const due = new Set();
function soon(card) {
  if (!due.size)
    requestAnimationFrame(() => {
      const cards = [...due].filter((c) => c.reachable);
      due.clear();
      for (const c of cards) if (c.current) c.draw();
      fetchMaps(cards.filter((c) => !c.current));
    });
  due.add(card);
}

async function fetchMaps(cards) {
  for (const card of cards) if (card.shows === "filters") card.fetchFilters();
  const asking = cards.filter((card) => card.shows === "maps" && card.reachable);
  if (state.look === null || !asking.length) return;
  try {
    const { record, maps } = looked(
      await source.look({ source: "look", look: state.look, layers: asking.map((card) => card.asks()) }),
    );
    if (record.look !== state.look) return fetchMaps(asking.filter((card) => !card.current)); // another input came
    for (const card of asking) {
      const found = maps.get(card.layer.name);
      if (!found) card.missing();
      else if (card.shows === "maps" && found.first === card.first) card.receive(found);
    }
  } catch (error) {
    if (error.status === 410) refresh({ source: "pixels" });
    else trouble(error);
  }
}

class Card {
  constructor(layer, open) {
    Object.assign(this, { layer, open, shows: "maps", first: 0, channel: null, maps: null, at: null });
    this.total = layer.shape.length >= 2 ? layer.shape[layer.shape.length - 1] : 1;
    this.vector = layer.shape.length === 1 || layer.shape.length > 3;
    this.page = Math.min(
      MOST,
      frozenData ? frozenData.most : layer.shape[0] > 96 ? 16 : layer.shape[0] > 40 ? 32 : MOST,
    );
    this.build();
  }
  asks() {
    return { name: this.layer.name, first: this.first, count: this.page };
  }
  get reachable() {
    return this.open && !this.node.closest(".group > .body[hidden]");
  }
  get current() {
    return Boolean(this.maps) && (this.look === state.look || this.shows === "filters");
  }
  // How large what comes will be: {height, width, count}.
  get expected() {
    const { shape } = this.layer;
    if (this.vector) return { height: 1, width: shape.reduce((a, b) => a * b, 1), count: 1 };
    const [h, w] = shape.length === 3 ? shape : [shape[0], 1],
      by = h > 1 ? Math.ceil(Math.max(h, w) / SIDE) : 1;
    return {
      height: Math.ceil(h / by),
      width: Math.ceil(w / by),
      count: Math.min(this.page, this.total - this.first),
    };
  }
  get bytes() {
    const { height, width, count: many } = this.expected;
    return height * width * many;
  }
  get leafName() {
    return this.layer.name.split("/").pop();
  }

  build() {
    const { layer } = this,
      id = `body-${layer.name.replace(/[^\w]/g, "-")}`;
    this.button = make(
      "button",
      { type: "button" },
      make("span", { className: "arrow", textContent: "\u25b8" }),
      make("span", { className: "name", textContent: this.leafName, title: layer.name }),
      make("code", { textContent: layer.code.length > 90 ? `${layer.code.slice(0, 88)}\u2026` : layer.code }),
      facts(layer),
    );
    this.button.querySelector(".arrow").setAttribute("aria-hidden", "true");
    this.button.setAttribute("aria-controls", id);
    this.body = make("div", { className: "body", id });
    this.node = make(
      "section",
      { className: "layer", dataset: { layer: layer.name } },
      make("h3", {}, this.button),
      this.body,
    );
    label(this.node, `layer ${layer.name}`);
    this.button.onclick = () => this.toggle();
    this.line = make("div", { className: "bar-line" });
    this.legend = [make("span"), make("canvas", { width: 84, height: 1 }), make("span")];
    this.legend[1].setAttribute("aria-hidden", "true");
    this.holder = make("div", { className: "maps" });
    this.canvas = make("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "activation maps");
    label(
      this.canvas,
      this.vector
        ? `${layer.name}: ${count(layer.shape.reduce((a, b) => a * b, 1))} units. Arrow keys move from unit to unit, Enter keeps one.`
        : `${layer.name}: ${this.total} maps of ${layer.shape.slice(0, -1).join(" by ")}. Arrow keys move within a map, Page Up and Page Down to other maps, Enter keeps a unit.`,
    );
    this.cursor = make("div", { className: "cursor", hidden: true });
    this.holder.append(this.canvas, this.cursor);
    this.body.append(this.line, this.holder);
    this.wire();
    this.mark();
  }
  mark() {
    this.button.setAttribute("aria-expanded", this.open);
    this.body.hidden = !this.open;
  }
  toggle(open = !this.open) {
    this.open = open;
    this.mark();
    if (open) this.fresh();
  }
  fresh() {
    this.reserve();
    soon(this);
  }
  // Room for maps that are not there yet, so that nothing moves when they come.
  reserve() {
    if (this.size || this.shows !== "maps") return;
    const room = this.room || state.room - 26 * (this.layer.depth + 1);
    const l = this.layout(Math.max(120, room), this.expected);
    Object.assign(this.canvas.style, { width: `${l.width}px`, height: `${l.height}px` });
  }
  // Far from the window, a card of a large network keeps its size and nothing else.
  release() {
    if (!this.maps || this.at) return;
    this.maps = null;
    this.cursor.hidden = true;
    this.canvas.width = this.canvas.height = 1;
  }
  async fetchFilters() {
    try {
      const { record, buffer, at } = await source.filters({
        layer: this.layer.name,
        channel: this.channel,
        first: this.first,
        count: this.page,
      });
      this.receive(new Maps({ ...record, full: null }, buffer, at));
    } catch (error) {
      trouble(error);
    }
  }
  missing() {
    this.look = state.look;
    this.line.textContent = "What this layer puts out cannot be shown: it is inside a loop, or has no axis of examples.";
  }
  receive(maps) {
    this.maps = maps;
    this.look = state.look;
    this.draw();
    if (this.waiting) this.waiting(); // the pointer came before the maps
  }

  tools() {
    const { layer, maps } = this,
      parts = [];
    const low = Math.min(0, ...maps.low),
      high = Math.max(0, ...maps.high),
      top = maps.top || 1;
    const words = Uint32Array.from({ length: 84 }, (_, x) => colourAt((low + (x / 83) * (high - low)) / top));
    this.legend[1].hidden = this.shows === "filters" && layer.filters[2] === 3;
    this.legend[1].getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(words.buffer), 84, 1), 0, 0);
    this.legend[0].textContent = state.byMap
      ? "each map by its own"
      : this.legend[1].hidden
        ? `${show(low)} to`
        : show(low);
    this.legend[2].textContent = state.byMap ? "scale" : show(high);
    const form = JSON.stringify([this.shows, this.first, this.channel, maps.finite]);
    if (form === this.form) return;
    this.form = form;
    parts.push(make("span", { className: "legend" }, ...this.legend));
    if (!maps.finite) parts.push(make("b", { textContent: "has values that are not finite" }));
    if (layer.filters) {
      const [h, w, channels] = layer.filters;
      const tab = (what, text) => {
        const button = make("button", { type: "button", textContent: text, dataset: { shows: what } });
        press(button, this.shows === what);
        button.onclick = () => {
          if (this.shows === what) return;
          this.shows = what;
          this.first = 0;
          this.maps = null;
          this.cursor.hidden = true;
          this.channel = what === "filters" && channels !== 3 ? 0 : null;
          fetchMaps([this]);
        };
        return button;
      };
      parts.push(make("span", { className: "choice" }, tab("maps", "maps"), tab("filters", `filters ${h}\u00d7${w}`)));
      if (this.shows === "filters" && channels > 1) {
        if (channels === 3) parts.push(make("span", { textContent: "as colours, grey is 0" }));
        else {
          const pick = make("select");
          label(pick, "input map of the filters");
          for (let c = 0; c < Math.min(channels, frozenData ? 1 : 512); c++)
            pick.append(make("option", { value: c, textContent: `input map ${c}` }));
          pick.value = this.channel ?? 0;
          pick.onchange = () => {
            this.channel = Number(pick.value);
            this.fetchFilters();
          };
          parts.push(pick);
        }
      }
    }
    const all = this.shows === "filters" ? this.layer.filters[3] : this.total;
    if (all > this.page) {
      const turn = (by, text, name) => {
        const button = label(make("button", { type: "button", textContent: text }), `${name} of ${this.layer.name}`),
          next = this.first + by * this.page;
        button.disabled = next < 0 || next >= all || Boolean(frozenData);
        button.onclick = () => {
          this.first = next;
          fetchMaps([this]);
        };
        return button;
      };
      parts.push(
        make(
          "span",
          { className: "pager" },
          turn(-1, "\u2039", "earlier maps"),
          `${this.first}\u2013${Math.min(all, this.first + this.page) - 1} of ${all}`,
          turn(1, "\u203a", "later maps"),
        ),
      );
    }
    const focused = this.line.contains(document.activeElement)
      ? [...this.line.querySelectorAll("button,select")].indexOf(document.activeElement)
      : -1;
    this.line.replaceChildren(...parts);
    if (focused >= 0) {
      const again = this.line.querySelectorAll("button,select")[focused];
      if (again) again.focus();
    }
  }

  layout(width = Math.max(120, this.room), maps = this.maps) {
    if (this.vector && this.shows === "maps") {
      const units = maps.width,
        names =
          this.layer.name === lastLayer && units === state.about.classes.length && units <= 40
            ? state.about.classes
            : null;
      const high = units <= 16 || names ? 30 : units <= 200 ? 18 : units <= 1200 ? 10 : 6;
      const cell = names ? Math.max(30, Math.min(96, 12 + 7.5 * Math.max(...names.map((n) => n.length)))) : high;
      const columns = Math.max(1, Math.min(units, Math.floor(width / cell)));
      return { cell, high, names, columns, width: columns * cell, height: Math.ceil(units / columns) * high };
    }
    const colours = this.shows === "filters" && this.layer.filters[2] === 3,
      rows = colours ? maps.height / 3 : maps.height;
    const long = Math.max(rows, maps.width),
      side = this.shows === "filters" ? 60 : 84;
    let k = long >= side ? 1 : Math.max(1, Math.min(22, Math.floor(side / long)));
    if (maps.width * k > width) k = width / maps.width;
    const w = maps.width * k,
      h = rows * k,
      columns = Math.max(1, Math.min(maps.count, Math.floor((width + GAP) / (w + GAP))));
    return {
      k,
      w,
      h,
      rows,
      colours,
      columns,
      width: columns * (w + GAP) - GAP,
      height: Math.ceil(maps.count / columns) * (h + GAP) - GAP,
    };
  }

  draw() {
    if (!this.open || !this.maps) return;
    // Reading a width makes the browser lay out the page: only when it may have changed.
    if (!this.room) this.room = this.holder.clientWidth;
    if (!this.room) return; // inside a folded block
    this.tools();
    const { maps } = this,
      l = (this.shape = this.layout()),
      size = `${l.width} ${l.height}`;
    if (this.size !== size) {
      this.size = size;
      this.canvas.style.width = `${l.width}px`;
      this.canvas.style.height = `${l.height}px`;
    }
    const context = sized(this.canvas, l.width, l.height);
    if (l.cell) {
      const words = maps.words(0);
      for (let i = 0; i < maps.width; i++) {
        context.fillStyle = css(words[i]);
        const left = (i % l.columns) * l.cell,
          top = Math.floor(i / l.columns) * l.high;
        context.fillRect(left, top, l.cell - 1, l.high - 1);
        if (!l.names) continue;
        Object.assign(context, {
          fillStyle: inkOn(words[i]),
          font: "600 12px system-ui, sans-serif",
          textAlign: "center",
          textBaseline: "middle",
        });
        context.fillText(
          l.names[i].length > 12 ? `${l.names[i].slice(0, 11)}\u2026` : l.names[i],
          left + l.cell / 2,
          top + l.high / 2,
        );
      }
    } else {
      onScratch(l.colours ? maps.colours() : maps.sheet());
      context.imageSmoothingEnabled = false;
      for (let m = 0; m < maps.count; m++)
        context.drawImage(
          scratch,
          0,
          m * l.rows,
          maps.width,
          l.rows,
          (m % l.columns) * (l.w + GAP),
          Math.floor(m / l.columns) * (l.h + GAP),
          l.w,
          l.h,
        );
    }
    this.placeCursor();
  }

  // The unit under a point of the canvas: {m, y, x}, in the layer's own rows and columns.
  hit(px, py) {
    const l = this.shape,
      { maps } = this;
    if (!l || this.shows !== "maps") return null;
    if (l.cell) {
      const column = Math.floor(px / l.cell),
        i = Math.floor(py / l.high) * l.columns + column;
      return column < l.columns && i >= 0 && i < maps.width ? { m: 0, y: 0, x: i } : null;
    }
    const column = Math.floor(px / (l.w + GAP)),
      row = Math.floor(py / (l.h + GAP)),
      m = row * l.columns + column;
    const x = (px - column * (l.w + GAP)) / l.k,
      y = (py - row * (l.h + GAP)) / l.k;
    if (column >= l.columns || m >= maps.count || x >= maps.width || y >= maps.height || x < 0 || y < 0) return null;
    const by = this.reduced();
    return {
      m: this.first + m,
      y: Math.min(maps.full[0] - 1, Math.floor(y) * by + (by >> 1)),
      x: Math.min(maps.full[1] - 1, Math.floor(x) * by + (by >> 1)),
    };
  }
  reduced() {
    return Math.ceil(this.maps.full[1] / this.maps.width);
  }
  place({ m, y, x }) {
    const { shape } = this.layer;
    if (shape.length === 3) return [y, x, m];
    if (shape.length === 2) return [y, m];
    const place = [];
    for (let axis = shape.length - 1, rest = x; axis >= 0; axis--) {
      place.unshift(rest % shape[axis]);
      rest = Math.floor(rest / shape[axis]);
    }
    return place;
  }
  point(at) {
    this.at = at;
    for (const other of state.cards.values())
      if (other !== this && other.at) {
        other.at = null;
        other.placeCursor();
      }
    this.placeCursor();
    if (at) askUnit(this.layer.name, this.place(at), false);
  }
  placeCursor() {
    const { at, shape: l } = this,
      box = this.cursor;
    const m = at ? at.m - (l && l.cell ? 0 : this.first) : -1;
    box.hidden = !at || !l || !this.maps || this.shows !== "maps" || m < 0 || m >= this.maps.count;
    if (box.hidden) return;
    let left, top, width, height;
    if (l.cell)
      [left, top, width, height] = [
        (at.x % l.columns) * l.cell,
        Math.floor(at.x / l.columns) * l.high,
        l.cell - 1,
        l.high - 1,
      ];
    else {
      const by = this.reduced();
      left = (m % l.columns) * (l.w + GAP) + Math.floor(at.x / by) * l.k;
      top = Math.floor(m / l.columns) * (l.h + GAP) + Math.floor(at.y / by) * l.k;
      width = height = l.k;
    }
    const room = Math.max(2, (7 - width) / 2 + 1);
    Object.assign(box.style, {
      left: `${left - room}px`,
      top: `${top - room}px`,
      width: `${width + 2 * room}px`,
      height: `${height + 2 * room}px`,
    });
  }

  wire() {
    const { canvas } = this;
    nearness.observe(this.holder);
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return this.hit(
        ((event.clientX - box.left) * this.shape?.width) / box.width,
        ((event.clientY - box.top) * this.shape?.height) / box.height,
      );
    };
    canvas.addEventListener("pointermove", (event) => {
      if (state.kept || event.pointerType === "touch") return;
      this.waiting = () => {
        this.waiting = null;
        const unit = at(event);
        if (unit && !state.kept) this.point(unit);
      };
      if (this.maps) this.waiting();
    });
    canvas.addEventListener("pointerleave", () => (this.waiting = null));
    let down = null; // a click has whole coordinates only, and a unit may be smaller
    canvas.addEventListener("pointerdown", (event) => (down = event));
    canvas.addEventListener("click", () => {
      const unit = this.maps && down && at(down);
      if (unit) this.keep(unit);
    });
    canvas.addEventListener("focus", () => {
      if (!this.maps || state.kept || !canvas.matches(":focus-visible")) return;
      this.point(this.at || { m: this.vector ? 0 : this.first, y: 0, x: 0 });
    });
    canvas.addEventListener("keydown", (event) => {
      if (!this.maps || this.shows !== "maps") return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        if (this.at) this.keep(this.at);
        return;
      }
      const l = this.shape,
        full = this.maps.full,
        unit = { ...(this.at || { m: this.vector ? 0 : this.first, y: 0, x: 0 }) },
        by = l.cell ? 1 : this.reduced();
      const moves = l.cell
        ? {
            ArrowLeft: () => unit.x--,
            ArrowRight: () => unit.x++,
            ArrowUp: () => (unit.x -= l.columns),
            ArrowDown: () => (unit.x += l.columns),
            Home: () => (unit.x = 0),
            End: () => (unit.x = full[1] - 1),
          }
        : {
            ArrowLeft: () => (unit.x -= by),
            ArrowRight: () => (unit.x += by),
            ArrowUp: () => (unit.y -= by),
            ArrowDown: () => (unit.y += by),
            PageDown: () => unit.m++,
            PageUp: () => unit.m--,
            Home: () => (unit.x = 0),
            End: () => (unit.x = full[1] - 1),
          };
      if (!moves[event.key]) return;
      event.preventDefault();
      moves[event.key]();
      if (
        unit.x < 0 ||
        unit.y < 0 ||
        unit.x >= full[1] ||
        unit.y >= full[0] ||
        unit.m < (l.cell ? 0 : this.first) ||
        unit.m >= (l.cell ? 1 : this.first + this.maps.count)
      )
        return;
      if (state.kept) letGo(false);
      this.point(unit);
    });
  }
  keep(unit) {
    const place = this.place(unit),
      same = state.kept && state.kept.layer === this.layer.name && String(state.kept.place) === String(place);
    if (same) return letGo(false);
    state.kept = null;
    this.point(unit);
    state.kept = { layer: this.layer.name, place };
    $("kept").hidden = false;
    $("unit").classList.add("has");
    askUnit(this.layer.name, place, true);
  }
}

function facts(layer) {
  const field = layer.field
    ? ` \u00b7 sees ${layer.field[0] === layer.field[1] ? times(layer.field) : layer.field.join("\u00d7")}`
    : "";
  const node = make(
    "span",
    { className: "facts" },
    make("b", { textContent: times(layer.shape) || "1" }),
    layer.params ? ` \u00b7 ${count(layer.params)} parameters` : layer.shared ? " \u00b7 shared" : "",
    field,
  );
  node.title = `output ${times(layer.shape)}, ${count(layer.params)} parameters, ${count(layer.macs)} multiply-accumulates${layer.field ? `, receptive field ${times(layer.field)}` : ""}`;
  return node;
}

function buildLayers(layers) {
  const list = $("list"),
    open = layers.filter((l) => !l.group).length <= 24;
  const leaves = layers.filter((l) => !l.group);
  list.replaceChildren();
  // Networks come behind what is inside them: what has been met at a greater depth is theirs.
  let met = [];
  const named = new Map(layers.map((l) => [l.name, l]));
  const groupOpen = open && layers.every((l) => !l.group);
  for (const layer of layers) {
    if (!layer.group) {
      const card = new Card(layer, open || layer === leaves[0] || layer === leaves[leaves.length - 1]);
      state.cards.set(layer.name, card);
      met.push({ depth: layer.depth, name: layer.name, node: card.node });
      continue;
    }
    const inside = met.filter((m) => m.depth > layer.depth);
    met = met.filter((m) => m.depth <= layer.depth);
    const own = new Card({ ...layer, code: "what the block gives", params: 0, filters: null }, false);
    own.button.querySelector(".name").textContent = "output";
    state.cards.set(layer.name, own);
    const button = make(
      "button",
      { type: "button" },
      make("span", { className: "arrow", textContent: "\u25b8" }),
      make("span", { className: "name", textContent: layer.name.split("/").pop(), title: layer.name }),
      make("code", { textContent: `${layer.code.length > 60 ? `${layer.code.slice(0, 58)}\u2026` : layer.code}` }),
      facts(layer),
    );
    const body = make("div", { className: "body", hidden: true }, ...inside.map((m) => m.node), own.node);
    const node = make(
      "section",
      { className: "layer group", dataset: { group: layer.name } },
      make("h3", {}, button),
      body,
    );
    label(node, `block ${layer.name}`);
    const set = (on) => {
      button.setAttribute("aria-expanded", on);
      body.hidden = !on;
      if (on) for (const card of state.cards.values()) if (node.contains(card.node) && card.reachable) card.fresh();
    };
    set(groupOpen);
    button.onclick = () => set(body.hidden);
    node.set = set;
    met.push({ depth: layer.depth, name: layer.name, node });
  }
  list.append(...met.map((m) => m.node));
  state.room = list.clientWidth;
  for (const card of state.cards.values()) if (card.open) card.reserve();
  $("fold").onclick = () => {
    const any = [...state.cards.values()].some((c) => c.open);
    for (const node of list.querySelectorAll(".group")) node.set(!any);
    for (const card of state.cards.values()) if (!named.get(card.layer.name).group) card.toggle(!any);
    $("fold").textContent = any ? "Unfold all" : "Fold all";
  };
}

// --- one unit ---------------------------------------------------------------------------------------------------

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
  const from = inputOf(record.layer),
    colours = from && from[2] === 3 && String(from) === String(state.given);
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

function frozenUnit(kept, message, look, name, place) {
  const layer = state.layers.get(name),
    card = state.cards.get(name),
    record = { layer: name, place, field: null, window: null, inputs: null, kernel: null };
  if (layer.field) {
    const at = layer.shape.length === 3 ? place : [0, 0];
    const first = [0, 1].map((a) => Math.ceil(layer.offset[a] + layer.stride[a] * at[a]));
    record.field = [first[0], first[1], first[0] + layer.field[0], first[1] + layer.field[1]];
  }
  const exact = kept.exact && kept.exact[name];
  if (!exact) {
    const { m, y, x } = card.at,
      maps = card.maps,
      by = card.vector ? 1 : card.reduced();
    record.value = maps.value(m - (card.vector ? 0 : maps.first), Math.floor(y / by) * maps.width + Math.floor(x / by));
    record.note =
      "This file keeps the maps in 256 steps; the live page (jaxcnn explore) has the exact number and the sum that made it.";
    return { record, buffer: new ArrayBuffer(0), at: 0 };
  }
  const floats = (text) => floats.known.get(text) || floats.known.set(text, new Float32Array(bytesOf(text))).get(text);
  floats.known = frozenUnit.known || (frozenUnit.known = new Map());
  const values = floats(kept.arrays[look][exact.output]);
  const flat = (shape, at) => shape.reduce((sum, n, axis) => sum * n + at[axis], 0);
  record.value = values[flat(layer.shape, place)];
  let inputs = null,
    kernel = null;
  if (exact.local) {
    const given = floats(kept.arrays[look][exact.input]),
      [h, w, channels] = exact.given,
      [t0, l0, sy, sx, rows, columns] = exact.local;
    const own = exact.kernel ? null : place[2],
      deep = own === null ? channels : 1;
    const top = t0 + sy * place[0],
      left = l0 + sx * place[1];
    inputs = new Float32Array(rows * columns * deep);
    for (let y = 0; y < rows; y++)
      for (let x = 0; x < columns; x++)
        for (let c = 0; c < deep; c++) {
          const gy = top + y,
            gx = left + x;
          inputs[(y * columns + x) * deep + c] =
            gy < 0 || gx < 0 || gy >= h || gx >= w ? 0 : given[(gy * w + gx) * channels + (own ?? c)];
        }
    record.window = [top, left, top + rows, left + columns];
    record.inputs = [rows, columns, deep];
  } else if (exact.given) {
    const given = floats(kept.arrays[look][exact.input]);
    inputs = exact.kernel ? given : Float32Array.of(given[flat(layer.shape, place)]);
    record.inputs = [inputs.length];
  }
  if (exact.kernel) {
    const weights = floats(kept.weights[exact.kernel]),
      units = layer.shape[layer.shape.length - 1],
      unit = place[place.length - 1];
    kernel = Float32Array.from({ length: inputs.length }, (_, i) => weights[i * units + unit]);
    record.kernel = record.inputs;
    record.bias = exact.bias ? floats(kept.weights[exact.bias])[unit] : 0;
    record.total = kernel.reduce((sum, w, i) => sum + w * inputs[i], 0) + record.bias;
  }
  const buffer = new Float32Array((inputs ? inputs.length : 0) + (kernel ? kernel.length : 0));
  if (inputs) buffer.set(inputs);
  if (kernel) buffer.set(kernel, inputs.length);
  return { record, buffer: buffer.buffer, at: 0 };
}

// --- training ---------------------------------------------------------------------------------------------------

const MEASURES = { accuracy: "accuracy", mean_iou: "mean IoU", f: "F" };
const NAMES = {
  test_accuracy: "test accuracy",
  validation_accuracy: "validation accuracy",
  train_accuracy: "training accuracy",
  test_loss: "test loss",
  validation_loss: "validation loss",
  train_loss: "training loss",
  test_top5: "test top-5 accuracy",
  params: "parameters",
  best_epoch: "best epoch",
  seconds: "seconds",
};

function chart(title, epochs, lines) {
  const space = "http://www.w3.org/2000/svg",
    W = 460,
    H = 220,
    L = 44,
    R = 10,
    T = 10,
    B = 28;
  const svg = document.createElementNS(space, "svg");
  const add = (tag, values, text) => {
    const node = document.createElementNS(space, tag);
    for (const [k, v] of Object.entries(values)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("role", "img");
  const known = lines.flatMap((l) => l.values).filter((v) => Number.isFinite(v));
  const step = (() => {
    const raw = (Math.max(...known) || 1) / 4,
      power = 10 ** Math.floor(Math.log10(raw));
    return [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  })();
  const top = step * Math.ceil(Math.max(...known) / step - 1e-9) || 1;
  const e0 = epochs[0],
    e1 = epochs[epochs.length - 1];
  const X = (e) => (e1 === e0 ? (L + W - R) / 2 : L + ((e - e0) / (e1 - e0)) * (W - L - R)),
    Y = (v) => H - B - (v / top) * (H - T - B);
  for (let v = 0; v <= top + step / 2; v += step) {
    add("line", { class: "axis", x1: L, x2: W - R, y1: Y(v), y2: Y(v) });
    add("text", { x: L - 6, y: Y(v) + 4, "text-anchor": "end" }, String(Number(v.toPrecision(3))));
  }
  const every = Math.max(1, Math.ceil(epochs.length / 8));
  epochs.forEach((e, i) => {
    if (i % every === 0) add("text", { x: X(e), y: H - 10, "text-anchor": "middle" }, String(e));
  });
  for (const { name, values, key } of lines) {
    const points = epochs.map((e, i) => [e, values[i]]).filter(([, v]) => Number.isFinite(v));
    add("path", {
      class: key,
      d: points.map(([e, v], i) => `${i ? "L" : "M"}${X(e).toFixed(1)} ${Y(v).toFixed(1)}`).join(""),
    });
    if (points.length <= 40) for (const [e, v] of points) add("circle", { class: key, cx: X(e), cy: Y(v), r: 3 });
  }
  svg.setAttribute(
    "aria-label",
    `${title} by epoch; at the end ${lines.map((l) => `${l.name} ${show(l.values[l.values.length - 1])}`).join(", ")}`,
  );
  return make(
    "figure",
    {},
    make(
      "figcaption",
      {},
      `${title} by epoch`,
      ...lines.map((l) => make("span", { className: l.key, textContent: l.name })),
    ),
    svg,
  );
}

function showTraining() {
  const { about } = state,
    { history, result, figures, measure } = about;
  const epochs = history.map((r) => r.epoch);
  const series = (name, scale) =>
    [
      ["t", "training", name],
      ["v", "validation", `validation_${name}`],
    ]
      .map(([key, text, field]) => ({
        key,
        name: text,
        values: history.map((r) => (typeof r[field] === "number" ? scale(r[field]) : NaN)),
      }))
      .filter((l) => l.values.some(Number.isFinite));
  for (const [title, name, scale] of [
    ["loss", "loss", (v) => v],
    about.measure === "accuracy"
      ? ["error in %", "accuracy", (v) => 100 * (1 - v)]
      : [`${MEASURES[about.measure] || about.measure} in %`, about.measure, (v) => 100 * v],
  ]) {
    const lines = series(name, scale);
    if (lines.length) $("curves").append(chart(title, epochs, lines));
  }
  const names = { ...NAMES };
  if (measure !== "accuracy")
    for (const [part, name] of [
      ["test", "test"],
      ["validation", "validation"],
      ["train", "training"],
    ])
      names[`${part}_${measure}`] = `${name} ${MEASURES[measure] || measure}`;
  const shown = Object.keys(names).filter((k) => typeof result[k] === "number");
  $("result").append(
    ...shown.map((k) =>
      make(
        "div",
        {},
        make("dt", { textContent: names[k] }),
        make("dd", {
          textContent: /accuracy|top5/.test(k) || k.endsWith(`_${measure}`)
            ? `${(100 * result[k]).toFixed(2)} %`
            : k === "seconds"
              ? result[k].toFixed(0)
              : Number.isInteger(result[k])
                ? count(result[k])
                : show(result[k]),
        }),
      ),
    ),
  );
  for (const name of figures) {
    const title = { "confusion.png": "confusion matrix of the test data", "mistakes.png": "mistakes on the test data" }[
      name
    ];
    $("figures").append(
      make(
        "figure",
        {},
        make("figcaption", { textContent: title }),
        make("img", { src: source.figure(name), alt: title, loading: "lazy" }),
      ),
    );
  }
  if (!history.length && !shown.length)
    $("curves").append(make("p", { className: "muted", textContent: "There is no history of a training here." }));
}

// --- beginning --------------------------------------------------------------------------------------------------

let lastLayer = "";

function redraw() {
  makeRamp();
  state.room = $("list").clientWidth;
  for (const card of state.cards.values()) {
    card.room = 0;
    card.form = "";
    card.draw();
  }
  drawPicture();
  drawAnswer();
}

async function begin() {
  makeRamp();
  $("alert").lastElementChild.onclick = calm;
  const about = (state.about = await source.about());
  document.title = `${about.title} \u2013 explore`;
  $("title").textContent = about.title;
  [state.given, state.frame] = [about.given, about.frame];
  const badge = (name, value) => $("badges").append(make("li", {}, make("b", { textContent: value }), ` ${name}`));
  const reached = about.result[`test_${about.measure}`];
  if (typeof reached === "number")
    badge(`test ${MEASURES[about.measure] || about.measure}`, `${(100 * reached).toFixed(2)} %`);
  if (about.result.params) badge("parameters", count(about.result.params));
  if (about.history.length) badge(about.history.length === 1 ? "epoch" : "epochs", String(about.history.length));
  badge("input", times(about.given));
  const notes = [...about.notes];
  if (notes.length) {
    $("frozen-note").textContent = notes.join(" ");
    $("frozen-note").hidden = false;
  }
  $("colour-label").hidden = about.image[2] === 1;
  $("eraser").textContent = about.image[2] === 1 ? "Erase" : "Grey";
  if (matchMedia("(max-width: 1240px)").matches)
    $("hint").firstChild.textContent = $("hint").textContent.replace(
      "Point at a unit of a map to see what made it; click to keep it.",
      "Click or tap a unit of a map to see what made it.",
    );
  wireDrawing();
  wireExamples();
  wireAnswer();
  showTraining();
  $("unit-close").onclick = () => letGo();
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (state.kept || !state.unpixel || !state.unpixel()) letGo();
  });
  $("scale-layer").onclick = $("scale-map").onclick = (event) => {
    state.byMap = event.target.id === "scale-map";
    press($("scale-map"), state.byMap);
    press($("scale-layer"), !state.byMap);
    for (const card of state.cards.values()) card.draw();
  };
  dark.addEventListener("change", () => {
    redraw();
    if (state.unit) askUnit(state.unit.layer, state.unit.place, Boolean(state.kept));
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      redraw();
    }
  });
  drawPicture();
  const layers = source.layers().then(({ layers: found, maps, cam }) => {
    for (const layer of found) state.layers.set(layer.name, layer);
    lastLayer = found.length ? found[found.length - 1].name : "";
    buildLayers(found);
    if (!found.length)
      $("list").append(
        make("p", {
          className: "muted",
          textContent: "The network has no named layers to show: make it with serial or network, which name them.",
        }),
      );
    wireOverlay(maps, cam);
  });
  await layers;
  if (about.file) {
    refresh({ source: "first", name: about.file });
    await showExamples();
  } else await showExamples(true);
  document.body.dataset.ready = "yes";
}

begin().catch(trouble);
