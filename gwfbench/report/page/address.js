// ---- what is shown stands in the address, behind the #: a reload, a link and the way back give the same view -----

const ONE = ["suite", "paper", "task", "metric", "uses", "q", "sort", "x", "along"]; // one value each; empty: the usual
const MANY = ["hide", "cell"]; // methods that plots hide; task, method and metric of the open cell
let content = null;
let at = {};

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  at = Object.fromEntries([...ONE.map((name) => [name, given.get(name) ?? ""]), ...MANY.map((name) => [name, given.getAll(name)])]);
}

function address(changes) {
  const next = { ...at, ...changes };
  const given = new URLSearchParams();
  for (const name of ONE) if (next[name]) given.set(name, next[name]);
  for (const name of MANY) for (const value of next[name]) given.append(name, value);
  return `#${given}`;
}

// another suite, task or paper is another board: what was chosen on the last one does not hold for it
const FRESH = { metric: "", uses: "", sort: "", x: "", along: "", hide: [], cell: [] };
const elsewhere = (changes) => address({ ...FRESH, suite: "", paper: "", task: "", q: "", ...changes });

function go(changes, stay = false) {
  history[stay ? "replaceState" : "pushState"](null, "", changes.href ?? address(changes));
  render();
}

const ofPapers = () => content.groups.find((group) => group.name === "papers");
const suites = () => content.groups.filter((group) => group.name !== "papers");
const groupShown = () => suites().find((group) => group.name === at.suite) ?? suites()[0];
// null: the board of all tasks
const boardShown = (group) => group.boards.find((board) => board.task === at.task) ?? (group.entries.length ? null : group.boards[0]);
const metricShown = (board) => (board.metrics.includes(at.metric) || at.metric === "*" ? at.metric : board.headline);

// where the numbers of papers and the cells behind them are
const published = () => (ofPapers() ? [ofPapers()] : suites()).flatMap((group) => group.published);
const cellsFrom = () => (at.paper && ofPapers() ? ofPapers() : groupShown());

// what the address names and the page does not have, in words
function unknown() {
  const group = groupShown();
  const board = group.boards.find((one) => one.task === at.task);
  if (at.suite && group.name !== at.suite) return `suite ${at.suite}`;
  if (at.paper && !content.papers[at.paper]) return `paper ${at.paper}`;
  if (at.task && !board) return `task ${at.task}`;
  if (at.metric && at.metric !== "*" && board && !board.metrics.includes(at.metric)) return `metric ${at.metric}`;
  if (at.cell.length && !cellShown()) return `cell ${at.cell.join(", ")}`;
  return "";
}

function cellShown() {
  const [task, method, metric] = at.cell;
  const board = cellsFrom().boards.find((one) => one.task === task);
  const line = board?.lines.find((one) => one.method === method);
  return line?.cells[metric] ? { board, line, metric, cell: line.cells[metric] } : null;
}
