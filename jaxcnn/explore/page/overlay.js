// What speaks for a class, over the input.
"use strict";

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
    for (let going = true; going;) {
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
  if (record.kind === "grad_cam") return `Where the maps of ${record.layer} speak for ${name}.`;
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
    make("option", { value: "", textContent: usual || "" }),
    ...maps.filter((name) => name !== usual).map((name) => make("option", { value: name, textContent: name })),
  );
  for (const id of ["overlay-class", "overlay-layer"]) $(id).onchange = () => askOverlay();
  if (frozenData) for (const id of ["overlay-class", "overlay-layer"]) $(id).disabled = true;
}
