// A card of a layer: its maps or filters, and the unit that is pointed at.
"use strict";

const GAP = 6,
  MOST = 64,
  SIDE = 112; // what the server reduces larger maps to

class Card {
  constructor(layer, open) {
    Object.assign(this, { layer, open, shows: "maps", first: 0, channel: null, maps: null, at: null });
    this.total = layer.shape.length >= 2 ? layer.shape[layer.shape.length - 1] : 1;
    this.vector = layer.shape.length === 1 || layer.shape.length > 3;
    this.page = Math.min(
      MOST,
      frozenData ? frozenData.most : layer.shape[0] > 96 ? 16 : layer.shape[0] > 40 ? 32 : MOST,
    );
    this.build();
  }
  asks() {
    return { name: this.layer.name, first: this.first, count: this.page };
  }
  get reachable() {
    return this.open && !this.node.closest("[hidden]");
  }
  get current() {
    return Boolean(this.maps) && (this.look === state.look || this.shows === "filters");
  }
  // How large what comes will be: {height, width, count}.
  get expected() {
    const { shape } = this.layer;
    if (this.vector) return { height: 1, width: shape.reduce((a, b) => a * b, 1), count: 1 };
    const [h, w] = shape.length === 3 ? shape : [shape[0], 1],
      by = h > 1 ? Math.ceil(Math.max(h, w) / SIDE) : 1;
    return {
      height: Math.ceil(h / by),
      width: Math.ceil(w / by),
      count: Math.min(this.page, this.total - this.first),
    };
  }
  get bytes() {
    const { height, width, count: many } = this.expected;
    return height * width * many;
  }
  get leafName() {
    return this.layer.name.split("/").pop();
  }

  build() {
    const { layer } = this,
      id = `body-${layer.name.replace(/[^\w]/g, "-")}`;
    this.button = make(
      "button",
      { type: "button" },
      make("span", { className: "arrow", textContent: "\u25b8" }),
      make("span", { className: "name", textContent: this.leafName, title: layer.name }),
      make("code", { textContent: layer.code.length > 90 ? `${layer.code.slice(0, 88)}\u2026` : layer.code }),
      facts(layer),
    );
    this.button.querySelector(".arrow").setAttribute("aria-hidden", "true");
    this.button.setAttribute("aria-controls", id);
    this.body = make("div", { className: "body", id });
    this.node = make(
      "section",
      { className: "layer", dataset: { layer: layer.name } },
      make("h3", {}, this.button),
      this.body,
    );
    label(this.node, `layer ${layer.name}`);
    this.button.onclick = () => this.toggle();
    this.line = make("div", { className: "bar-line" });
    this.legend = [make("span"), make("canvas", { width: 84, height: 1 }), make("span")];
    this.legend[1].setAttribute("aria-hidden", "true");
    this.holder = make("div", { className: "maps" });
    this.canvas = make("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "activation maps");
    label(
      this.canvas,
      this.vector
        ? `${layer.name}: ${count(layer.shape.reduce((a, b) => a * b, 1))} units. Arrow keys move from unit to unit, Enter keeps one.`
        : `${layer.name}: ${this.total} maps of ${layer.shape.slice(0, -1).join(" by ")}. Arrow keys move within a map, Page Up and Page Down to other maps, Enter keeps a unit.`,
    );
    this.cursor = make("div", { className: "cursor", hidden: true });
    this.holder.append(this.canvas, this.cursor);
    this.body.append(this.line, this.holder);
    this.wire();
    this.mark();
  }
  mark() {
    this.button.setAttribute("aria-expanded", this.open);
    this.body.hidden = !this.open;
  }
  toggle(open = !this.open) {
    this.open = open;
    this.mark();
    if (open) this.fresh();
  }
  fresh() {
    this.reserve();
    soon(this);
  }
  // Room for maps that are not there yet, so that nothing moves when they come.
  reserve() {
    if (this.size || this.shows !== "maps") return;
    const room = this.room || state.room - 26 * (this.layer.depth + 1);
    const l = this.layout(Math.max(120, room), this.expected);
    Object.assign(this.canvas.style, { width: `${l.width}px`, height: `${l.height}px` });
  }
  // Far from the window, a card of a large network keeps its size and nothing else.
  release() {
    if (!this.maps || this.at) return;
    this.maps = null;
    this.cursor.hidden = true;
    this.canvas.width = this.canvas.height = 1;
  }
  async fetchFilters() {
    try {
      const { record, buffer, at } = await source.filters({
        layer: this.layer.name,
        channel: this.channel,
        first: this.first,
        count: this.page,
      });
      this.receive(new Maps({ ...record, full: null }, buffer, at));
    } catch (error) {
      trouble(error);
    }
  }
  missing() {
    this.look = state.look;
    this.line.textContent =
      "What this layer puts out cannot be shown: it is inside a loop, or has no axis of examples.";
  }
  receive(maps) {
    this.maps = maps;
    this.look = state.look;
    this.draw();
    if (this.waiting) this.waiting(); // the pointer came before the maps
  }

  tools() {
    const { layer, maps } = this,
      parts = [];
    const low = Math.min(0, ...maps.low),
      high = Math.max(0, ...maps.high),
      top = maps.top || 1;
    const words = Uint32Array.from({ length: 84 }, (_, x) => colourAt((low + (x / 83) * (high - low)) / top));
    this.legend[1].hidden = this.shows === "filters" && layer.colours;
    this.legend[1].getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(words.buffer), 84, 1), 0, 0);
    this.legend[0].textContent = state.byMap
      ? "each map by its own"
      : this.legend[1].hidden
        ? `${show(low)} to`
        : show(low);
    this.legend[2].textContent = state.byMap ? "scale" : show(high);
    const form = JSON.stringify([this.shows, this.first, this.channel, maps.finite]);
    if (form === this.form) return;
    this.form = form;
    parts.push(make("span", { className: "legend" }, ...this.legend));
    if (!maps.finite) parts.push(make("b", { textContent: "has values that are not finite" }));
    if (layer.filters) {
      const [h, w, channels] = layer.filters;
      const tab = (what, text) => {
        const button = make("button", { type: "button", textContent: text, dataset: { shows: what } });
        press(button, this.shows === what);
        button.onclick = () => {
          if (this.shows === what) return;
          this.shows = what;
          this.first = 0;
          this.maps = null;
          this.cursor.hidden = true;
          this.channel = what === "filters" && !layer.colours ? 0 : null;
          fetchMaps([this]);
        };
        return button;
      };
      parts.push(make("span", { className: "choice" }, tab("maps", "maps"), tab("filters", `filters ${h}\u00d7${w}`)));
      if (this.shows === "filters" && channels > 1) {
        if (layer.colours) parts.push(make("span", { textContent: "as colours, grey is 0" }));
        else {
          const pick = make("select");
          label(pick, "input map of the filters");
          for (let c = 0; c < Math.min(channels, frozenData ? 1 : 512); c++)
            pick.append(make("option", { value: c, textContent: `input map ${c}` }));
          pick.value = this.channel ?? 0;
          pick.onchange = () => {
            this.channel = Number(pick.value);
            this.fetchFilters();
          };
          parts.push(pick);
        }
      }
    }
    const all = this.shows === "filters" ? this.layer.filters[3] : this.total;
    if (all > this.page) {
      const turn = (by, text, name) => {
        const button = label(make("button", { type: "button", textContent: text }), `${name} of ${this.layer.name}`),
          next = this.first + by * this.page;
        button.disabled = next < 0 || next >= all || Boolean(frozenData);
        button.onclick = () => {
          this.first = next;
          fetchMaps([this]);
        };
        return button;
      };
      parts.push(
        make(
          "span",
          { className: "pager" },
          turn(-1, "\u2039", "earlier maps"),
          `${this.first}\u2013${Math.min(all, this.first + this.page) - 1} of ${all}`,
          turn(1, "\u203a", "later maps"),
        ),
      );
    }
    const focused = this.line.contains(document.activeElement)
      ? [...this.line.querySelectorAll("button,select")].indexOf(document.activeElement)
      : -1;
    this.line.replaceChildren(...parts);
    if (focused >= 0) {
      const again = this.line.querySelectorAll("button,select")[focused];
      if (again) again.focus();
    }
  }

  layout(width = Math.max(120, this.room), maps = this.maps) {
    if (this.vector && this.shows === "maps") {
      const units = maps.width,
        names =
          this.layer.name === lastLayer && units === state.about.classes.length && units <= 40
            ? state.about.classes
            : null;
      const high = units <= 16 || names ? 30 : units <= 200 ? 18 : units <= 1200 ? 10 : 6;
      const cell = names ? Math.max(30, Math.min(96, 12 + 7.5 * Math.max(...names.map((n) => n.length)))) : high;
      const columns = Math.max(1, Math.min(units, Math.floor(width / cell)));
      return { cell, high, names, columns, width: columns * cell, height: Math.ceil(units / columns) * high };
    }
    const colours = this.shows === "filters" && this.layer.colours,
      rows = colours ? maps.height / 3 : maps.height;
    const long = Math.max(rows, maps.width),
      side = this.shows === "filters" ? 60 : 84;
    let k = long >= side ? 1 : Math.max(1, Math.min(22, Math.floor(side / long)));
    if (maps.width * k > width) k = width / maps.width;
    const w = maps.width * k,
      h = rows * k,
      columns = Math.max(1, Math.min(maps.count, Math.floor((width + GAP) / (w + GAP))));
    return {
      k,
      w,
      h,
      rows,
      colours,
      columns,
      width: columns * (w + GAP) - GAP,
      height: Math.ceil(maps.count / columns) * (h + GAP) - GAP,
    };
  }

  draw() {
    if (!this.open || !this.maps) return;
    // Reading a width makes the browser lay out the page: only when it may have changed.
    if (!this.room) this.room = this.holder.clientWidth;
    if (!this.room) return; // inside a folded block
    this.tools();
    const { maps } = this,
      l = (this.shape = this.layout()),
      size = `${l.width} ${l.height}`;
    if (this.size !== size) {
      this.size = size;
      this.canvas.style.width = `${l.width}px`;
      this.canvas.style.height = `${l.height}px`;
    }
    const context = sized(this.canvas, l.width, l.height);
    if (l.cell) {
      const words = maps.words(0);
      for (let i = 0; i < maps.width; i++) {
        context.fillStyle = css(words[i]);
        const left = (i % l.columns) * l.cell,
          top = Math.floor(i / l.columns) * l.high;
        context.fillRect(left, top, l.cell - 1, l.high - 1);
        if (!l.names) continue;
        Object.assign(context, {
          fillStyle: inkOn(words[i]),
          font: "600 12px system-ui, sans-serif",
          textAlign: "center",
          textBaseline: "middle",
        });
        context.fillText(
          l.names[i].length > 12 ? `${l.names[i].slice(0, 11)}\u2026` : l.names[i],
          left + l.cell / 2,
          top + l.high / 2,
        );
      }
    } else {
      onScratch(l.colours ? maps.colours() : maps.sheet());
      context.imageSmoothingEnabled = false;
      for (let m = 0; m < maps.count; m++)
        context.drawImage(
          scratch,
          0,
          m * l.rows,
          maps.width,
          l.rows,
          (m % l.columns) * (l.w + GAP),
          Math.floor(m / l.columns) * (l.h + GAP),
          l.w,
          l.h,
        );
    }
    this.placeCursor();
  }

  // The unit under a point of the canvas: {m, y, x}, in the layer's own rows and columns.
  hit(px, py) {
    const l = this.shape,
      { maps } = this;
    if (!l || this.shows !== "maps") return null;
    if (l.cell) {
      const column = Math.floor(px / l.cell),
        i = Math.floor(py / l.high) * l.columns + column;
      return column < l.columns && i >= 0 && i < maps.width ? { m: 0, y: 0, x: i } : null;
    }
    const column = Math.floor(px / (l.w + GAP)),
      row = Math.floor(py / (l.h + GAP)),
      m = row * l.columns + column;
    const x = (px - column * (l.w + GAP)) / l.k,
      y = (py - row * (l.h + GAP)) / l.k;
    if (column >= l.columns || m >= maps.count || x >= maps.width || y >= maps.height || x < 0 || y < 0) return null;
    const by = this.reduced();
    return {
      m: this.first + m,
      y: Math.min(maps.full[0] - 1, Math.floor(y) * by + (by >> 1)),
      x: Math.min(maps.full[1] - 1, Math.floor(x) * by + (by >> 1)),
    };
  }
  reduced() {
    return Math.ceil(this.maps.full[1] / this.maps.width);
  }
  place({ m, y, x }) {
    const { shape } = this.layer;
    if (shape.length === 3) return [y, x, m];
    if (shape.length === 2) return [y, m];
    const place = [];
    for (let axis = shape.length - 1, rest = x; axis >= 0; axis--) {
      place.unshift(rest % shape[axis]);
      rest = Math.floor(rest / shape[axis]);
    }
    return place;
  }
  point(at) {
    this.at = at;
    for (const other of state.cards.values())
      if (other !== this && other.at) {
        other.at = null;
        other.placeCursor();
      }
    this.placeCursor();
    if (at) askUnit(this.layer.name, this.place(at), false);
  }
  placeCursor() {
    const { at, shape: l } = this,
      box = this.cursor;
    const m = at ? at.m - (l && l.cell ? 0 : this.first) : -1;
    box.hidden = !at || !l || !this.maps || this.shows !== "maps" || m < 0 || m >= this.maps.count;
    if (box.hidden) return;
    let left, top, width, height;
    if (l.cell)
      [left, top, width, height] = [
        (at.x % l.columns) * l.cell,
        Math.floor(at.x / l.columns) * l.high,
        l.cell - 1,
        l.high - 1,
      ];
    else {
      const by = this.reduced();
      left = (m % l.columns) * (l.w + GAP) + Math.floor(at.x / by) * l.k;
      top = Math.floor(m / l.columns) * (l.h + GAP) + Math.floor(at.y / by) * l.k;
      width = height = l.k;
    }
    const room = Math.max(2, (7 - width) / 2 + 1);
    Object.assign(box.style, {
      left: `${left - room}px`,
      top: `${top - room}px`,
      width: `${width + 2 * room}px`,
      height: `${height + 2 * room}px`,
    });
  }

  wire() {
    const { canvas } = this;
    nearness.observe(this.holder);
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return this.hit(
        ((event.clientX - box.left) * this.shape?.width) / box.width,
        ((event.clientY - box.top) * this.shape?.height) / box.height,
      );
    };
    canvas.addEventListener("pointermove", (event) => {
      if (state.kept || event.pointerType === "touch") return;
      this.waiting = () => {
        this.waiting = null;
        const unit = at(event);
        if (unit && !state.kept) this.point(unit);
      };
      if (this.maps) this.waiting();
    });
    canvas.addEventListener("pointerleave", () => (this.waiting = null));
    let down = null; // a click has whole coordinates only, and a unit may be smaller
    canvas.addEventListener("pointerdown", (event) => (down = event));
    canvas.addEventListener("click", () => {
      const unit = this.maps && down && at(down);
      if (unit) this.keep(unit);
    });
    canvas.addEventListener("focus", () => {
      if (!this.maps || state.kept || !canvas.matches(":focus-visible")) return;
      this.point(this.at || { m: this.vector ? 0 : this.first, y: 0, x: 0 });
    });
    canvas.addEventListener("keydown", (event) => {
      if (!this.maps || this.shows !== "maps") return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        if (this.at) this.keep(this.at);
        return;
      }
      const l = this.shape,
        full = this.maps.full,
        unit = { ...(this.at || { m: this.vector ? 0 : this.first, y: 0, x: 0 }) },
        by = l.cell ? 1 : this.reduced();
      const moves = l.cell
        ? {
            ArrowLeft: () => unit.x--,
            ArrowRight: () => unit.x++,
            ArrowUp: () => (unit.x -= l.columns),
            ArrowDown: () => (unit.x += l.columns),
            Home: () => (unit.x = 0),
            End: () => (unit.x = full[1] - 1),
          }
        : {
            ArrowLeft: () => (unit.x -= by),
            ArrowRight: () => (unit.x += by),
            ArrowUp: () => (unit.y -= by),
            ArrowDown: () => (unit.y += by),
            PageDown: () => unit.m++,
            PageUp: () => unit.m--,
            Home: () => (unit.x = 0),
            End: () => (unit.x = full[1] - 1),
          };
      if (!moves[event.key]) return;
      event.preventDefault();
      moves[event.key]();
      if (
        unit.x < 0 ||
        unit.y < 0 ||
        unit.x >= full[1] ||
        unit.y >= full[0] ||
        unit.m < (l.cell ? 0 : this.first) ||
        unit.m >= (l.cell ? 1 : this.first + this.maps.count)
      )
        return;
      if (state.kept) letGo(false);
      this.point(unit);
    });
  }
  keep(unit) {
    const place = this.place(unit),
      same = state.kept && state.kept.layer === this.layer.name && String(state.kept.place) === String(place);
    if (same) return letGo(false);
    state.kept = null;
    this.point(unit);
    state.kept = { layer: this.layer.name, place };
    $("kept").hidden = false;
    $("unit").classList.add("has");
    askUnit(this.layer.name, place, true);
  }
}
