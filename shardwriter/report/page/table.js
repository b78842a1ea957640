// The table of episodes: sorted, filtered, and shown a page at a time, however long it is.

const ROWS_PER_PAGE = 50;
const COMPARE = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};

/** Return the name by which a column is known in the filter. */
function queryKey(column) {
  return column.key.replace(/^own:/, "").toLowerCase().replace(/\s+/g, "_");
}

/** Return a function that tells of a row whether it fits all words of a query. */
function queryFilter(columns, text) {
  const known = new Map(columns.map((column) => [queryKey(column), column]));
  const searched = columns.filter((column) => column.kind !== "number" && column.kind !== "time");
  const tests = text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const [, key, sign, bound] = /^(.+?)(<=|>=|!=|<|>|=)(.*)$/.exec(word) || [];
    const column = known.get(key);
    if (!column) {
      const id = columns[0].values;
      return (row) => String(id[row]) === word
        || searched.some((each) => String(each.values[row] ?? "").toLowerCase().includes(word));
    }
    const compare = COMPARE[sign];
    if (column.kind === "number" || column.kind === "time") {
      const number = Number(bound);
      return (row) => column.values[row] !== null && compare(column.values[row], number);
    }
    return (row) => compare(String(column.values[row] ?? "").toLowerCase(), bound);
  });
  return (row) => tests.every((test) => test(row));
}

/** Return rows in the order of a column, those without a value last. */
function sortedRows(rows, column, descending) {
  const { kind, values } = column;
  const sign = descending ? -1 : 1;
  const collator = new Intl.Collator("en", { numeric: true });
  const none = (value) => value === null || value === "";
  return rows.sort((a, b) => {
    const [x, y] = [values[a], values[b]];
    if (none(x) || none(y)) return none(x) - none(y) || a - b;
    const order = kind === "number" || kind === "time" ? x - y : collator.compare(x, y);
    return sign * order || a - b;
  });
}

class EpisodeTable {
  constructor(columns, drawn, look) {
    Object.assign(this, { columns, look, page: 0, sort: columns[0], descending: false, marked: null });
    this.drawn = new Set(drawn);
    this.rows = [...columns[0].values.keys()];
    this.addHead();
    this.addFilter();
    byId("page-first").addEventListener("click", () => this.show(0));
    byId("page-back").addEventListener("click", () => this.show(this.page - 1));
    byId("page-next").addEventListener("click", () => this.show(this.page + 1));
    byId("page-last").addEventListener("click", () => this.show(Infinity));
    this.refresh();
  }

  addHead() {
    const cells = this.columns.map((column) => make(
      "th", { scope: "col", class: column.kind },
      make("button", { type: "button", onclick: () => this.sortBy(column) }, column.heading),
    ));
    if (this.drawn.size) cells.splice(1, 0, make("th", { scope: "col" }, "closer"));
    this.heads = new Map(this.columns.map((column, i) => [column, cells[i && this.drawn.size ? i + 1 : i]]));
    byId("table").tHead.append(make("tr", {}, ...cells));
  }

  addFilter() {
    const statuses = this.columns.find((column) => column.key === "status").values;
    for (const status of STATUSES.filter((each) => statuses.includes(each))) {
      byId("status").append(make("option", { value: status }, status));
    }
    byId("keys").textContent = this.columns.map(queryKey).join("  ");
    byId("filter").addEventListener("submit", (event) => event.preventDefault());
    byId("filter").addEventListener("input", () => { this.marked = null; this.refresh(); });
  }

  sortBy(column) {
    this.descending = this.sort === column && !this.descending;
    this.sort = column;
    this.refresh();
  }

  refresh() {
    const fits = queryFilter(this.columns, byId("query").value);
    const status = byId("status").value;
    const statuses = this.columns.find((column) => column.key === "status").values;
    const all = [...this.columns[0].values.keys()];
    const found = all.filter((row) => (!status || statuses[row] === status) && fits(row));
    this.rows = sortedRows(found, this.sort, this.descending);
    for (const [column, head] of this.heads) {
      if (column === this.sort) head.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    const listed = all.length < REPORT.episodes.count
      ? `${plain(all.length)} listed of ${plain(REPORT.episodes.count)}: all that are not completed (at `
        + "most as many), and an even choice of the rest"
      : plain(all.length);
    byId("found").textContent = `${plain(found.length)} of ${listed}`;
    this.show(0);
  }

  show(page) {
    const last = Math.max(0, Math.ceil(this.rows.length / ROWS_PER_PAGE) - 1);
    this.page = Math.min(Math.max(0, page), last);
    const first = this.page * ROWS_PER_PAGE;
    const shown = this.rows.slice(first, first + ROWS_PER_PAGE);
    byId("table").tBodies[0].replaceChildren(...shown.map((row) => this.line(row)));
    byId("page-now").textContent = `page ${this.page + 1} of ${last + 1}`;
    byId("page-first").disabled = byId("page-back").disabled = this.page === 0;
    byId("page-last").disabled = byId("page-next").disabled = this.page === last;
    byId("pages").hidden = last === 0;
  }

  line(row) {
    const cells = this.columns.map((column, i) => {
      const value = column.values[row];
      const isNumber = column.kind === "number";
      const text = isNumber ? plain(value) : column.kind === "time" ? clockTime(value) : value ?? "";
      const long = column.kind === "text" && String(text).length > 24;
      const kind = column.kind === "whole" ? "number" : column.kind;
      return i === 0
        ? make("th", { scope: "row", class: "number" }, String(value))
        : make("td", { class: long ? "long" : kind }, text);
    });
    const id = this.columns[0].values[row];
    if (this.drawn.size) {
      const look = { type: "button", "aria-label": `Look at episode ${id}`, onclick: () => this.look(id) };
      cells.splice(1, 0, make("td", {}, ...(this.drawn.has(id) ? [make("button", look, "look")] : [])));
    }
    return make("tr", { class: id === this.marked ? "found" : null }, ...cells);
  }

  /** Show the page with an episode, marked; the filter is taken off. */
  find(id) {
    byId("query").value = byId("status").value = "";
    this.marked = id;
    this.refresh();
    this.show(Math.floor(this.rows.findIndex((row) => this.columns[0].values[row] === id) / ROWS_PER_PAGE));
    byId("table").querySelector("tr.found").scrollIntoView({ block: "center" });
  }
}
