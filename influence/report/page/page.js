function build(article) {
  for (const card of $$(".card", article)) {
    if (card.offsetParent === null) continue; // not shown yet: built when it is
    if ("map" in card.dataset) heat(card, article);
    else whole(card);
  }
}

// choosing a query and an order
function order(name) {
  ranking = name;
  for (const article of articles) {
    const panels = $$(".ranking", article);
    const known = panels.some((panel) => panel.dataset.ranking === name);
    panels.forEach((panel, i) => { panel.hidden = known ? panel.dataset.ranking !== name : i > 0; });
    $$("[role=tab]", article).forEach((tab, i) => {
      const on = known ? tab.dataset.ranking === name : i === 0;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
    });
  }
  const article = articles.find((one) => !one.hidden);
  if (article) build(article);
}

function show(query, jump) {
  const article = articles.find((one) => one.dataset.query === query) || articles[0];
  if (!article) return;
  articles.forEach((one) => { one.hidden = one !== article; });
  $("#pick").value = article.dataset.query;
  build(article);
  compare();
  if (jump) $("#queries").scrollIntoView();
}

const current = () => articles.find((one) => !one.hidden)?.dataset.query;

const fromHash = () => (/^#query-(-?\d+)$/.exec(location.hash) || [])[1];

function start() {
  document.documentElement.classList.add("has-js");
  $$(".js").forEach((node) => { node.hidden = false; });
  $("#pick").addEventListener("change", (event) => {
    history.replaceState(null, "", `#query-${event.target.value}`);
    show(event.target.value);
  });
  $("#with")?.addEventListener("change", compare);
  const move = (step) => {
    const at = articles.findIndex((one) => !one.hidden);
    show(articles[(at + step + articles.length) % articles.length].dataset.query);
  };
  $("#previous").addEventListener("click", () => move(-1));
  $("#next").addEventListener("click", () => move(1));
  addEventListener("hashchange", () => { if (fromHash()) show(fromHash(), true); });
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) order(tab.dataset.ranking);
  });
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest?.("[role=tab]");
    if (!tab || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const tabs = $$("[role=tab]", tab.parentNode);
    const next = tabs[(tabs.indexOf(tab) + 1) % tabs.length];
    order(next.dataset.ranking);
    next.focus();
  });
  document.addEventListener("toggle", (event) => {
    const article = event.target.closest?.(".query");
    if (article) build(article);
  }, true);
  if (matchMedia("(max-width: 640px)").matches) $("#trust").open = false;
  articles.forEach((one, i) => { one.hidden = i > 0; choosers(one); });
  show(fromHash() ?? articles[0].dataset.query, Boolean(fromHash()));
  order(ranking);
}

if (articles.length) start();
