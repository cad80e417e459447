// token heat maps
const visible = (token) => token.replace(/\n/g, "\u21b5\n").replace(/\t/g, "\u21e5\t");

function values(map, layer) {
  const total = bytes(map.v);
  if (layer === null || !map.l) return Array.from(total, (v) => v * map.s);
  const all = bytes(map.l);
  return Array.from(total, (_, i) => all[i * map.n + layer] * map.ls);
}

function paint(text, shown, clip) {
  $$(".t", text).forEach((span, i) => {
    const value = shown[i];
    const strength = clip ? Math.min(1, Math.abs(value) / clip) : 0;
    span.classList.toggle("r", value > 0);
    span.classList.toggle("l", value < 0);
    span.classList.toggle("u", value > 0 && strength >= MARKED);
    span.classList.toggle("o", value < 0 && strength >= MARKED);
    span.style.setProperty("--a", (strength * 0.72).toFixed(3));
  });
}

function spark(map, index) {
  const all = bytes(map.l).slice(index * map.n, (index + 1) * map.n);
  const node = document.createElementNS(SVG, "svg");
  const most = Math.max(1, ...Array.from(all, Math.abs));
  node.setAttribute("class", "spark");
  node.setAttribute("viewBox", `0 0 ${map.n} 22`);
  node.setAttribute("preserveAspectRatio", "none");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", "by layer: " + Array.from(all, (v) => number(v * map.ls)).join(", "));
  all.forEach((v, i) => {
    const high = Math.abs(v) / most * 10;
    node.append(rectangle(i + 0.1, v > 0 ? 11 - high : 11, 0.8, high, v > 0 ? "r" : "l"));
  });
  node.append(rectangle(0, 10.75, map.n, 0.5, "z"));
  return node;
}

// per query: the layer shown (null: all) and whether every row has a scale of its own
const looks = new Map();
const look = (query) => {
  if (!looks.has(query)) looks.set(query, { layer: null, own: true });
  return looks.get(query);
};

const limit = (shown) => {
  const sizes = shown.map(Math.abs).filter((v) => v > 0).sort((a, b) => a - b);
  return sizes.length ? sizes[Math.ceil(0.98 * (sizes.length - 1))] : 0;
};

const plain = (value) => "\u00b1" + number(value).replace("+", "");

function read(article, card, index, follow) {
  const map = data.maps[`${article.dataset.query}:${card.dataset.row}`];
  const tokens = data.tokens[card.dataset.row];
  const at = Math.max(0, Math.min(tokens.length - 1, index));
  const value = values(map, look(article.dataset.query).layer)[at];
  const says = $(".reading", article);
  $$(".now", article).forEach((span) => span.classList.remove("now"));
  const span = $(".text", card).children[at];
  span.classList.add("now");
  if (follow) span.scrollIntoView({ block: "nearest" });
  const word = value > 0 ? "raises" : value < 0 ? "lowers" : "does nothing seen";
  says.classList.add("on");
  says.replaceChildren(make("b", { text: visible(tokens[at]).trim() || "\u2423", dir: "auto" }),
    ` (token ${at + 1} of ${tokens.length}, row ${card.dataset.row}) ${word}: ${number(value)} nats`);
  const { layer } = look(article.dataset.query);
  if (layer !== null) says.append(` through ${layerName(map, layer)}`);
  if (map.l) says.append(layer === null ? "; by layer " : "; all layers ", spark(map, at));
  card.dataset.at = at;
}

function heat(card, article) {
  const row = card.dataset.row;
  const query = article.dataset.query;
  const map = data.maps[`${query}:${row}`];
  const tokens = data.tokens[row];
  if (!map || !tokens?.join("").trim() || card.dataset.done) return;
  card.dataset.done = "1";
  const text = $(".text", card);
  text.replaceChildren(...tokens.flatMap((token, i) => {
    // a space in front belongs to the token but stays uncoloured, so that words look like words
    const lead = token.startsWith(" ") && token.trim() ? " " : "";
    const span = make("span", { class: SPECIAL.test(token) ? "t special" : "t", text: visible(token.slice(lead.length)) });
    span.dataset.i = i;
    return [lead, span];
  }));
  text.tabIndex = 0;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `Tokens of row ${row}, coloured by influence; the arrow keys read them one by one`);
  $(".tags", card).append(make("span", { class: "id scale" }));
  colour([card], query);
  for (const kind of ["mouseover", "click"]) {
    text.addEventListener(kind, (event) => { if (event.target.dataset.i) read(article, card, +event.target.dataset.i); });
  }
  text.addEventListener("focus", () => { if (text.matches(":focus-visible")) read(article, card, +(card.dataset.at ?? 0), true); });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (!step) return;
    event.preventDefault();
    read(article, card, +(card.dataset.at ?? 0) + step, true);
  });
  if (text.scrollHeight > text.clientHeight + 4) card.append(opener(card));
}

function opener(card, first) {
  const button = make("button", { type: "button", class: "more-text", "aria-expanded": "false", text: "Whole row" });
  button.addEventListener("click", () => {
    first?.();
    const isOpen = card.classList.toggle("open");
    button.setAttribute("aria-expanded", String(isOpen));
    button.textContent = isOpen ? "Less" : "Whole row";
  });
  return button;
}

function whole(card) {
  if (card.dataset.done) return;
  card.dataset.done = "1";
  const text = $(".text", card);
  const full = data.texts[card.dataset.row];
  if (full || text.scrollHeight > text.clientHeight + 4) {
    card.append(opener(card, () => { if (full) text.textContent = full; }));
  }
}

function colour(cards, query) {
  const { layer, own } = look(query);
  const all = cards.map((card) => values(data.maps[`${query}:${card.dataset.row}`], layer));
  const shared = !own && (layer === null ? data.clip[query] : limit(all.flat()));
  cards.forEach((card, i) => {
    const at = own ? limit(all[i]) : shared;
    paint($(".text", card), all[i], at);
    const note = $(".scale", card);
    note.textContent = `\u25e7\u2009${plain(at)}`;
    note.title = `full colour from ${plain(at)} nats per token on`;
  });
}

const layerName = (map, i) => `layer ${data.layers.length === map.n ? data.layers[i] : i}`;

function choosers(article) {
  const query = article.dataset.query;
  const map = data.maps[`${query}:${$(".card[data-map]", article)?.dataset.row}`];
  const layer = $(".layer", article);
  const scale = $(".scales", article);
  if (!layer) return;
  if (map?.l) for (let i = 0; i < map.n; i++) layer.append(make("option", { value: i, text: layerName(map, i) }));
  else layer.parentNode.hidden = true;
  for (const select of [layer, scale]) {
    select.addEventListener("change", () => {
      looks.set(query, { layer: layer.value === "" ? null : +layer.value, own: scale.value === "own" });
      colour($$(".card[data-done][data-map]", article), query);
    });
  }
}
