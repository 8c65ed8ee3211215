// The list of all runs: sorted, filtered, a page at a time.

const PAGE = 50;
const RUN_COLUMNS = [
  { key: "name", label: "Run", of: (run) => run.name },
  { key: "task", label: "Task", of: (run) => run.task },
  { key: "backbone", label: "Backbone", of: backboneName },
  { key: "result", label: "Result", number: true, first: -1, of: (run) => headline(run).value, text: (run) => {
    const { name, value, unit } = headline(run);
    return [brief(value), make("small", {}, ` ${unit?.unit ?? ""} ${name}`)];
  } },
  { key: "seed", label: "Seed", number: true, of: (run) => run.seed, text: (run) => [String(run.seed)] },
  { key: "epochs", label: "Epochs", number: true, of: (run) => run.epochs, text: (run) => [shown(run.epochs)] },
  { key: "departures", label: "Departures", number: true, of: (run) => shared(run, "departures").length },
  { key: "seconds", label: "Time", number: true, of: (run) => run.seconds, text: (run) => [duration(run.seconds)] },
  { key: "finished", label: "Finished", first: -1, of: (run) => run.finished, text: (run) => [time(run.finished)] },
];

const runList = {
  sort: { key: "finished", direction: -1 },
  words: [],
  task: "",
  page: 0,

  start() {
    this.task = "";
    const tasks = [...new Set(RUNS.map((run) => run.task))].sort(COLLATOR.compare);
    const input = make("input", { type: "search", autocomplete: "off", spellcheck: "false", input: settled(() => {
      this.words = wordsOf(input.value);
      say(count(this.update(), "run"));
    }) });
    const select = make("select", { change: () => {
      this.task = select.value;
      say(count(this.update(), "run"));
    } }, make("option", { value: "" }, "all"), ...tasks.map((task) => make("option", { value: task }, task)));
    this.number = make("span", { class: "count" });
    this.head = make("thead");
    this.body = make("tbody");
    this.pager = make("nav", { class: "pager", "aria-label": "Pages of runs" });
    const grid = make("table", { class: "runs", "aria-labelledby": "runs-title" }, this.head, this.body);
    grid.addEventListener("click", (event) => this.pressed(event));
    byId("run-list").append(
      make("div", { class: "tools" }, make("label", { class: "grow" }, "Filter runs ", input), make("label", {}, "Task ", select), this.number),
      make("div", { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": "runs-title" }, grid), this.pager);
    tellsProvenance(document, "button.run", (button) => aboutRun(RUN_BY_NAME.get(button.dataset.run)));
    this.update();
  },

  get rows() {
    const found = RUNS.filter((run) => (!this.task || run.task === this.task)
      && (!filters.size || (shared(run, "backbone")?.size ?? "?") === filters.size)
      && holds(runText(run), filters.words) && holds(runText(run), this.words));
    if (!this.sort) return found;
    const { of } = RUN_COLUMNS.find((column) => column.key === this.sort.key);
    const values = new Map(found.map((run) => [run, of(run)]));
    return found.sort((a, b) => compare(values.get(a), values.get(b), this.sort.direction));
  },

  /** Show the first page of what fits, or the one asked for; tells how many runs fit. */
  update(page = 0) {
    const rows = this.rows;
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    this.page = Math.max(0, Math.min(page, pages - 1));
    const start = this.page * PAGE;
    const kept = rows.slice(start, start + PAGE);
    this.head.replaceChildren(make("tr", {}, ...RUN_COLUMNS.map((column) => headCell(column.key, column.label, this.sort, { class: column.number ? "number" : null }))));
    this.body.replaceChildren(...kept.map((run) => this.row(run)));
    if (!kept.length) this.body.append(make("tr", {}, make("td", { colspan: RUN_COLUMNS.length, class: "empty" }, "No run fits the filters.")));
    this.number.textContent = rows.length === RUNS.length ? count(RUNS.length, "run") : `${rows.length} of ${count(RUNS.length, "run")}`;
    const turn = (label, to) => make("button", { type: "button", disabled: to < 0 || to >= pages || to === this.page, click: () => {
      this.update(to);
      const again = [...this.pager.querySelectorAll("button:enabled")];
      (again.find((button) => button.textContent === label) ?? again[0])?.focus();
      say(`Page ${this.page + 1} of ${pages}.`);
    } }, label);
    this.pager.replaceChildren(...(pages === 1 ? [] : [turn("First", 0), turn("Previous", this.page - 1),
      make("span", {}, `${(start + 1).toLocaleString("en")} to ${(start + kept.length).toLocaleString("en")} of ${rows.length.toLocaleString("en")}`),
      turn("Next", this.page + 1), turn("Last", pages - 1)]));
    return rows.length;
  },

  row(run) {
    return make("tr", {}, ...RUN_COLUMNS.map((column, i) => {
      if (i === 0) {
        return make("th", { scope: "row" }, make("button", { type: "button", class: "link run", "data-run": run.name, "aria-haspopup": "dialog", "aria-expanded": "false" }, run.name));
      }
      const content = column.text ? column.text(run) : [String(column.of(run) ?? "")];
      return make("td", { class: column.number ? "number" : null }, ...(content[0] === "" ? [DASH] : content));
    }));
  },

  pressed(event) {
    const button = event.target.closest("button.sort");
    if (!button) return;
    const { key } = button.dataset;
    const column = RUN_COLUMNS.find((one) => one.key === key);
    this.sort = nextSort(this.sort, key, column.first ?? 1);
    saySort(this.sort, column.label, this.update());
    this.head.querySelector(`[data-key="${key}"]`).focus();
  },
};
