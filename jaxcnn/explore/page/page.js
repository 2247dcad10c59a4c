// The page of `jaxcnn explore` begins. Its parts are plain scripts that share their names, in the order of page.html.
"use strict";

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
  drawPlay();
  drawPoints();
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
  if (typeof reached === "number") {
    const value = about.share ? `${(100 * reached).toFixed(2)} %` : show(reached);
    badge(`test ${MEASURES[about.measure] || about.measure}`, value);
  }
  if (about.result.params) badge("parameters", count(about.result.params));
  if (about.history.length) badge(about.history.length === 1 ? "epoch" : "epochs", String(about.history.length));
  const [, , channels] = about.image,
    colour = channels === 1 ? "grey" : "RGB";
  if (channels === about.given[2]) badge(`${colour} input`, times(about.given.slice(0, 2)));
  else badge(`input of a ${colour} image`, times(about.given));
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
    if (innerWidth === width) return drawPicture(); // its size depends on the window's height
    width = innerWidth;
    redraw();
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
  wireGraph();
  wireConvolution();
  wirePoints();
  wireViews();
  if (about.file) {
    refresh({ source: "first", name: about.file });
    await showExamples();
  } else await showExamples(true);
  document.body.dataset.ready = "yes";
}

begin().catch(trouble);
