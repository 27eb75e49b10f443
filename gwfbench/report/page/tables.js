// ---- tables, and the same as files ------------------------------------------------------------------------------

// A column: {id, head, sub, words, wrap, title, down, key(row) to sort by, text(row), and where they are needed node(row, text)
// around the text, range(row) beside it, tint(row), raw(row): named values for a CSV}. Rows with an `edge` of -1 or 1
// stay at the top or the bottom; `part(row)` names the part of the table that a row stands in.

function sorted(columns, rows) {
  const [id, down] = [at.sort.replace(/^-/, ""), at.sort.startsWith("-")];
  const by = columns.find((column) => column.id === id);
  const inside = rows.filter((row) => !row.edge);
  if (by) {
    inside.sort((one, other) => {
      const [a, b] = [by.key(one), by.key(other)];
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return (down ? -1 : 1) * (typeof a === "string" ? a.localeCompare(b) : a - b);
    });
  }
  return [...rows.filter((row) => row.edge < 0), ...inside, ...rows.filter((row) => row.edge > 0)];
}

function table(columns, rows, part, parts, usual = "", about = () => "") {
  const on = (column) => (at.sort || usual).replace(/^-/, "") === column.id;
  const down = (at.sort || usual).startsWith("-");
  const click = (column) => {
    go({ sort: (on(column) ? !down : Boolean(column.down)) ? `-${column.id}` : column.id });
    document.querySelector(`#board-table [data-column="${CSS.escape(column.id)}"]`)?.focus();
  };
  const head = h("tr", {}, columns.map((column) => h("th", {
    scope: "col", class: column.words && "words", colspan: column.range && 2, "aria-sort": on(column) && (down ? "descending" : "ascending"),
  }, h("button", { type: "button", onclick: () => click(column), title: column.title, "data-column": column.id }, named(column.head)),
  column.sub && h("span", { class: "sub" }, column.sub))));
  const texts = columns.map((column) => (column.words ? rows.map(column.text) : aligned(rows.map(column.text))));
  const width = columns.reduce((sum, column) => sum + (column.range ? 2 : 1), 0);
  const line = (row) => h("tr", { class: row.edge ? "aside" : row.lost && "lost" }, columns.flatMap((column, c) => {
    const text = texts[c][rows.indexOf(row)];
    const bare = text.trimEnd();
    const node = column.node && bare !== "–" ? [column.node(row, bare), text.slice(bare.length)] : text;
    const tint = column.tint?.(row);
    const value = h(c ? "td" : "th", { scope: c ? null : "row", class: column.words ? (column.wrap ? "words wrap" : "words") : "number", style: !missing(tint) && `--tint: ${tint}%` }, node);
    return column.range ? [value, h("td", { class: "range" }, column.range(row))] : [value];
  }));
  const title = (name) => h("tr", { class: "part" }, h("th", { colspan: width, scope: "colgroup" }, name, about(name) && h("span", { class: "sub" }, about(name))));
  const body = [
    ...rows.filter((row) => row.edge < 0).map(line),
    ...parts.flatMap((name) => [...(parts.length > 1 ? [title(name)] : []), ...rows.filter((row) => !row.edge && part(row) === name).map(line)]),
    ...rows.filter((row) => row.edge > 0).map(line),
  ];
  byId("board-table").replaceChildren(h("table", {}, h("thead", {}, head), h("tbody", {}, body)));
}

// a cell of a CSV that no spreadsheet takes for a formula
function csvCell(value) {
  if (missing(value)) return "";
  const text = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function toCsv({ columns, rows }) {
  const values = rows.map((row) => Object.assign({}, ...columns.map((column) => column.raw?.(row) ?? { [column.id]: column.key(row) })));
  const names = [...new Set(values.flatMap(Object.keys))];
  return [names, ...values.map((value) => names.map((name) => value[name]))].map((cells) => cells.map(csvCell).join(",")).join("\n") + "\n";
}

const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}" };
const MATHS = { "×": "$\\times$", "–": "--", "≤": "$\\le$" };

function latexCell(text) {
  return text.replace(/[\u2007\u2008]/g, "").replace(/[\\{}$&%#_~^<>]/g, (char) => LATEX[char] ?? `\\${char}`)
    .replace(/[×–≤]/g, (char) => MATHS[char])
    .replace(/−?\d+(\.\d+)?(e−?\d+)?/g, (value) => {
      const [digits, power] = value.replaceAll("−", "-").split("e");
      return power ? `$${digits} \\cdot 10^{${power}}$` : digits.startsWith("-") ? `$${digits}$` : digits;
    });
}

function toLatex({ columns, rows, title }) {
  const line = (cells) => `${cells.join(" & ")} \\\\`;
  const heads = columns.map((column) => latexCell(column.head));
  const body = rows.map((row) => line(columns.map((column) => {
    const text = latexCell([column.text(row), column.range?.(row)].filter(Boolean).join(" "));
    return column.best?.(row) ? `\\textbf{${text}}` : text;
  })));
  return [
    `% ${latexCell(title)}`, "% \\usepackage{booktabs}", `\\begin{tabular}{${columns.map((column) => (column.words ? "l" : "r")).join("")}}`,
    "\\toprule", line(heads), "\\midrule", ...body, "\\bottomrule", "\\end{tabular}", "",
  ].join("\n");
}

// what to cite for the tasks and methods of a board, each once
function toBibtex({ cited }) {
  const entries = cited.flatMap(([kind, name]) => content.about.cites[`${kind} ${name.replace(/[:@ ].*$/s, "")}`] ?? []);
  const known = new Map(entries.map((entry) => [entry.split(",")[0], entry]));
  return known.size ? `${[...known.values()].join("\n\n")}\n` : "% nothing on this board names a source\n";
}

const FORMS = { csv: ["CSV", toCsv, "text/csv"], tex: ["LaTeX", toLatex, "text/plain"], bib: ["BibTeX", toBibtex, "text/plain"] };

function exported(form) {
  const [name, make, type] = FORMS[form];
  const text = make(shown);
  const place = h("pre", { id: "text" }, text);
  const file = `${shown.title.replace(/[^\w.-]+/g, "-")}.${form}`;
  const source = URL.createObjectURL(new Blob([text], { type }));
  const button = h("button", { type: "button", id: "copy", onclick: () => copy(text, button, place) }, "Copy");
  openDialog(`${name}: ${shown.title}`, [h("p", { class: "bar" }, button, h("a", { class: "button", href: source, download: file }, `Save ${file}`)), place]);
}
