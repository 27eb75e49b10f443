// ---- where a number comes from ----------------------------------------------------------------------------------

const openDialog = (title, children) => {
  byId("dialog-head").textContent = title;
  byId("dialog-body").replaceChildren(...children);
  byId("dialog-body").scrollTop = 0;
  if (!byId("dialog").open) byId("dialog").showModal();
};

function plainTable(heads, rows, label) {
  const kind = heads.map((_, i) => (rows.some((row) => /^−?[\d.]+(e−?\d+)?$/.test(row[i])) && !rows.some((row) => /[a-z]{3}/.test(row[i])) ? "number" : "words"));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((name, i) => h("th", { scope: "col", class: kind[i] }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((text, i) => h("td", { class: kind[i] }, text)))))));
}

function environment(hash) {
  const known = content.environments[hash]?.facts ?? {};
  return facts([["hash", hash], ...Object.entries(known), ...(Object.keys(known).length ? [] : [["facts", "lost"]])]);
}

// what the number says, in a sentence or two
function verdictOf({ board, line, metric, cell }) {
  const floor = floorOf(board, metric);
  const said = [];
  if (cell.verdict === "floor") said.push("It is not told apart from exact draws.");
  if (cell.verdict === "alarm") said.push(`It is ${cell.why}: look for a leak.`);
  if (floor && line.role === "method") said.push(`Exact draws have ${typeset(floor.cells[metric].shown.value)}.`);
  const still = board.lines.find((one) => one.method === "still")?.cells[metric];
  if (still && line.role === "method") said.push(`Not moving has ${typeset(still.shown.value)}.`);
  if (cell.tier && !at.paper) said.push(`Tier ${cell.tier}: it is not told apart from methods that share a letter.`);
  return said.join(" ");
}

function seedsTable({ line, cell }, runs) {
  const own = new Map(cell.values.map(([seed, value, se]) => [seed, { value, se }]));
  const worst = new Map(cell.worst);
  return plainTable(["seed", "value", "standard error", "training s", "status", "run key", "attempt"], runs.map((run) => [
    String(run.seed), worst.has(run.seed) ? `worst: ${worst.get(run.seed)}` : number(own.get(run.seed)?.value, 6), number(own.get(run.seed)?.se, 2),
    number(run.seconds), run.reason ? `${run.status}: ${run.reason}` : run.status, run.run_key, run.attempt,
  ]), `Seeds of ${line.method}`);
}

function publishedFacts({ board, line, metric }) {
  const those = cellsFrom().published.filter((one) => one.task === board.task && one.method === line.method && one.metric === metric);
  return those.flatMap((one) => [h("h3", {}, "Published"), facts([
    ["number", `${content.papers[one.paper]}, ${one.table}: ${one.what}`], ["published", typeset(one.printed)], ["ours, as the paper has it", typeset(`${one.ours} ${one.interval}`)],
    ["agrees within", typeset(one.within)], ["verdict", one.why ? `${one.word} (${one.why})` : one.word], ["what was measured", one.about], ["remark", one.remark],
    ["to run this table", h("code", {}, reproduced(one.paper, one.table))],
  ])]);
}

function drawCell(found) {
  const { board, line, metric, cell } = found;
  const runs = line.runs.map((run) => Object.fromEntries(content.run.map((name, i) => [name, run[i]])));
  const counts = (pairs) => pairs.map(([word, count]) => `${count} ${word}`).join(", ");
  const each = (name) => [...new Set(runs.map((run) => run[name]))].filter((value) => value !== "").join(", ");
  const environments = [...new Set(runs.map((run) => run.env))];
  const commits = environments.map((hash) => content.environments[hash]?.facts.commit).filter(Boolean);
  const command = h("pre", { id: "command" }, line.command);
  const button = h("button", { type: "button", id: "copy", onclick: () => copy(line.command, button, command) }, "Copy command");
  const link = h("code", { id: "link" }, location.href);
  const linked = h("button", { type: "button", id: "copy-link", onclick: () => copy(location.href, linked, link) }, "Copy link to this cell");
  openDialog(`${line.method} on ${board.task}`, [
    h("p", { class: "value" }, h("span", {}, typeset(cell.shown.value)), h("span", { class: "range" }, ` ${typeset(cell.shown.interval)} `), h("span", { class: "sub" }, `${metric}, ${board.better[metric]} is better`)),
    h("p", {}, verdictOf(found)), h("p", { class: "bar" }, linked, button),
    ...publishedFacts(found),
    h("h3", {}, "Run it again"), command,
    h("h3", {}, "Runs"), seedsTable(found, runs),
    h("h3", {}, "What it is"),
    facts([
      [line.method.replace(/[:@ ].*$/s, ""), says("method", line.method)], [board.task.replace(/:.*$/s, ""), says("task", board.task)], [metric, says("metric", metric)],
    ]),
    h("h3", {}, "Settings"),
    facts([
      ["method", line.spec], ["judged at", `${number(cell.n, 7)} points${board.t === null ? ", the last law" : `, t = ${board.t}`}`],
      ["seeds", line.seeds], ["device", each("device")], ["precision", each("dtype")], ["budget", each("budget") || cellsFrom().facts.slice(1).join()],
      ["seeds trained together", each("batch")], ["information", line.information], ["commit", commits.join(", ")],
      ["source of the metric", `version ${board.sources[metric].version}, ${board.sources[metric].code}`], ["source of task and method", each("code")],
      ["today's code", line.stale && `would not give these rows: ${line.stale}`], ["run again", counts(Object.entries(line.verified))],
      ["values left out", counts(Object.entries(cell.left))],
    ]),
    ...environments.map((hash) => h("details", {}, h("summary", {}, `Machine ${hash}`), environment(hash))),
    h("p", { class: "sub" }, "Link: ", link),
  ]);
}
