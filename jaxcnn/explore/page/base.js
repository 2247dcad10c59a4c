// What all of the page uses: small helpers, the state, colours, and maps as they come.
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

// --- state

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
  others: [], // what the runs beside this one say
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

// --- colours: cool below 0, the card's own colour at 0, warm above

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
