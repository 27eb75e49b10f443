// ---- the board: of a suite's tasks together, of one task, or of a paper ------------------------------------------

const AXES = {
  total: "seconds, training and sampling", oracle: "oracle calls, sampling included", seconds: "training seconds",
  score_calls: "score calls in training", log_prob_calls: "log-density calls in training", draw_calls: "target draws in training",
  t: "flow time t", step: "step",
};
const EDGES = { exact: "draws from the truth", exact_jko: "exact JKO steps", still: "never moves" };
let shown = { columns: [], rows: [], title: "", cited: [] }; // what the table has, for files

const openCell = (task, method, metric) => () => go({ cell: [task, method, metric] });

function methodColumn() {
  return {
    id: "method", head: "method", words: true, key: (row) => row.method, text: (row) => row.method,
    node: (row) => h("span", { class: "who", title: says("method", row.method) }, mark(row.method),
      h("span", {}, named(row.method), row.role && EDGES[row.method] && [" ", h("span", { class: "sub" }, EDGES[row.method])])),
  };
}

function tierColumn(rows, tier) {
  const used = rows.some((row) => tier(row));
  return used ? [{
    id: "tier", head: "tier", sub: "same letter: not told apart", words: true, key: tier, text: (row) => tier(row) || "–",
    node: (row) => [...tier(row)].map((letter) => h("span", { class: letter === "a" ? "letter best" : "letter" }, letter)),
    title: "Paired t tests over seeds, Holm's correction, 5 %; among methods that use the same information",
  }] : [];
}

const costColumn = (id, head, sub, value) => ({ id, head, sub, key: value, text: (row) => number(value(row)) });

function costColumns(rows, total, calls) {
  return [
    costColumn("total", "seconds", "training and sampling", total),
    ...(rows.some((row) => calls(row) > 0) ? [costColumn("oracle", "calls", "of the target's oracles", calls)] : []),
  ];
}

function kept(rows) {
  const words = at.q.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => words.every((word) => row.search.toLowerCase().includes(word)) && (!at.uses || row.information === at.uses));
}

const usesTitle = (information) => (information && information !== "-" ? `Methods that use: ${information}` : "Methods that use nothing of the target");

function drawTable(title, cited, columns, rows, part, usual, about) {
  const some = sorted(columns, kept(rows));
  shown = { columns, rows: some, title, cited: cited(some) };
  byId("count").textContent = some.length === rows.length ? "" : `${some.length} of ${rows.length} rows`;
  const parts = [...new Set(rows.filter((row) => !row.edge).map(part))].filter((name) => some.some((row) => !row.edge && part(row) === name));
  table(columns, some, part, parts, usual, about);
}

// ---- of all tasks of a suite ----

function totalOf(group, entry, name) {
  const lines = group.boards.filter((board) => board.task in entry.scores).map((board) => board.lines.find((line) => line.method === entry.method));
  return lines.reduce((sum, line) => sum + (line?.costs[name] ?? 0), 0);
}

function suiteRows(group) {
  return group.entries.map((entry) => ({ ...entry, search: `${entry.method} ${entry.information}`, total: totalOf(group, entry, "total"), oracle: entry.calls }));
}

function drawSuite(group) {
  const rows = suiteRows(group);
  const least = Math.min(...rows.map((row) => row.score ?? 1));
  const same = new Set(group.boards.map((board) => board.headline)).size === 1;
  const tasks = group.boards.map((board) => ({
    id: board.task, head: board.task, key: (row) => row.scores[board.task] ?? null, title: says("task", board.task),
    text: (row) => row.scores[board.task]?.toFixed(2) ?? "–", tint: (row) => (board.task in row.scores ? 46 * (1 - row.scores[board.task]) : null),
    sub: h("a", { href: elsewhere({ suite: group.name, task: board.task }), "aria-label": `${same ? "open" : board.headline}: the board of ${board.task}` }, same ? "open" : named(board.headline)),
    node: (row, text) => {
      const cell = board.lines.find((line) => line.method === row.method)?.cells[board.headline];
      const label = `${row.method} on ${board.task}: score ${text}, where it comes from`;
      return cell ? h("button", { type: "button", "aria-label": label, onclick: openCell(board.task, row.method, board.headline) }, text) : text;
    },
  }));
  const columns = [
    methodColumn(), ...tierColumn(rows, (row) => row.tier),
    {
      id: "score", head: "score", sub: "0: as exact draws, 1: not moved", key: (row) => row.score, text: (row) => row.score?.toFixed(3) ?? "–",
      range: (row) => (missing(row.score) ? "" : `[${row.low.toFixed(2)}, ${row.high.toFixed(2)}]`), best: (row) => row.score === least,
      raw: (row) => ({ score: row.score, score_low: row.low, score_high: row.high }), title: "Mean over seeds and tasks [95 % interval over tasks]",
    },
    ...tasks, ...costColumns(rows, (row) => row.total, (row) => row.oracle),
    { id: "seeds", head: "seeds", key: (row) => row.seeds[0], text: (row) => [...new Set([row.seeds[0], row.seeds.at(-1)])].join("–"), raw: (row) => ({ seeds: row.seeds.join(" to ") }) },
    ...(rows.some((row) => row.failed) ? [{ id: "failed", head: "failed", sub: "runs; each counts as 1", key: (row) => row.failed, text: (row) => String(row.failed) }] : []),
  ];
  drawTable(`gwfbench ${group.name}`, (some) => [...group.boards.map((board) => ["task", board.task]), ...some.map((row) => ["method", row.method])],
    columns, rows, (row) => usesTitle(row.information), "score");
  note(["Choose a number to see the runs behind it.",
    `Below each task: the score by ${same ? group.boards[0].headline : "its headline metric"}, mean over seeds. The interval is over tasks. A method that has not run on all of its tasks has no score.`], []);
}

// ---- of one task ----

function valueColumn(board, metric, alone) {
  const values = board.lines.filter((line) => line.role === "method").map((line) => line.cells[metric]?.value).filter((value) => !missing(value));
  const best = board.better[metric] === "higher" ? Math.max(...values) : Math.min(...values);
  return {
    id: metric, head: metric, sub: `${board.better[metric]} is better`, down: board.better[metric] === "higher",
    title: `${says("metric", metric)} Median over seeds [95 % interval] (range of two seeds).`,
    key: (line) => line.cells[metric]?.value, text: (line) => typeset((line.cells[metric]?.shown.value ?? "-").replace(/^-$/, "–")),
    raw: (line) => {
      const { value, low, high, n } = line.cells[metric] ?? {};
      return { [metric]: value, [`${metric}_low`]: low, [`${metric}_high`]: high, [`${metric}_n`]: n };
    },
    best: (line) => line.role === "method" && line.cells[metric]?.value === best,
    range: alone && ((line) => typeset(line.cells[metric]?.shown.interval ?? "")),
    node: (line, text) => {
      const label = `${line.method}: ${metric} ${text}, where it comes from`;
      return h("button", { type: "button", "aria-label": label, onclick: openCell(board.task, line.method, metric) }, text);
    },
  };
}

const floorOf = (board, metric) => board.lines.find((line) => line.role === "floor" && !missing(line.cells[metric]?.value));

function againstFloor(board, line, metric) {
  const cell = line.cells[metric];
  if (cell?.verdict === "alarm") return "too good";
  if (missing(cell?.value) || line.role === "floor") return "–";
  if (cell.verdict === "floor") return "not told apart";
  const floor = floorOf(board, metric)?.cells[metric].value;
  return floor > 0 && board.better[metric] === "lower" ? `${number(cell.value / floor, 2)} ×` : "–";
}

function publishedColumn(board, metric) {
  const of = (line) => groupShown().published.filter((one) => one.task === board.task && one.method === line.method && one.metric === metric);
  return board.lines.some((line) => of(line).length) ? [{
    id: "published", head: "published", sub: "by a paper, and our verdict", words: true, key: (line) => of(line)[0]?.printed,
    text: (line) => of(line).map((one) => `${one.printed} ${one.word}`).join("; ") || "–",
  }] : [];
}

function taskRows(board) {
  return board.lines.map((line) => ({ ...line, edge: line.role === "floor" ? -1 : line.role === "control" ? 1 : 0, search: `${line.method} ${line.information}` }));
}

function drawTask(group, board) {
  const metric = metricShown(board);
  const rows = taskRows(board);
  const alone = metric !== "*";
  const checked = (line) => Object.entries(line.verified).map(([word, count]) => `${count} ${word}`).join(", ");
  const values = alone ? [
    ...tierColumn(rows, (line) => line.cells[metric]?.tier), valueColumn(board, metric, true),
    ...(rows.some((line) => againstFloor(board, line, metric) !== "–") ? [{
      id: "exact", head: "exact draws", sub: "times their value", key: (line) => line.cells[metric]?.value, words: true,
      text: (line) => againstFloor(board, line, metric), raw: (line) => ({ verdict: line.cells[metric]?.verdict }),
      node: (line, text) => (line.cells[metric]?.verdict === "alarm" ? h("span", { class: "bad", title: line.cells[metric].why }, text) : text),
    }] : []),
    ...publishedColumn(board, metric),
  ] : board.metrics.map((name) => valueColumn(board, name, false));
  const columns = [
    methodColumn(), ...values, ...costColumns(rows, (line) => line.costs.total, (line) => line.costs.oracle),
    { id: "seeds", head: "seeds", sub: "finished of all", words: true, key: (line) => line.seeds, text: (line) => line.seeds },
    ...(rows.some(checked) ? [{ id: "checked", head: "run again", words: true, key: checked, text: (line) => checked(line) || "–" }] : []),
  ];
  drawTable(["gwfbench", group.name, board.task, alone ? metric : ""].filter(Boolean).join(" "),
    (some) => [["task", board.task], ...some.map((line) => ["method", line.method])],
    columns, rows, (line) => usesTitle(line.information), alone ? (board.better[metric] === "higher" ? "-" : "") + metric : "");
  taskNote(board, alone ? metric : null);
}

function note(sentences, remarks) {
  byId("board-note").textContent = sentences.join(" ");
  byId("remarks").hidden = !remarks.length;
  byId("remarks-list").replaceChildren(...remarks.map((text) => h("li", {}, text)));
}

function taskNote(board, metric) {
  const lines = ["Choose a number to see the runs behind it.", "Values: median over seeds at the last law. Interval: 95 % of the median; of two seeds, their range. A failed seed counts as the worst value."];
  if (metric) lines.push(...board.power[metric]);
  const stale = board.lines.filter((line) => line.stale).length;
  if (stale) lines.push(`${plural(stale, "row")} of ${board.lines.length} would not come out the same today: the code has changed since. Choose a value to see which version made it.`);
  note(lines, board.remarks);
}

// ---- of a paper ----

const reproduced = (paper, table) => `python -m gwfbench reproduce ${paper}${table ? ` --only ${table.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "")}` : ""}`;

function drawPaper() {
  const rows = published().filter((one) => one.paper === at.paper)
    .map((one) => ({ ...one, information: one.word, lost: one.word === "not run", search: Object.values(one).join(" ") }));
  const about = (name) => rows.find((row) => row.table === name).about; // of its first number; other numbers say how they differ
  const words = (id, head, sub, more) => ({ id, head, sub, words: true, wrap: true, key: (row) => row[id], text: (row) => row[id] || "–", ...more });
  const columns = [
    words("what", "row, column", "", { node: (row, text) => {
      const more = [row.about === about(row.table) ? "" : row.about, row.remark].filter(Boolean).join(". ");
      return [text, more && h("details", { class: "sub" }, h("summary", {}, "remark"), more)];
    } }),
    words("printed", "published", "", { text: (row) => typeset(row.printed) }),
    words("ours", "ours", "median [95 %]", { text: (row) => typeset(row.ours || "–"), range: (row) => typeset(row.interval), node: (row, text) => h("button", {
      type: "button", "aria-label": `${row.what}: ours is ${text}, where it comes from`, onclick: openCell(row.task, row.method, row.metric) }, text) }),
    words("word", "verdict", "", { node: (row, text) => h("span", { class: `verdict ${row.word.replace(" ", "-")}` }, text, row.why && h("span", { class: "sub" }, row.why)),
      raw: (row) => ({ verdict: row.word, why: row.why }) }),
    words("within", "agrees within", "published values that would agree", { text: (row) => typeset(row.within || "–") }),
    words("setting", "settings"),
  ];
  const methods = [...new Set(rows.map((row) => row.method).filter(Boolean))];
  drawTable(`gwfbench ${at.paper}`, () => methods.map((method) => ["method", method]), columns, rows, (row) => row.table, "", about);
  note(["reproduced: the published value agrees with ours, at the paper's settings, with at least 3 seeds, and the band is narrow enough to tell.",
    "consistent: it agrees, but one of these does not hold. better, different, not reproduced: it does not agree."], []);
}

// ---- its head ----

function tally(key) {
  const counts = new Map();
  for (const one of published().filter((some) => some.paper === key)) counts.set(one.word, (counts.get(one.word) ?? 0) + 1);
  return ["reproduced", "consistent", "better", "not reproduced", "different", "not run"].filter((word) => counts.has(word)).map((word) => `${counts.get(word)} ${word}`).join(", ");
}

function drawHead(group, board) {
  const metric = board && metricShown(board);
  const paper = at.paper;
  byId("board-head").textContent = paper ? content.papers[paper] : group.title;
  for (const [id, off] of [["task", paper], ["metric", paper || !board]]) byId(id).parentNode.hidden = Boolean(off);
  byId("uses-head").textContent = paper ? "Verdict" : "Uses";
  const kinds = [...new Set(paper ? published().filter((one) => one.paper === paper).map((one) => one.word)
    : (board ? board.lines.filter((line) => line.role === "method") : group.entries).map((row) => row.information))];
  options(byId("uses"), [["", paper ? "any" : "anything"], ...kinds.map((text) => [text, text])], at.uses);
  byId("uses").parentNode.hidden = kinds.length < 2;
  if (paper) {
    byId("says").replaceChildren(h("p", {}, `Published numbers next to ours: ${tally(paper)}. To run what there is to run: `, h("code", {}, reproduced(paper))));
    return;
  }
  const names = group.boards.map((one) => [one.task, one.t === null ? one.task : `${one.task} at t = ${one.t}`]);
  options(byId("task"), group.entries.length ? [["", "all tasks"], ...names] : names, board?.task ?? "");
  if (board) options(byId("metric"), [...board.metrics.map((name) => [name, name]), ...(board.metrics.length > 1 ? [["*", "all, side by side"]] : [])], metric);
  const said = board ? [says("task", board.task), metric !== "*" && says("metric", metric) && `${metric}: ${says("metric", metric)}`]
    : [`${[plural(group.boards.length, "task"), plural(group.entries.length, "method"), ...group.facts].filter(Boolean).join(", ")}. To run it: `];
  byId("says").replaceChildren(...said.filter(Boolean).map((text) => h("p", {}, text, !board && h("code", {}, `python -m gwfbench run --suite ${group.name} --method NAME`))));
}

function drawBoard(group, board) {
  drawHead(group, board);
  if (at.paper) drawPaper();
  else if (board) drawTask(group, board);
  else drawSuite(group);
}
