// The layers: a card each, with its maps or filters.
"use strict";

const AT_ONCE = 400_000; // bytes of maps that every new input brings; where there are more, those near the window

// The cards whose maps a new input brings: all that are open, or, of a large network, those that can be seen or soon.
function shownCards() {
  const open = [...state.cards.values()].filter((card) => card.reachable && card.shows === "maps");
  state.large = open.reduce((sum, card) => sum + card.bytes, 0) > AT_ONCE;
  return state.large ? open.filter((card) => card.near) : open;
}

const nearness = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const card = state.cards.get(target.closest(".layer").dataset.layer);
      card.near = isIntersecting;
      if (isIntersecting) soon(card);
      else if (state.large) card.release();
    }
  },
  { rootMargin: "900px 0px" },
);

// The maps of all cards that come into view in one moment are asked for together.
const due = new Set();
function soon(card) {
  if (!due.size)
    requestAnimationFrame(() => {
      const cards = [...due].filter((c) => c.reachable);
      due.clear();
      for (const c of cards) if (c.current) c.draw();
      fetchMaps(cards.filter((c) => !c.current));
    });
  due.add(card);
}

async function fetchMaps(cards) {
  for (const card of cards) if (card.shows === "filters") card.fetchFilters();
  const asking = cards.filter((card) => card.shows === "maps" && card.reachable);
  if (state.look === null || !asking.length) return;
  try {
    const { record, maps } = looked(
      await source.look({ source: "look", look: state.look, layers: asking.map((card) => card.asks()) }),
    );
    if (record.look !== state.look) return fetchMaps(asking.filter((card) => !card.current)); // another input came
    for (const card of asking) {
      const found = maps.get(card.layer.name);
      if (!found) card.missing();
      else if (card.shows === "maps" && found.first === card.first) card.receive(found);
    }
  } catch (error) {
    if (error.status === 410) refresh({ source: "pixels" });
    else trouble(error);
  }
}

function facts(layer) {
  const field = layer.field
    ? ` \u00b7 sees ${layer.field[0] === layer.field[1] ? times(layer.field) : layer.field.join("\u00d7")}`
    : "";
  const node = make(
    "span",
    { className: "facts" },
    make("b", { textContent: times(layer.shape) || "1" }),
    layer.params ? ` \u00b7 ${count(layer.params)} parameters` : layer.shared ? " \u00b7 shared" : "",
    field,
  );
  node.title = `output ${times(layer.shape)}, ${count(layer.params)} parameters, ${count(layer.macs)} multiply-accumulates${layer.field ? `, receptive field ${times(layer.field)}` : ""}`;
  return node;
}

function buildLayers(layers) {
  const list = $("list"),
    open = layers.filter((l) => !l.group).length <= 24;
  const leaves = layers.filter((l) => !l.group);
  list.replaceChildren();
  // Networks come behind what is inside them: what has been met at a greater depth is theirs.
  let met = [];
  const named = new Map(layers.map((l) => [l.name, l]));
  const groupOpen = open && layers.every((l) => !l.group);
  for (const layer of layers) {
    if (!layer.group) {
      const card = new Card(layer, open || layer === leaves[0] || layer === leaves[leaves.length - 1]);
      state.cards.set(layer.name, card);
      met.push({ depth: layer.depth, name: layer.name, node: card.node });
      continue;
    }
    const inside = met.filter((m) => m.depth > layer.depth);
    met = met.filter((m) => m.depth <= layer.depth);
    const own = new Card({ ...layer, code: "what the block gives", params: 0, filters: null }, false);
    own.button.querySelector(".name").textContent = "output";
    state.cards.set(layer.name, own);
    const button = make(
      "button",
      { type: "button" },
      make("span", { className: "arrow", textContent: "\u25b8" }),
      make("span", { className: "name", textContent: layer.name.split("/").pop(), title: layer.name }),
      make("code", { textContent: `${layer.code.length > 60 ? `${layer.code.slice(0, 58)}\u2026` : layer.code}` }),
      facts(layer),
    );
    const body = make("div", { className: "body", hidden: true }, ...inside.map((m) => m.node), own.node);
    const node = make(
      "section",
      { className: "layer group", dataset: { group: layer.name } },
      make("h3", {}, button),
      body,
    );
    label(node, `block ${layer.name}`);
    const set = (on) => {
      button.setAttribute("aria-expanded", on);
      body.hidden = !on;
      if (on) for (const card of state.cards.values()) if (node.contains(card.node) && card.reachable) card.fresh();
    };
    set(groupOpen);
    button.onclick = () => set(body.hidden);
    node.set = set;
    met.push({ depth: layer.depth, name: layer.name, node });
  }
  list.append(...met.map((m) => m.node));
  state.room = list.clientWidth;
  for (const card of state.cards.values()) if (card.open) card.reserve();
  $("fold").onclick = () => {
    const any = [...state.cards.values()].some((c) => c.open);
    for (const node of list.querySelectorAll(".group")) node.set(!any);
    for (const card of state.cards.values()) if (!named.get(card.layer.name).group) card.toggle(!any);
    $("fold").textContent = any ? "Unfold all" : "Fold all";
  };
}
