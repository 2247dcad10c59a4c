// Looking: the newest input only, one at a time. And the examples.
"use strict";

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
    $("input-name").textContent = `${input.name || ""}${asRead()}`;
    state.examples.chosen = -1;
    markExample();
  }
  if (input.source === "example")
    $("input-name").textContent =
      `example ${input.index}` + (told.label === null ? "" : `, labelled ${state.about.classes[told.label]}`);
  state.probabilities = told.probabilities;
  if (told.others) state.others = told.others;
  for (const { name } of wanted) {
    const card = state.cards.get(name);
    if (maps.has(name)) card.receive(maps.get(name));
    else card.missing();
  }
  showClasses();
  if (input.source !== "look") {
    drawPicture();
    drawAnswer();
    if (state.view === "convolution") changed();
    calm();
  }
  if (input.source !== "look") {
    // Compilation, which the first input waits for, does not count; nor for an input that came meanwhile.
    const took = Math.max(0, performance.now() - input.begun - told.waited);
    if (told.waited && waiting) waiting.begun = performance.now();
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

// How the colours of a file were read: the network takes one channel or three, whatever the file has.
function asRead() {
  if (state.about.image[2] === 1) return ", read as grey";
  for (let i = 0; i < state.pixels.length; i += 3)
    if (state.pixels[i] !== state.pixels[i + 1] || state.pixels[i] !== state.pixels[i + 2]) return "";
  return ", a grey image";
}

// --- examples

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
      button.onclick = () => takeExample(index);
      return button;
    }),
  );
  markExample();
  $("examples-back").disabled = first === 0;
  $("examples-next").disabled = first + PAGE >= record.total;
  if (pick && record.index.length) $("examples").firstElementChild.click();
}
function takeExample(index) {
  state.examples.chosen = index;
  markExample();
  refresh({ source: "example", index });
}
function markExample() {
  if (state.view === "data") drawPoints();
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
