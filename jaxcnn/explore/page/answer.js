// The network's answer: bars, and what is said of each pixel.
"use strict";

function showClasses() {
  if (state.about.size)
    $("classes-heading").textContent = state.pixel
      ? `Row ${state.pixel[0]}, column ${state.pixel[1]}`
      : "Shares of the pixels";
  const names = state.about.classes,
    p = state.probabilities.map((v) => (v === null ? NaN : v));
  const all = [p, ...state.others.map((one) => one.map((v) => (v === null ? NaN : v)))];
  const order = p.map((v, i) => i).sort((a, b) => p[b] - p[a]);
  showRuns(all);
  const shown = names.length <= 12 ? p.map((v, i) => i) : order.slice(0, 8);
  $("classes").classList.toggle(
    "narrow",
    names.every((n) => n.length < 3),
  );
  $("classes").replaceChildren(
    ...shown.map((i) => {
      const bars = all.map((one, run) => {
        const bar = make("i", { className: all.length > 1 ? `run${run}` : "" });
        bar.style.width = `${100 * (one[i] || 0)}%`;
        return bar;
      });
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
        make("span", { className: "bar" }, ...bars),
        ...all.map((one) => make("span", { className: "value", textContent: `${(100 * one[i]).toFixed(1)} %` })),
      );
      if (i === state.label) row.title = "the example's label";
      return row;
    }),
  );
}

// The runs beside each other: a colour for each, and what it holds for the most probable.
function showRuns(all) {
  const { runs, classes } = state.about;
  $("runs").hidden = all.length < 2;
  $("classes").classList.toggle("several", all.length > 1);
  $("classes").style.setProperty("--runs", all.length);
  if (all.length < 2) return;
  const tops = all.map((one) => one.indexOf(Math.max(...one)));
  $("runs").replaceChildren(
    ...runs.map((name, run) =>
      make(
        "li",
        { className: tops[run] === tops[0] ? "" : "differs", title: name },
        make("i", { className: `swatch run${run}` }),
        make("span", { textContent: name }),
        make("b", { textContent: classes[tops[run]] }),
      ),
    ),
  );
}

// --- pixels

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
  $("input").classList.toggle("pixels", Boolean(state.about.size));
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
