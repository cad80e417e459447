// two queries side by side
const short = (query) => data.queries.find((one) => one.id === query)?.short ?? query;

function listed(query) {
  const article = articles.find((one) => one.dataset.query === query);
  const found = new Map();
  for (const card of $$(".ranking[data-ranking=nats] .card", article)) {
    found.set(card.dataset.row, { value: +$(".score data", card).value, text: textOf(card) });
  }
  return found;
}

const textOf = (card) => (data.tokens[card.dataset.row]?.join("") ?? $(".text", card).textContent).slice(0, 120);

function scoreOf(query, row, list) {
  const table = data.compare;
  const q = table ? table.queries.indexOf(query) : -1;
  const r = table ? table.rows.indexOf(row) : -1;
  if (list.has(row)) return list.get(row).value;
  return q >= 0 && r >= 0 ? table.scores[q][r] : null;
}

function compare() {
  const box = $("#compare");
  const other = $("#with")?.value;
  const one = current();
  box.hidden = !other || other === one;
  if (box.hidden) return;
  const lists = [listed(one), listed(other)];
  const rows = [...new Set([...lists[0].keys(), ...lists[1].keys()])].map((row) => ({
    row, text: (lists[0].get(row) ?? lists[1].get(row)).text, both: lists[0].has(row) && lists[1].has(row),
    of: [scoreOf(one, row, lists[0]), scoreOf(other, row, lists[1])],
  }));
  const most = [0, 1].map((i) => Math.max(...rows.map((line) => Math.abs(line.of[i] ?? 0))) || 1);
  rows.sort((a, b) => b.both - a.both || Math.abs(b.of[0] ?? 0) - Math.abs(a.of[0] ?? 0));
  const body = make("tbody");
  for (const line of rows.slice(0, 24)) {
    const text = make("td", { class: "left" + (line.both ? " both" : ""), dir: "auto", text: line.text || "(empty text)" });
    body.append(make("tr", {}, text, ...line.of.flatMap((value, i) => bar(value, most[i]))));
  }
  const head = make("thead", {}, make("tr", {}, make("th", { class: "left", text: "row (bold: listed for both)" }),
    make("th", { text: "first" }), make("th"), make("th", { text: "second" }), make("th")));
  box.replaceChildren(make("h3", { text: "Two queries compared, scores in nats" }),
    make("div", { class: "pair" }, make("p", { text: `First: ${short(one)}`, dir: "auto" }), make("p", { text: `Second: ${short(other)}`, dir: "auto" })),
    make("p", { class: "how", text: said(one, other, rows) }), make("div", { class: "scroll" }, make("table", {}, head, body)));
}

function said(one, other, rows) {
  const table = data.compare;
  const shared = `${rows.filter((line) => line.both).length} rows are listed for both. `;
  const at = table ? [one, other].map((query) => table.queries.indexOf(query)) : [-1, -1];
  if (Math.min(...at) < 0) return shared + "The scores of the other rows are not in this page.";
  return `${shared}Over all ${table.n} rows the two orders agree with Spearman's \u03c1 = ${number(table.rho[at[0]][at[1]])}. Bars are scaled per query.`;
}

function bar(value, most) {
  if (value === null) return [make("td", { text: "n/a" }), make("td")];
  const node = document.createElementNS(SVG, "svg");
  node.setAttribute("viewBox", "0 0 100 8");
  node.setAttribute("preserveAspectRatio", "none");
  node.setAttribute("aria-hidden", "true");
  const wide = Math.abs(value) / most * 50;
  node.append(rectangle(49.8, 0, 0.4, 8, "f-grey"), rectangle(value < 0 ? 50 - wide : 50, 0, wide, 8, value < 0 ? "f-lower" : "f-raise"));
  return [make("td", { text: number(value, 3) }), make("td", {}, node)];
}
