// The confusion matrix of the images that are shown as points. A cell shows its images.
"use strict";

const MOST_CLASSES = 24,
  MOST_THUMBS = 60;

// The classes in the matrix: all, or, of many, those in most mistakes.
function matrixClasses() {
  const many = state.about.classes.length,
    all = Array.from({ length: many }, (_, i) => i);
  if (many <= MOST_CLASSES) return all;
  const wrong = new Array(many).fill(0);
  points.record.labels.forEach((label, i) => {
    if (!isMistake(i)) return;
    wrong[label]++;
    wrong[points.record.said[i]]++;
  });
  return all.sort((a, b) => wrong[b] - wrong[a]).slice(0, MOST_CLASSES).sort((a, b) => a - b);
}

function showConfusion() {
  const { labels, said, done, total } = points.record,
    classes = matrixClasses(),
    known = labels.filter((label) => label >= 0).length;
  const right = labels.filter((label, i) => label >= 0 && label === said[i]).length;
  $("confusion-count").textContent = known ? `${right} of ${known} are right, ${((100 * right) / known).toFixed(1)} %` : "";
  if (!known) {
    $("confusion").replaceChildren(make("p", { className: "muted", textContent: "The data has no labels." }));
    return;
  }
  const counts = new Map();
  labels.forEach((label, i) => {
    const key = `${label},${said[i]}`;
    counts.set(key, (counts.get(key) || 0) + 1);
  });
  const sums = classes.map((label) => labels.filter((l) => l === label).length || 1);
  const head = make(
    "tr",
    {},
    make("th", { scope: "col", className: "corner", textContent: "label \u2193 said \u2192" }),
    ...classes.map((c) => make("th", { scope: "col", title: nameOf(c) }, make("span", { textContent: nameOf(c) }))),
  );
  const focused = document.activeElement?.dataset?.cell;
  const rows = classes.map((label, r) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", title: nameOf(label), textContent: nameOf(label) }),
      ...classes.map((other) => {
        const many = counts.get(`${label},${other}`) || 0;
        if (!many) return make("td", { className: "none", textContent: "\u00b7" });
        const button = make("button", { type: "button", textContent: many, tabIndex: -1, dataset: { cell: `${label},${other}` } });
        label === other ? button.classList.add("right") : button.classList.add("wrong");
        button.style.setProperty("--share", `${Math.round(12 + (70 * many) / sums[r])}%`);
        button.classList.toggle("strong", many / sums[r] > 0.4);
        button.setAttribute(
          "aria-label",
          `${many} of label ${nameOf(label)}, said ${nameOf(other)}`,
        );
        press(button, String(points.cell) === button.dataset.cell);
        button.onclick = () => chooseCell(label, other);
        return make("td", {}, button);
      }),
    ),
  );
  const table = make("table", { className: "matrix" }, make("thead", {}, head), make("tbody", {}, ...rows));
  table.classList.toggle("long", classes.some((c) => nameOf(c).length > 3));
  label(table, "Confusion matrix: labels in rows, what the network says in columns");
  $("confusion").replaceChildren(table);
  const buttons = [...table.querySelectorAll("button")];
  (buttons.find((b) => b.dataset.cell === focused) || buttons[0]).tabIndex = 0;
  if (focused) table.querySelector(`[data-cell="${focused}"]`)?.focus();
  table.onkeydown = moveInMatrix;
  const few = classes.length < state.about.classes.length;
  if (!points.cell || done < total)
    $("confusion-note").textContent =
      `Of the ${total} test images here${few ? `; the ${classes.length} classes with most mistakes` : ""}. Click a number for its images.`;
}

// Arrow keys go to the next number in their direction.
function moveInMatrix(event) {
  const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key],
    td = event.target.closest("td");
  if (!way || !td) return;
  event.preventDefault();
  const rows = [...event.currentTarget.tBodies[0].rows];
  let r = rows.indexOf(td.parentElement),
    c = td.cellIndex;
  for (;;) {
    r += way[0];
    c += way[1];
    const next = rows[r]?.cells[c];
    if (!next || c < 1) return;
    const button = next.querySelector("button");
    if (!button) continue;
    event.target.tabIndex = -1;
    button.tabIndex = 0;
    button.focus();
    return;
  }
}

async function chooseCell(label, other) {
  const again = String(points.cell) === `${label},${other}`;
  points.cell = again ? null : [label, other];
  for (const button of document.querySelectorAll(".matrix button"))
    press(button, button.dataset.cell === String(points.cell));
  drawPoints();
  if (again) {
    $("confusion-images").replaceChildren();
    showConfusion();
    return;
  }
  const { labels, said } = points.record,
    index = labels.map((_, i) => i).filter((i) => labels[i] === label && said[i] === other),
    shown = index.slice(0, MOST_THUMBS);
  $("confusion-note").textContent =
    `${index.length} labelled ${nameOf(label)}, said ${nameOf(other)}${index.length > shown.length ? `; the first ${shown.length}` : ""}.`;
  try {
    const { buffer, at } = await source.images(shown);
    if (String(points.cell) !== `${label},${other}`) return;
    const shape = state.about.image,
      size = shape.reduce((a, b) => a * b),
      pixels = new Uint8Array(buffer, at);
    $("confusion-images").replaceChildren(...shown.map((i, k) => thumb(i, imageData(pixels, shape, k * size), shape)));
  } catch (error) {
    trouble(error);
  }
}

function thumb(index, picture, shape) {
  const canvas = make("canvas", { width: shape[1], height: shape[0] });
  canvas.getContext("2d").putImageData(picture, 0, 0);
  const button = make("button", { type: "button", title: `example ${index}` }, canvas);
  button.setAttribute("aria-label", `example ${index}, as the input`);
  button.onclick = () => takePoint(index);
  return button;
}
