// Tables: sorted by any column, filtered together and each alone, with columns that come and go.

const MOST_ROWS = 100;
const filters = { words: [], whose: "", size: "" };

// ---------------------------------------------------------------- heads that sort, for tables and the list of runs

/** The order after a press on a column: `first`, then the other way, then as it was. */
function nextSort(sort, key, first) {
  if (sort?.key !== key) return { key, direction: first };
  return sort.direction === first ? { key, direction: -first } : null;
}

function sortedAs(sort, key) {
  if (sort?.key !== key) return null;
  return sort.direction === 1 ? "ascending" : "descending";
}

function headCell(key, label, sort, extra = {}, ...after) {
  return make("th", { scope: "col", "aria-sort": sortedAs(sort, key), ...extra },
    make("button", { type: "button", class: "sort", "data-key": key }, label), ...after);
}

function saySort(sort, label, rows) {
  const order = sort ? `sorted by ${label}, ${sort.direction === 1 ? "ascending" : "descending"}` : "in its own order";
  say(`${count(rows, "row")}, ${order}.`);
}

// ---------------------------------------------------------------- one table

class TableView {
  constructor(table, level) {
    this.table = table;
    this.sort = null;
    this.words = [];
    this.hidden = new Set();
    this.most = MOST_ROWS;
    this.drawn = false;
    this.ours = table.rows.filter((row) => row.ours).length;
    this.sized = table.columns.some((column) => column.size);
    this.texts = table.rows.map((row) => [row.label, row.group ?? "", ...Object.values(row.facts),
      ...Object.values(row.cells).flatMap((cell) => cell.runs)].join("\n").toLowerCase());
    this.found = make("span", { class: "found" });
    const title = make(level, { id: `${this.id}-title` }, table.title);
    this.content = make("div", { class: "content" });
    this.root = make("details", { class: "table", id: this.id, toggle: () => this.root.open && this.draw() },
      make("summary", {}, title, this.found), this.content);
  }

  get id() {
    return `table-${this.table.id}`;
  }

  // ------------------------------------------------ what is shown

  get columns() {
    return this.table.columns.filter((column) => !this.hidden.has(`cell:${column.key}`) && this.rightSize(column));
  }

  get facts() {
    return this.table.facts.filter((fact) => !this.hidden.has(`fact:${fact.key}`));
  }

  /** In a table whose columns are sizes, the choice of a size is one of columns. */
  rightSize(column) {
    if (!this.sized || !filters.size) return true;
    return filters.size === "?" ? !column.size : column.size === filters.size;
  }

  matches(row, place) {
    if (filters.whose && (filters.whose === "ours") !== row.ours) return false;
    if (filters.size && this.sized && !this.table.columns.some((column) => this.rightSize(column))) return false;
    if (filters.size && !this.sized && (row.size ?? "?") !== filters.size) return false;
    return holds(this.texts[place], filters.words) && holds(this.texts[place], this.words);
  }

  valueOf(row, key) {
    if (key === "label") return row.label;
    const name = key.slice(5);
    if (key.startsWith("fact:")) return row.facts[name];
    const cell = row.cells[name];
    return cell === undefined ? undefined : cell.value ?? cell.text;
  }

  get rows() {
    const places = [...this.table.rows.keys()].filter((place) => this.matches(this.table.rows[place], place));
    if (!this.sort) return places;
    const { key, direction } = this.sort;
    const values = this.table.rows.map((row) => this.valueOf(row, key));
    return places.sort((a, b) => compare(values[a], values[b], direction) || a - b);
  }

  // ------------------------------------------------ drawing

  draw() {
    if (this.drawn) return;
    this.drawn = true;
    const { table, id } = this;
    this.head = make("thead");
    this.body = make("tbody");
    this.number = make("span", { class: "count" });
    this.more = make("button", { type: "button", hidden: true, click: () => { this.most = Infinity; this.update(); } });
    const input = make("input", { type: "search", placeholder: "filter rows", autocomplete: "off", spellcheck: "false", input: settled(() => {
      this.words = wordsOf(input.value);
      this.update();
      say(this.number.textContent);
    }) });
    const grid = make("table", { "aria-labelledby": `${id}-title` }, this.head, this.body);
    grid.addEventListener("click", (event) => this.pressed(event));
    grid.addEventListener("keydown", (event) => this.moved(event));
    tellsProvenance(this.body, "button.cell", (button) => {
      const row = table.rows[button.dataset.row];
      const column = table.columns.find((one) => one.key === button.dataset.column);
      return aboutCell(table, row, column, row.cells[column.key]);
    });
    this.scroll = make("div", { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": `${id}-title` }, grid);
    this.content.append(
      table.caption ? make("p", { class: "caption" }, table.caption, table.paper ? make("span", { class: "paper" }, ` ${table.paper}`) : "") : "",
      make("div", { class: "tools" }, make("label", {}, make("span", { class: "unseen" }, "Filter rows of this table"), input), this.columnMenu(), this.number),
      this.scroll, this.more, this.notes());
    this.update(true);
  }

  columnMenu() {
    const choice = (key, label) => make("label", { class: "check" },
      make("input", { type: "checkbox", checked: true, change: (event) => {
        this.hidden[event.target.checked ? "delete" : "add"](key);
        this.update();
      } }), ` ${label}`);
    return make("details", { class: "menu" }, make("summary", {}, "Columns"), make("div", {},
      ...this.table.facts.map((fact) => choice(`fact:${fact.key}`, fact.label)),
      ...this.table.columns.map((column) => choice(`cell:${column.key}`, column.group ? `${column.group}: ${column.label}` : column.label))));
  }

  notes() {
    const { table, id } = this;
    const notes = table.footnotes.map((text, i) => make("li", { id: `${id}-note-${i + 1}`, tabindex: "-1" }, text));
    const sentences = [table.spread, table.sampling, table.ranking, ...table.remarks].filter(Boolean);
    return make("div", { class: "notes" },
      notes.length ? make("ol", { class: "footnotes", "aria-label": "Footnotes" }, ...notes) : "",
      ...sentences.map((text) => make("p", {}, text)));
  }

  marks(numbers) {
    if (!numbers.length) return "";
    const links = numbers.flatMap((number, i) => [i ? "," : "",
      make("a", { href: `#${this.id}-note-${number}`, "aria-label": `footnote ${number}`, title: this.table.footnotes[number - 1] }, String(number))]);
    return make("sup", {}, ...links.filter(Boolean));
  }

  /** Find the rows that fit and draw them; tells how many. `soon`: at leisure, where the table is out of sight. */
  update(soon = false) {
    const places = this.rows;
    const all = this.table.rows.length;
    const filtered = filters.words.length || filters.whose || filters.size;
    this.root.hidden = Boolean(filtered) && !places.length;
    this.found.textContent = filtered ? `${places.length} of ${count(all, "row")}` : this.ours ? `${count(this.ours, "row")} of ours` : count(all, "row");
    if (this.drawn) this.number.textContent = places.length === all ? count(all, "row") : `${places.length} of ${count(all, "row")}`;
    if (this.drawn && !this.root.hidden) {
      if (soon && !this.inSight) drawSoon(this);
      else this.drawRows(places);
    }
    return places.length;
  }

  drawRows(places) {
    waiting.delete(this);
    this.drawHead();
    const kept = places.slice(0, this.most);
    this.body.replaceChildren(...this.bodyRows(kept));
    this.body.querySelector("button.cell")?.setAttribute("tabindex", "0");
    this.scroll.classList.toggle("tall", kept.length > 30);
    this.more.hidden = kept.length === places.length;
    this.more.textContent = `Show all ${count(places.length, "row")}`;
  }

  get inSight() {
    const box = this.root.getBoundingClientRect();
    return this.root.open && box.bottom > -innerHeight && box.top < 2 * innerHeight;
  }

  drawHead() {
    const { table, columns, facts, sort } = this;
    const names = make("tr", {},
      headCell("label", table.row_label, sort),
      ...facts.map((fact) => headCell(`fact:${fact.key}`, fact.label, sort)),
      ...columns.map((column) => headCell(`cell:${column.key}`,
        column.unit && column.unit !== "%" ? `${column.label} (${column.unit})` : column.label, sort, { class: "number" }, this.marks(column.marks))));
    this.head.replaceChildren(...(columns.some((column) => column.group) ? [this.groupHead()] : []), names);
  }

  groupHead() {
    const spans = [];
    for (const column of this.columns) {
      if (spans.length && spans.at(-1).name === column.group) spans.at(-1).columns += 1;
      else spans.push({ name: column.group, columns: 1 });
    }
    return make("tr", { class: "over" }, make("td", { colspan: 1 + this.facts.length }),
      ...spans.map(({ name, columns }) => (name ? make("th", { scope: "colgroup", colspan: columns }, name) : make("td", { colspan: columns }))));
  }

  bodyRows(places) {
    const width = 1 + this.facts.length + this.columns.length;
    if (!places.length) return [make("tr", {}, make("td", { colspan: width, class: "empty" }, "No row fits the filters."))];
    const drawn = [];
    let before = null;
    for (const place of places) {
      const row = this.table.rows[place];
      if (!this.sort && row.group && row.group !== before?.group) {
        drawn.push(make("tr", { class: "group" }, make("th", { scope: "rowgroup", colspan: width }, make("span", {}, row.group))));
      }
      drawn.push(this.bodyRow(row, place, !this.sort && before !== null && row.ours && !before.ours));
      before = row;
    }
    return drawn;
  }

  bodyRow(row, place, first) {
    const kind = [row.ours ? "ours" : "", first ? "first" : ""].join(" ").trim();
    return make("tr", { class: kind || null },
      make("th", { scope: "row" }, row.label, this.marks(row.marks)),
      ...this.facts.map((fact) => make("td", {}, row.facts[fact.key] ?? DASH)),
      ...this.columns.map((column) => this.bodyCell(row, place, column)));
  }

  bodyCell(row, place, column) {
    const cell = row.cells[column.key];
    if (cell === undefined) return make("td", { class: "number" }, DASH);
    const text = cell.rank === 1 ? make("strong", {}, cell.text) : cell.rank === 2 ? make("u", {}, cell.text) : cell.text;
    return make("td", { class: cell.value === null ? "words" : "number" },
      make("button", { type: "button", class: "cell", tabindex: "-1", "aria-haspopup": "dialog", "aria-expanded": "false", "data-row": place, "data-column": column.key },
        text, cell.n > 1 ? make("small", {}, ` n=${cell.n}`) : ""),
      this.marks(cell.marks));
  }

  // ------------------------------------------------ answering

  pressed(event) {
    const button = event.target.closest("button.sort");
    if (!button) return;
    const { key } = button.dataset;
    const column = this.table.columns.find((one) => `cell:${one.key}` === key);
    const numbers = column && this.table.rows.some((row) => typeof row.cells[column.key]?.value === "number");
    this.sort = nextSort(this.sort, key, numbers && column.better !== "lower" ? -1 : 1);
    saySort(this.sort, button.textContent, this.update());
    this.head.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  }

  /** Arrow keys go from number to number; one of them alone is a stop of the tab key. */
  moved(event) {
    const at = event.target.closest("button.cell");
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!at || !steps[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [down, right] = steps[event.key];
    let row = at.closest("tr");
    let place = at.closest("td").cellIndex;
    let next = null;
    while (row && !next) {
      if (down) row = down > 0 ? row.nextElementSibling : row.previousElementSibling;
      place += right;
      if (!row || place < 0 || place >= row.cells.length) return;
      next = row.cells[place]?.querySelector("button.cell");
    }
    if (!next) return;
    at.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

// ---------------------------------------------------------------- all of them

const views = [];
// Tables that are out of sight and drawn one by one when there is nothing else to do.
const waiting = new Set();

function drawSoon(view) {
  if (!waiting.size) atLeisure();
  waiting.add(view);
}

function atLeisure() {
  (window.requestIdleCallback ?? setTimeout)(() => {
    const [view] = waiting;
    if (!view) return;
    waiting.delete(view);
    view.drawRows(view.rows);
    if (waiting.size) atLeisure();
  });
}

function startTables() {
  const ours = DATA.tables.filter((table) => table.rows.some((row) => row.ours));
  const others = DATA.tables.filter((table) => !ours.includes(table));
  for (const [tables, host, level] of [[ours, "our-tables", "h3"], [others, "other-tables", "h4"]]) {
    for (const table of tables) {
      const view = new TableView(table, level);
      views.push(view);
      byId(host).append(view.root);
      view.update();
      view.root.open = host === "our-tables";
    }
  }
  if (!ours.length) byId("our-tables").append(make("p", { class: "notice" }, "No table has a run of ours in it yet."));
  byId("other-tables-title").textContent = `${count(others.length, "table")} without runs of ours`;
  byId("other-tables-box").hidden = !others.length;
  const form = byId("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", settled(applyFilters));
  addEventListener("beforeprint", () => [...waiting].forEach((view) => view.drawRows(view.rows)));
  form.addEventListener("reset", () => setTimeout(applyFilters));
}

function applyFilters() {
  filters.words = wordsOf(byId("filter").value);
  filters.whose = document.querySelector("input[name=whose]:checked").value;
  filters.size = byId("size").value;
  let rows = 0;
  let tables = 0;
  for (const view of views) {
    const found = view.update(true);
    rows += found;
    tables += found > 0;
  }
  const others = byId("other-tables-box");
  const there = views.some((view) => !view.root.hidden && others.contains(view.root));
  others.hidden = !there;
  if (filters.words.length && there) others.open = true;
  const runs = runList.update();
  say(`${count(rows, "row")} in ${count(tables, "table")}, ${count(runs, "run")}.`);
}
