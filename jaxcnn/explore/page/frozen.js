// The same questions asked of what a file that was written by --export keeps; and which of the two is asked.
"use strict";

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
    graph: async (depth) => kept.graphs[depth] ?? kept.graphs[0],
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
    points: async () => unpacked(bytesOf(kept.points)),
    images: async (index) => {
      const size = kept.about.image.reduce((a, b) => a * b),
        all = new Uint8Array(bytesOf(kept.images)),
        images = new Uint8Array(index.length * size);
      index.forEach((i, k) => images.set(all.subarray(i * size, (i + 1) * size), k * size));
      return { record: { index }, buffer: images.buffer, at: 0 };
    },
    figure: (name) => kept.figures[name],
  };
}

/** The row and column of a unit's field among those of its layer; null where they are not known. */
function mapPlace(layer, place) {
  if (layer.shape.length === 3) return place;
  if (!layer.stride || (!layer.stride[0] && !layer.stride[1])) return [0, 0]; // one field for all units
  if (!layer.input || layer.input.length !== 3) return null;
  const [, width, channels] = layer.input; // flattened
  return [Math.floor(place[0] / (width * channels)), Math.floor(place[0] / channels) % width];
}

function frozenUnit(kept, message, look, name, place) {
  const layer = state.layers.get(name),
    card = state.cards.get(name),
    record = { layer: name, place, field: null, window: null, inputs: null, kernel: null };
  const at = mapPlace(layer, place);
  if (layer.field && at) {
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

const frozenData = $("frozen") ? JSON.parse($("frozen").textContent) : null;
const source = frozenData ? frozenFrom(frozenData) : live;
