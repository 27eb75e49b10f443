// ---- the page ---------------------------------------------------------------------------------------------------

// the methods that share the best letter, for each kind of information and set of tasks
function best(group) {
  const found = new Map();
  for (const entry of group.entries.filter((one) => !missing(one.score))) {
    const key = JSON.stringify([entry.information, Object.keys(entry.scores).sort()]);
    found.set(key, [...(found.get(key) ?? []), entry]);
  }
  return [...found.values()].map(([first, ...others]) => ({
    information: first.information, of: others.length + 1, shared: [first, ...others.filter((one) => first.tier && one.tier.includes(first.tier[0]))],
  }));
}

const MOST = 3; // methods that a card lists

function card(group) {
  const runs = new Set(group.boards.flatMap((board) => board.lines.flatMap((line) => line.runs.map((run) => run[content.run.indexOf("run_key")]))));
  return h("a", { class: "card", href: elsewhere({ suite: group.name }), "data-suite": group.name },
    h("h3", {}, group.title), h("p", { class: "sub" }, `${plural(group.boards.length, "task")}, ${plural(group.entries.length, "method")}, ${plural(runs.size, "run")}`),
    best(group).map(({ information, of, shared }) => [
      h("p", { class: "label" }, `${of > 1 ? `Best of ${of}` : "Alone"}, given ${information}`),
      h("ol", {}, shared.slice(0, MOST).map((one) => h("li", {}, h("span", {}, named(one.method)), h("span", { class: "number" }, one.score < 0.0005 ? "< 0.001" : one.score.toFixed(3))))),
      shared.length > MOST && h("p", { class: "sub" }, `and ${shared.length - MOST} more, not told apart from the first`),
    ]));
}

function drawFront() {
  const methods = new Set(suites().flatMap((group) => group.boards.flatMap((board) => board.lines.filter((line) => line.role === "method").map((line) => line.method))));
  const boards = suites().reduce((sum, group) => sum + group.boards.length, 0);
  const many = suites().some((group) => group.entries.length);
  byId("sentence").textContent = `How near Wasserstein gradient flows and other samplers come to the truth: ${plural(methods.size, "method")} on ${plural(boards, "task")}, with the runs behind every number.`;
  byId("suites").hidden = !many;
  if (many) byId("cards").replaceChildren(...suites().map(card));
  const papers = Object.keys(content.papers).filter((key) => published().some((one) => one.paper === key));
  byId("papers").hidden = !papers.length;
  byId("papers-list").replaceChildren(...papers.map((key) => h("li", {}, h("a", { href: elsewhere({ paper: key }), "data-paper": key, title: content.papers[key] }, content.papers[key].split(":")[0]),
    h("span", { class: "sub" }, tally(key)))));
}

function markChosen(group) {
  for (const one of document.querySelectorAll("[data-suite]")) one.toggleAttribute("aria-current", !at.paper && one.dataset.suite === group.name);
  for (const one of document.querySelectorAll("[data-paper]")) one.toggleAttribute("aria-current", one.dataset.paper === at.paper);
}

let drawn = null; // the address of the view that is there, without its cell

function render() {
  readAddress();
  const group = groupShown();
  const board = boardShown(group);
  const lost = unknown();
  byId("notice").textContent = lost ? `This link names what this page does not have: ${lost}.` : "";
  const view = address({ cell: [] });
  if (view !== drawn) {
    const before = new URLSearchParams((drawn ?? "").slice(1));
    const same = drawn !== null && ["suite", "paper", "task"].every((name) => (before.get(name) ?? "") === at[name]);
    drawn = view;
    if (document.activeElement !== byId("search")) byId("search").value = at.q;
    markChosen(group);
    drawBoard(group, board);
    drawPlots(group, board);
    if (!same) {
      const task = at.paper ? "" : board?.task;
      readPlane(task);
      drawPlane();
      drawImages(task);
      drawCalibration(task);
    }
  }
  const found = at.cell.length ? cellShown() : null;
  if (found) drawCell(found);
  else if (byId("dialog").open) byId("dialog").close();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function paint(theme = document.documentElement.dataset.theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  drawPlots(groupShown(), boardShown(groupShown()));
  drawPlane();
}

function listen() {
  const on = (id, event, action) => byId(id).addEventListener(event, action);
  const value = (id) => byId(id).value;
  on("task", "change", () => go({ href: elsewhere({ suite: at.suite, task: value("task"), q: at.q }) }));
  on("metric", "change", () => go({ metric: value("metric"), sort: "" }));
  on("uses", "change", () => go({ uses: value("uses") }));
  on("search", "input", () => go({ q: value("search") }, true));
  on("cost-x", "change", () => go({ x: value("cost-x") }, true));
  on("curve-x", "change", () => go({ along: value("curve-x") }, true));
  for (const form of Object.keys(FORMS)) on(form, "click", () => exported(form));
  on("dialog", "close", () => { if (at.cell.length) go({ cell: [] }, true); });
  on("dialog", "click", (event) => { if (event.target === byId("dialog")) byId("dialog").close(); }); // beside it
  on("skip", "click", (event) => { event.preventDefault(); byId("board-table").focus(); });
  on("time", "input", drawPlane);
  on("paths", "change", drawPlane);
  on("theme", "click", () => paint(isDark() ? "light" : "dark"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint());
  addEventListener("hashchange", () => { // of a link on the page, or the way back
    const [suite, paper, task] = [at.suite, at.paper, at.task];
    render();
    if (suite !== at.suite || paper !== at.paper || task !== at.task) byId("board").scrollIntoView();
  });
  addEventListener("resize", drawPlane);
  let before = null; // paper is white
  addEventListener("beforeprint", () => { before = document.documentElement.dataset.theme ?? ""; paint("light"); });
  addEventListener("afterprint", () => { document.documentElement.dataset.theme = before; paint(); });
}

async function unzipped(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function start() {
  content = await unzipped(byId("content").textContent);
  listen();
  readAddress();
  drawFront();
  drawMachines();
  render();
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  performance.mark("ready");
  setTimeout(() => {  // it is large: the tables don't wait for it
    document.body.append(h("script", {}, byId("plotly").textContent));
    drawPlots(groupShown(), boardShown(groupShown()));
  });
}

start();
