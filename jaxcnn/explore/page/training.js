// The training: curves and figures.
"use strict";

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
    { history, result, figures, measure, share } = about;
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
  const called = MEASURES[measure] || measure;
  const charts = [["loss", "loss", (v) => v]];
  if (measure === "accuracy") charts.push(["error in %", "accuracy", (v) => 100 * (1 - v)]);
  else if (share) charts.push([`${called} in %`, measure, (v) => 100 * v]);
  else if (measure !== "loss") charts.push([called, measure, (v) => v]);
  for (const [title, name, scale] of charts) {
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
      names[`${part}_${measure}`] = `${name} ${called}`;
  const shown = Object.keys(names).filter((k) => typeof result[k] === "number");
  $("result").append(
    ...shown.map((k) =>
      make(
        "div",
        {},
        make("dt", { textContent: names[k] }),
        make("dd", {
          textContent:
            /accuracy|top5/.test(k) || (share && k.endsWith(`_${measure}`))
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
