// The input: what is drawn of it, drawing into it, files.
"use strict";

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
