// Asking the server. Arrays come as bytes behind a record, see server.py.
"use strict";

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
  graph: (depth) => getJSON(`graph?depth=${depth}`),
  examples: (asked) => getPacked(`examples?${query(asked)}`),
  look: (record, bytes) => postPacked("look", record, bytes),
  unit: (record) => postPacked("unit", record),
  filters: (asked) => getPacked(`filters?${query(asked)}`),
  images: (index) => postPacked("images", { index }),
  points: (layer) => postPacked("points", { layer }),
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
